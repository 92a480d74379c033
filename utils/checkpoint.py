"""Checkpoints: written whole or not at all, read with weights_only=True."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.errors import UserError
from utils.files import replacing

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Saves a dict of tensors, numbers, strings and containers of these."""
    with replacing(path) as beside:
        try:
            torch.save({"format": FORMAT, **content}, beside)
        except RuntimeError as error:  # torch's zip writer reports a full disk as one
            raise OSError(str(error).splitlines()[0]) from error


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


def load_checkpoint(path: Path, phase: str) -> dict[str, Any]:
    """A checkpoint of ours, as `utils.engine` writes it, of the given phase ("recon" or "seg").

    Raises:
        UserError: if it is missing, damaged, something else, or of another phase.
    """
    content = load_state(path, f"a checkpoint of {phase}")
    if content.get("format") != FORMAT or not {"phase", "model", "settings"} <= content.keys():
        raise UserError(
            f"{path} is not a checkpoint of this project (its keys: {', '.join(map(str, list(content)[:5]))})"
        )
    if content["phase"] != phase:
        raise UserError(f"{path} is a checkpoint of {content['phase']}, expected one of {phase}")
    return content


def fill(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Loads a state dict whole.

    Raises:
        UserError: if a key or shape does not fit; the model is then unchanged in what does not fit, discard it.
    """
    explain(lambda: model.load_state_dict(state), path)


def explain(load: Callable[[], Any], path: Path) -> Any:
    """Runs `load`; an error of weights that do not fit becomes one line about `path`."""
    try:
        return load()
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(f"{path} does not fit the network: {' '.join(lines[:3])[:600]}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
