"""Storage of compiled libraries: only complete files are loaded, and files of a killed compiler are removed.

The name of a library ends with the hash of its bytes, so that an incomplete file, which would crash the process, is
detected.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

SCRATCH = ".compiling-"  # prefix of the temporary folders of the compiler
ABANDONED = 600.0  # seconds after which such a folder is taken to be abandoned; the compiler may take two minutes


def load_or_compile(name: str, folder: Path, compile: Callable[[Path], None]) -> ctypes.CDLL:
    """The library of that name from `folder` or the user's cache; it is compiled and stored there if it is missing.

    Args:
        name: identifies the source and the target of the compilation.
        folder: in the checkout; if it is read-only, the user's cache is used.
        compile: writes the library to a file in a temporary folder.

    Raises:
        OSError: if it cannot be loaded anywhere.
    """
    places = [folder, *user_cache()]
    for place in places:
        _remove_abandoned(place)
        if loaded := _load(name, place):
            return loaded
    for place in places:
        with suppress(OSError):  # read-only, or mounted without permission to execute
            place.mkdir(exist_ok=True)
            return _compile_into(name, place, compile)
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as scratch:  # for this process only
        library = Path(scratch) / f"{name}.so"
        compile(library)
        return ctypes.CDLL(str(library))


def user_cache() -> Iterator[Path]:
    """The cache folder of the user, if it exists or can be created and nobody else can write to it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(RuntimeError):  # no home
        folder = (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "srs-dpconv"
        if _is_private(folder):
            yield folder


def _is_private(folder: Path) -> bool:
    """Whether the folder belongs to the user alone, after creating it if needed; links are rejected."""
    try:
        if not folder.is_symlink() and not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _load(name: str, place: Path) -> ctypes.CDLL | None:
    """A complete library of that name; None if there is none. Damaged files are removed."""
    with suppress(OSError):
        for path in sorted(place.glob(f"{name}-*.so")):
            if path == _named(name, path):
                with suppress(OSError):
                    return ctypes.CDLL(str(path))
            with suppress(OSError):
                path.unlink()
    return None


def _named(name: str, library: Path) -> Path:
    """The path of `library` with the name that contains the hash of its bytes."""
    return library.with_name(f"{name}-{hashlib.sha256(library.read_bytes()).hexdigest()[:32]}.so")


def _compile_into(name: str, place: Path, compile: Callable[[Path], None]) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(dir=place, prefix=SCRATCH) as scratch:
        library = Path(scratch) / f"{name}.so"
        compile(library)
        with library.open("rb+") as file:
            os.fsync(file.fileno())
        path = place / _named(name, library).name
        library.replace(path)
    return ctypes.CDLL(str(path))


def _remove_abandoned(place: Path) -> None:
    """Removes temporary folders of killed compilers."""
    with suppress(OSError):
        for scratch in place.glob(f"{SCRATCH}*"):
            if time.time() - scratch.stat().st_mtime > ABANDONED:
                shutil.rmtree(scratch)
