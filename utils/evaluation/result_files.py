"""Atomic replacement of all files of an evaluation.

The files are written to a hidden folder inside the folder of the evaluation, which is then renamed to `.new`. This step
makes them the current results. Afterwards each file replaces its old version. A writer that is interrupted before the
renaming leaves the old results; one that is interrupted after it leaves `.new`, which readers prefer and which the next
writer moves into place. summary.json contains the SHA-256 of the other files, so that readers detect files of different
evaluations.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from datasets.load import list_path
from utils.common.errors import UserError
from utils.common.files import sha256, writing

SUMMARY = "summary.json"
HASHES = "files"  # the key of the hashes in the summary
_NEW = ".new"
_UNFINISHED = ".writing-"
_ABANDONED = 3600  # seconds after which an unfinished folder is taken to be from a killed writer
WEIGHTS = ("weights", "seg_weights", "recon_weights")
_TRIES = 5  # attempts to read while a writer is active

Read = TypeVar("Read")


@contextmanager
def written_together(folder: Path, summary: dict[str, Any]) -> Iterator[Path]:
    """Yields a folder to write the files of an evaluation to; then adds their hashes to `summary` and writes it too.

    Raises:
        UserError: if a file cannot be written; existing results stay unchanged.
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
    """The result of `read`, after checking that the files belong together; `read` gets a function from name to path.

    Evaluations without recorded hashes are read without this check.

    Raises:
        UserError: if a file does not belong to summary.json.
        OSError, ValueError: from reading.
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
        time.sleep(0.05)  # a writer may be moving its files into place
    files = " and ".join([*wrong, SUMMARY])
    raise UserError(f"{folder}: {files} belong to different evaluations. Run evaluation.py again")


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json.

    Raises:
        UserError, OSError, ValueError: see `read_together`.
    """
    return read_together(folder, lambda where: json.loads(where(SUMMARY).read_text(encoding="utf-8")))


def refuse_other_results(folder: Path, settings: argparse.Namespace) -> None:
    """Checks that a folder does not contain the results of other weights, lists or data, which would be lost.

    Files are the same if their path or their content is; of data, the names and sizes. The run that the folder belongs
    to may have new weights.

    Args:
        settings: of evaluation.py.

    Raises:
        UserError: with the weights, list or data folder of the existing results.
    """
    from utils.settings.provenance import file_hashes, list_hashes, weight_hashes  # here: it imports torch

    try:
        before = read_summary(folder)
        recorded, came_from = before["settings"], before["provenance"]
        hashes = {**came_from.get("weights", {}), **came_from.get("lists", {})}
        hashes["base_dir"] = came_from.get("files", {}).get("evaluated")
        paths = {name: _path(recorded, name) for name in (*WEIGHTS, "val_file_dir", "base_dir")}
    except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # there is nothing, or nothing that can be read
    weights = Path(settings.weights or settings.seg_weights).resolve()
    of_this_run = weights.parent.parent == folder.resolve().parent.parent  # OUTPUT_DIR/seg and OUTPUT_DIR/evaluation
    for name in (*(() if of_this_run else WEIGHTS), "val_file_dir", "base_dir"):
        if paths[name] == _path(vars(settings), name):
            continue
        data = file_hashes(settings.base_dir, {"base_dir": settings.val_file_dir}, settings.mask_suffix)
        if hashes.get(name) != {**weight_hashes(settings), **list_hashes(settings), **data}.get(name):
            raise UserError(
                f"{folder} contains the results of {_named(recorded, name)}, which those of "
                f"{_named(vars(settings), name)} would replace: pass another --output_dir, or move that folder away"
            )


def _named(settings: Mapping[str, Any], name: str) -> str | None:
    """The list or the data folder, or the weights, of whichever kind."""
    return settings.get("weights") or settings.get("seg_weights") if name in WEIGHTS else settings.get(name)


def _path(settings: Mapping[str, Any], name: str) -> Path | None:
    """The file or folder of a setting."""
    file = settings.get(name)
    if file is None:
        return None
    return (list_path(Path(settings["base_dir"]), file) if name == "val_file_dir" else Path(file)).resolve()


def holds_evaluation(folder: Path) -> bool:
    """Whether the folder contains results."""
    return _where(folder, "per_image.csv").is_file()


def holds_code_test(folder: Path) -> bool:
    """Whether the results are those of a test of --code."""
    return _where(folder, "per_image-own.csv").is_file()


def _foreign(folder: Path, summary: bytes) -> list[str]:
    """The files whose hashes differ from those in the summary; missing files are ignored."""
    content = json.loads(summary)
    hashes = content.get(HASHES) if isinstance(content, dict) else None
    if not isinstance(hashes, dict):
        return []
    paths = {name: _where(folder, Path(name).name) for name in hashes}
    return [name for name, path in paths.items() if path.is_file() and sha256(path) != hashes[name]]


def _where(folder: Path, name: str) -> Path:
    """The path of a file of the newest results: in `.new` until it is moved into place."""
    waiting = folder / _NEW / name
    return waiting if waiting.is_file() else folder / name


def _put_into_place(folder: Path) -> None:
    """Moves the files in `.new` into place, summary.json last, and removes unfinished folders of killed writers."""
    new = folder / _NEW
    waiting = sorted(new.iterdir(), key=lambda path: path.name == SUMMARY) if new.is_dir() else []
    for path in waiting:
        path.replace(folder / path.name)
    if new.is_dir():
        new.rmdir()
    for left in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
