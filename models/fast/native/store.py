"""Where compiled libraries are kept: whole files alone are loaded, and what a killed compiler leaves is removed.

A library's name ends in the hash of its bytes. Half a file, which would end the process when it is used, has another.
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

SCRATCH = ".compiling-"  # begins the name of a folder in which a compiler works
ABANDONED = 600.0  # seconds after which such a folder is a killed one's; a compiler has two minutes


def load_or_compile(name: str, folder: Path, compile: Callable[[Path], None]) -> ctypes.CDLL:
    """The library of that name, out of `folder` or the user's cache; compiled, and kept there, if neither has it whole.

    Args:
        name: says from what and for what it was compiled.
        folder: in the checkout; the user's cache serves where that cannot be written to.
        compile: writes the library into a file. Its folder is there for a while.

    Raises:
        OSError: if it cannot be loaded anywhere.
    """
    places = [folder, *user_cache()]
    for place in places:
        _remove_abandoned(place)
        if loaded := _load(name, place):
            return loaded
    for place in places:
        with suppress(OSError):  # it cannot be written to, or programs there cannot be run
            place.mkdir(exist_ok=True)
            return _compile_into(name, place, compile)
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as scratch:  # nothing can be kept: this process alone has it
        library = Path(scratch) / f"{name}.so"
        compile(library)
        return ctypes.CDLL(str(library))


def user_cache() -> Iterator[Path]:
    """The user's folder for what can be made again, if there is one that nobody else can write to."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(RuntimeError):  # no home
        folder = (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "srs-dpconv"
        if _is_private(folder):
            yield folder


def _is_private(folder: Path) -> bool:
    """Whether it is the user's alone, or can be made so; a link is not."""
    try:
        if not folder.is_symlink() and not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _load(name: str, place: Path) -> ctypes.CDLL | None:
    """A whole library of that name that loads; None if there is none. What is broken is removed."""
    with suppress(OSError):
        for path in sorted(place.glob(f"{name}-*.so")):
            if path == _named(name, path):
                with suppress(OSError):
                    return ctypes.CDLL(str(path))
            with suppress(OSError):
                path.unlink()
    return None


def _named(name: str, library: Path) -> Path:
    """The name, in the folder of `library`, that the bytes of `library` deserve."""
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
    """What a killed compiler has left."""
    with suppress(OSError):
        for scratch in place.glob(f"{SCRATCH}*"):
            if time.time() - scratch.stat().st_mtime > ABANDONED:
                shutil.rmtree(scratch)
