"""The files of one evaluation stand or fall together.

They are written whole into a hidden folder inside the evaluation's, which is then renamed to `.new`: that one step
makes them the evaluation's results, all at once. Only then does each of them replace its old namesake. A writer that is
interrupted before this step leaves the old results. One that is interrupted after it leaves `.new`: readers look into
it first, and the next writer puts it into place. summary.json holds the SHA-256 of the other files, so that a reader
notices files of two evaluations however they came together.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from utils.common.errors import UserError
from utils.common.files import sha256, writing

SUMMARY = "summary.json"
HASHES = "files"  # the key of the summary
_NEW = ".new"
_UNFINISHED = ".writing-"
_ABANDONED = 3600  # seconds after which an unfinished folder is a killed writer's
_TRIES = 5  # of a reader that meets a writer

Read = TypeVar("Read")


@contextmanager
def written_together(folder: Path, summary: dict[str, Any]) -> Iterator[Path]:
    """Gives a folder to write an evaluation's files to; adds their hashes to `summary` and writes it beside them.

    Raises:
        UserError: if something cannot be written; the results of before stay.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _put_into_place(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as scratch:
            whole = Path(scratch) / "whole"
            whole.mkdir()
            yield whole
            summary[HASHES] = {path.name: sha256(path) for path in sorted(whole.iterdir())}
            (whole / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
            for path in whole.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            whole.rename(folder / _NEW)
        _put_into_place(folder)


def read_together(folder: Path, read: Callable[[Callable[[str], Path]], Read]) -> Read:
    """What `read` returns, after the files were found to belong together; it is given a function from name to path.

    Evaluations of before their hashes were recorded are read as they are.

    Raises:
        UserError: if a file is not the one that summary.json was written with.
        OSError, ValueError: of reading.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            before = _where(folder, SUMMARY).read_bytes()
            result = read(lambda name: _where(folder, name))
            wrong = _foreign(folder, before)
            if not wrong and _where(folder, SUMMARY).read_bytes() == before:
                return result
        except FileNotFoundError:
            if attempt == _TRIES:
                raise
        time.sleep(0.05)  # a writer may be putting its files into place
    files = " and ".join([*wrong, SUMMARY])
    raise UserError(f"{folder}: {files} are of two evaluations. Run evaluation.py again")


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json.

    Raises:
        UserError, OSError, ValueError: see `read_together`.
    """
    return read_together(folder, lambda where: json.loads(where(SUMMARY).read_text(encoding="utf-8")))


def holds_evaluation(folder: Path) -> bool:
    """Whether there are results in the folder."""
    return _where(folder, "per_image.csv").is_file()


def _foreign(folder: Path, summary: bytes) -> list[str]:
    """The files that are not those which the summary was written with; one that was taken away is no other one."""
    content = json.loads(summary)
    hashes = content.get(HASHES) if isinstance(content, dict) else None
    if not isinstance(hashes, dict):
        return []
    paths = {name: _where(folder, Path(name).name) for name in hashes}
    return [name for name, path in paths.items() if path.is_file() and sha256(path) != hashes[name]]


def _where(folder: Path, name: str) -> Path:
    """A file of the newest results: in `.new` as long as it is not in its place."""
    waiting = folder / _NEW / name
    return waiting if waiting.is_file() else folder / name


def _put_into_place(folder: Path) -> None:
    """Moves what waits in `.new`, summary.json last, and removes what killed writers have left."""
    new = folder / _NEW
    waiting = sorted(new.iterdir(), key=lambda path: path.name == SUMMARY) if new.is_dir() else []
    for path in waiting:
        path.replace(folder / path.name)
    if new.is_dir():
        new.rmdir()
    for left in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
