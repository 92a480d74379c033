"""Checkpoints: written atomically, read with weights_only=True."""

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
# Settings that were introduced later, with the values that fit older runs.
EARLIER = {"augment_order": "after_resize", "mask_interpolation": "nearest", "white_level": None}


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Saves a dict of tensors, numbers, strings and containers of these.

    Raises:
        UserError: if it cannot be written; an existing file stays unchanged.
    """
    # Through memory, because torch reports a full disk as a RuntimeError about zip files.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    with replacing(path) as beside:
        beside.write_bytes(buffer.getbuffer())


def load_state(path: Path, what: str) -> dict[str, Any]:
    """The dict in a .pth file, on the CPU; its tensors are dense.

    Raises:
        UserError: if the file is missing or invalid; `what` is the expected content, for the message.
    """
    if not path.is_file():
        raise UserError(f"{path} was not found; it must be {what}")
    try:
        problem = file_problem(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an untrusted file can trigger warnings with arbitrary text
            content = None if problem else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for damaged files and other formats
        problem = _cause(error)
    if problem:
        raise UserError(f"{path} is not {what}, or is damaged: {problem}{_what_to_do(path)}")
    if not isinstance(content, dict):
        raise UserError(f"{path} is not {what}: it contains a {type(content).__name__}")
    if problem := content_problem(content):
        raise UserError(f"{path} is not {what}: {problem}")
    return unwrapped(content)


def epoch_of(path: Path) -> int | None:
    """The number of finished epochs in a checkpoint; None if it has none.

    Raises:
        UserError: if the file is missing or invalid.
    """
    epoch = load_state(path, "a checkpoint").get("epoch")
    return epoch if is_count(epoch) else None


def load_settings(path: Path, phase: str) -> dict[str, Any]:
    """The settings of a checkpoint. Raises as `load_checkpoint` does.

    The content is kept for the next `load_checkpoint` of the same file, so that the file is read once.
    """
    version = _version(path)
    content = load_checkpoint(path, phase)
    _kept.clear()
    _kept[version] = content
    return dict(content["settings"])


_kept: dict[tuple[Any, ...], dict[str, Any]] = {}  # at most one content, by the version of its file


def _version(path: Path) -> tuple[Any, ...]:
    """A key that changes when the file is rewritten."""
    if not path.is_file():
        return (path,)
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def load_checkpoint(path: Path, phase: str) -> dict[str, Any]:
    """A checkpoint of the given phase ("recon" or "seg"), as written by `utils.training.engine`.

    Settings that were introduced after it was written are added with the values that fit its training.

    Raises:
        UserError: if it is missing, damaged, of another format or of another phase.
    """
    content = _kept.pop(_version(path), None) or load_state(path, f"a checkpoint of {phase}")
    return checked(content, path, phase)


def checked(content: dict[str, Any], path: Path, phase: str) -> dict[str, Any]:
    """The result of `load_checkpoint` for content that was already read. Raises as `load_checkpoint` does."""
    kinds = {"phase": str, "model": dict, "settings": dict}
    if content.get("format") != FORMAT or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise UserError(
            f"{path} is not a checkpoint of this project (its keys: {', '.join(map(str, list(content)[:5]))})"
        )
    if content["phase"] != phase:
        raise UserError(f"{path} must be a checkpoint of {phase}, but is one of {content['phase']}")
    if problem := checkpoint_problem(content):
        raise UserError(f"{path} is not a valid checkpoint: {problem}")
    content["model"] = unwrapped(content["model"])
    earlier = EARLIER | ({"watch": "iou"} if phase == "seg" else {})
    content["settings"] = {**earlier, **content["settings"]}
    return content


def fill(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Loads a state dict after checking all of it; a state that does not fit leaves the model unchanged.

    Raises:
        UserError: with the entries (up to 5) that are missing, unexpected, of another shape or type, or not finite.
    """
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in state]
    # Names are escaped, so that untrusted ones stay on one line.
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
    """Runs `load`; its errors about invalid content become a one-line UserError about `path`."""
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
        raise UserError(f"{path} has unexpected content: {_first_line(error)[:1000]}") from error


def _cause(error: Exception) -> str:
    """The message of torch, without its advice to load the file with weights_only=False."""
    line = _first_line(error)
    if "weights" in line.lower():
        return "it was not written by torch.save, or contains objects other than tensors and plain values"
    return line[:300]


def _what_to_do(last: Path) -> str:
    """How to continue a run whose last.pth is damaged, for the error message; empty for other files."""
    if last.name != "last.pth":
        return ""
    numbered = sorted(last.parent.glob("epoch*.pth"), reverse=True)
    for path in (last.with_name("best.pth"), *numbered):
        try:
            epoch = epoch_of(path)
        except UserError:
            continue
        of_epoch = f" (epoch {epoch})" if epoch is not None else ""
        return f". Start a new run from {path}{of_epoch} with --init_from {path} and another --output_dir"
    return f". No other checkpoint in {last.parent} is intact: start a new run with another --output_dir"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
