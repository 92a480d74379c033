"""Checkpoints: written whole or not at all, read with weights_only=True."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.common.errors import UserError
from utils.common.files import replacing
from utils.networks.check_state import (
    checkpoint_problem,
    content_problem,
    file_problem,
    is_count,
    tensor_problem,
    unwrapped,
)

FORMAT = 1
# Settings that came later, with what runs before them did.
EARLIER = {"augment_order": "after_resize", "mask_interpolation": "nearest", "white_level": None}


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Saves a dict of tensors, numbers, strings and containers of these.

    Raises:
        UserError: if it cannot be written; the file that was there stays.
    """
    # By way of memory: torch's own writer reports a full disk as a RuntimeError about zip files.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    with replacing(path) as beside:
        beside.write_bytes(buffer.getbuffer())


def load_state(path: Path, what: str) -> dict[str, Any]:
    """The dict in a .pth file, on the CPU; its tensors are plain ones.

    Raises:
        UserError: if the file is missing or is not such a file; `what` says what was expected.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; expected {what}")
    try:
        problem = file_problem(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats, which the file of a stranger may name as it likes
            content = None if problem else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged or foreign file
        problem = _cause(error)
    if problem:
        raise UserError(f"{path} is not {what}, or is damaged: {problem}{_what_to_do(path)}")
    if not isinstance(content, dict):
        raise UserError(f"{path} is not {what}: it holds a {type(content).__name__}")
    if problem := content_problem(content):
        raise UserError(f"{path} is not {what}: {problem}")
    return unwrapped(content)


def load_settings(path: Path, phase: str) -> dict[str, Any]:
    """The settings of a checkpoint, for a script whose own settings depend on them. Raises as `load_checkpoint` does.

    The content is kept for the next `load_checkpoint` of that file, so that it is read once.
    """
    version = _version(path)
    content = load_checkpoint(path, phase)
    _kept.clear()
    _kept[version] = content
    return dict(content["settings"])


_kept: dict[tuple[Any, ...], dict[str, Any]] = {}  # at most one content, by the version of its file


def _version(path: Path) -> tuple[Any, ...]:
    """What changes when a file is written anew."""
    if not path.is_file():
        return (path,)
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def load_checkpoint(path: Path, phase: str) -> dict[str, Any]:
    """A checkpoint of ours, as `utils.training.engine` writes it, of the given phase ("recon" or "seg").

    Its settings are complete: those that came after it have the value that fits what it was trained with.

    Raises:
        UserError: if it is missing, damaged, something else, or of another phase.
    """
    content = _kept.pop(_version(path), None) or load_state(path, f"a checkpoint of {phase}")
    return checked(content, path, phase)


def checked(content: dict[str, Any], path: Path, phase: str) -> dict[str, Any]:
    """What `load_checkpoint` returns, of the content of a file. Raises as it does."""
    kinds = {"phase": str, "model": dict, "settings": dict}
    if content.get("format") != FORMAT or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise UserError(
            f"{path} is not a checkpoint of this project (its keys: {', '.join(map(str, list(content)[:5]))})"
        )
    if content["phase"] != phase:
        raise UserError(f"{path} is a checkpoint of {content['phase']}, expected one of {phase}")
    if problem := checkpoint_problem(content):
        raise UserError(f"{path} does not fit: {problem}")
    content["model"] = unwrapped(content["model"])
    earlier = EARLIER | ({"watch": "iou"} if phase == "seg" else {})
    content["settings"] = {**earlier, **content["settings"]}
    return content


def fill(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Loads a state dict, after it was checked whole: a state that does not fit changes nothing.

    Raises:
        UserError: names the entries (up to 5) that are missing, unexpected, of another shape or type, or not finite.
    """
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in state]
    # A name from elsewhere may hold anything; escaped, it stays on one line.
    others = [str(name).encode("unicode_escape").decode() for name in state if name not in expected]
    problems += [f"unexpected {name}" for name in others]
    problems += [
        f"{name} {wrong}"
        for name in expected
        if name in state and (wrong := tensor_problem(state[name], expected[name]))
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{path} does not fit the network: {'; '.join(problems[:5])}{more}")
    model.load_state_dict(state)


def explain(load: Callable[[], Any], path: Path) -> Any:
    """Runs `load`; an error of content that does not fit becomes one line about `path`."""
    try:
        return load()
    except (
        ArithmeticError,
        AttributeError,
        ImportError,
        LookupError,
        TypeError,
        RuntimeError,
        ValueError,
    ) as error:
        raise UserError(f"{path} does not fit: {_first_line(error)[:1000]}") from error


def _cause(error: Exception) -> str:
    """What torch says of a file, without its advice to load it with weights_only=False."""
    line = _first_line(error)
    if "weights" in line.lower():
        return "it is not a file of torch.save, or holds objects other than tensors and plain values"
    return line[:300]


def _what_to_do(last: Path) -> str:
    """Of a run whose last.pth is damaged: which checkpoint is whole, and how to continue; nothing for other files."""
    if last.name != "last.pth":
        return ""
    numbered = sorted(last.parent.glob("epoch*.pth"), reverse=True)
    for path in (last.with_name("best.pth"), *numbered):
        try:
            epoch = load_state(path, "a checkpoint").get("epoch")
        except UserError:
            continue
        of_epoch = f" (epoch {epoch})" if is_count(epoch) else ""
        return f". {path} is whole{of_epoch}: delete {last.name}, and start again from it with --init_from {path}"
    return f". No other checkpoint in {last.parent} is whole: delete {last.name}, and start again"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
