"""Checkpoints: written whole or not at all, read with weights_only=True."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.common.errors import UserError
from utils.common.files import replacing

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
    """The dict in a .pth file, on the CPU.

    Raises:
        UserError: if the file is missing or is not such a file; `what` says what was expected.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; expected {what}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged or foreign file
        raise UserError(f"{path} is not {what}, or is damaged: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not {what}: it holds a {type(content).__name__}")
    return content


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
    content["settings"] = {**EARLIER, **content["settings"]}
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
        f"{name} {wrong}" for name in expected if name in state and (wrong := _wrong(state[name], expected[name]))
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{path} does not fit the network: {'; '.join(problems[:5])}{more}")
    model.load_state_dict(state)


def _wrong(value: Any, expected: Tensor) -> str | None:
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, expected a tensor"
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return f"is {value.dtype} {tuple(value.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
    return None if value.isfinite().all() else "holds values that are not finite"


def explain(load: Callable[[], Any], path: Path) -> Any:
    """Runs `load`; an error of content that does not fit becomes one line about `path`."""
    try:
        return load()
    except (AttributeError, ImportError, LookupError, TypeError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} does not fit: {_first_line(error)[:1000]}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
