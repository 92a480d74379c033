"""Atomic writing of files and folders."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.common.errors import UserError

LEFT_BEHIND = ".*.writing"  # unfinished files of killed processes


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an operating system error of a write (disk full, read-only, no such folder) into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Existing files are unchanged") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` to write to, and then moves the file into place: it is never incomplete.

    The name is unique: if two processes write `path` at once, the complete file of the last one remains. The file is
    flushed to the disk before it replaces the old one, so that a power failure leaves one of the two.

    Raises:
        UserError: if it cannot be written; an existing file stays unchanged.
    """
    # Shortened, since file names are limited to 255 bytes.
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
    """Yields a hidden folder beside `out` to fill, and then moves it into place: `out` is never incomplete.

    Raises:
        UserError: if `out` exists (it stays unchanged) or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} already exists and is not overwritten: remove it first, or choose another folder")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # On the same disk as `out`, so that the move is atomic.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            whole = Path(scratch) / out.name
            whole.mkdir()
            yield whole
            whole.rename(out)


def sha256(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
