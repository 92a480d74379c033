"""Folder locks, so that one process at a time writes into a folder: its file .lock stays locked by the writer.

The system releases a lock when its process ends for any reason. The file .lock itself stays, which means nothing.
"""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

from utils.common.errors import UserError
from utils.common.files import LEFT_BEHIND, writing
from utils.common.processes import is_writer, say

PATIENCE = 60.0  # seconds to wait for a process that is stopping and saving
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # of file systems without locks


@contextmanager
def hold(folder: Path, advice: str = "Or choose another --output_dir") -> Iterator[int | None]:
    """Creates and locks a folder; a second process waits for `PATIENCE` seconds and then gets an error.

    In a multi-process job the writer holds the lock. Unfinished files of killed processes are removed. Yields the
    descriptor of the lock (None without one); a command that inherits it shares the lock. On a file system without
    locks a warning is printed once and nothing is locked.

    Raises:
        UserError: if another process has locked the folder, or it cannot be written; the message ends with `advice`.
    """
    if not is_writer():
        yield None
        return
    path = folder / ".lock"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii", errors="replace")
    with file:
        if not _lock(file, folder, advice):
            yield None
            return
        try:
            _remove_left_behind(folder)
            yield file.fileno()
        finally:
            _unlock(file)


def _lock(file: IO[str], folder: Path, advice: str) -> bool:
    """Locks the file; False on a system without locks."""
    try:
        import fcntl
    except ImportError:
        _without_locks(folder, "this system has no file locks")
        return False
    since = None
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if since is None:
                since = time.monotonic()
                say(f"waiting for another process that writes to {folder} ...")
            if time.monotonic() - since > PATIENCE:
                raise UserError(
                    f"another process writes to {folder} ({_holder(file)}). Wait until it ends, or stop it, and run "
                    f"this command again. {advice}"
                ) from error
            time.sleep(0.2)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UserError(f"cannot lock {folder / '.lock'}: {error.strerror}") from error
            _without_locks(folder, error.strerror)
            return False
    with writing(folder / ".lock"):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
    return True


def _unlock(file: IO[str]) -> None:
    """Unlocks explicitly: data-loading workers share the descriptor and may end later than the script."""
    import fcntl

    fcntl.flock(file, fcntl.LOCK_UN)


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(200).strip() or "unknown"


@lru_cache
def _without_locks(folder: Path, cause: str) -> None:
    say(f"warning: {folder} cannot be locked ({cause}). Make sure that no other process writes to it")


def _remove_left_behind(folder: Path) -> None:
    """Removes unfinished files. With the lock held, they can only be those of killed processes."""
    for path in folder.glob(LEFT_BEHIND):
        path.unlink(missing_ok=True)
