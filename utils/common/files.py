"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.common.errors import UserError

LEFT_BEHIND = ".*.writing"  # files that a killed process did not finish


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a write (disk full, read-only, no such folder) into a UserError about `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. What was there before is untouched"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to, and moves it into place if all went well: never half a file.

    No other process or thread has that name: of two that write `path` at once the last one's whole file stays.

    The file is on the disk before it takes the old one's place, so that not even a power cut leaves half of it.

    Raises:
        UserError: if it cannot be written; what was there stays.
    """
    # Shortened: a file's name has 255 bytes at most.
    beside = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.writing")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def making_folder(out: Path) -> Iterator[Path]:
    """Gives a hidden folder beside `out` to fill, and moves it into place if all went well: never half a folder.

    Raises:
        UserError: if `out` is there already, which is left as it is, or if it cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} is there already and is not overwritten: remove it first, or name another folder")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`, hence on its disk: the move is one step.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            whole = Path(scratch) / out.name
            whole.mkdir()
            yield whole
            whole.rename(out)


def sha256(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
