"""One process at a time writes into a folder: the file .lock in it, locked for as long as its holder works.

The system lets go of a lock when its holder ends, however it ends: the file itself says nothing and stays.
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

PATIENCE = 60.0  # seconds to wait for a process that was told to end, and is saving
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # of file systems without them


@contextmanager
def hold(folder: Path, advice: str = "--output_dir starts elsewhere") -> Iterator[int | None]:
    """Holds a folder, which is made, for this process: a second holder waits, and is refused after `PATIENCE`.

    Of a job of several processes the writer holds it. What a killed holder has left of unfinished files is removed.
    A command that is started with the descriptor open (given; None without a lock) holds the folder, too. Where the
    system has no such locks, that is said once and nothing is held.

    Raises:
        UserError: if another process holds the folder, or if it cannot be written to; `advice` ends the message.
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
    """Locks the file; False where there are no locks."""
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
                say(f"waiting for another process to leave {folder} ...")
            if time.monotonic() - since > PATIENCE:
                raise UserError(
                    f"another process works in {folder} ({_holder(file)}): wait for its end, or end it, and start "
                    f"again. {advice}"
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
    """Data-loading workers have the descriptor, too, and may end later than their loader."""
    import fcntl

    fcntl.flock(file, fcntl.LOCK_UN)


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(200).strip() or "unknown"


@lru_cache
def _without_locks(folder: Path, cause: str) -> None:
    say(f"warning: {folder} cannot be locked ({cause}): make sure that no other process writes there")


def _remove_left_behind(folder: Path) -> None:
    """Nobody else writes here now: unfinished files are those of processes that were killed."""
    for path in folder.glob(LEFT_BEHIND):
        path.unlink(missing_ok=True)
