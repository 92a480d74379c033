"""Settings from a checkpoint, which are untrusted until the parser of the command line has accepted them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.settings.arguments import add_segmentation_arguments, add_shared_arguments
from utils.settings.config import ScriptParser, as_flags
from utils.training import losses

PREPROCESSING = ("normalization", "white_level")


def recorded_settings(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of the checkpoint `path`, parsed like flags; unknown settings are returned unchanged.

    Raises:
        UserError: for a value that the command line would reject.
    """
    parser = ScriptParser("train", "")
    add_shared_arguments(parser, epochs=1)
    add_segmentation_arguments(parser, losses.names())
    known = {action.dest for action in parser._actions} - {"help", "version"}
    checked = dict(settings)
    for name, value in settings.items():
        if name not in known or value is None:
            continue
        try:
            if isinstance(value, list | tuple):
                raise UserError("must be a single value")
            checked[name] = parser.given(as_flags(name, value))[name]
        except UserError as error:
            cause = str(error).partition(" (python ")[0]
            raise UserError(f"{path}: invalid setting {name} {str(value)[:100]!r}: {cause}") from error
    return checked


def refuse_other_preprocessing(
    trained_with: Mapping[str, Any], settings: argparse.Namespace, path: Path, names: Sequence[str] = PREPROCESSING
) -> None:
    """Checks that the weights in `path`, with the settings `trained_with`, see images as they did in their training.

    Raises:
        UserError: with the first setting of `names` that differs.
    """
    for name in names:
        before, now = trained_with.get(name, getattr(settings, name)), getattr(settings, name)
        if before != now:
            words = [f"--{name} {value}" if value is not None else f"no --{name}" for value in (before, now)]
            raise UserError(f"{path} was trained with {words[0]}, but this run uses {words[1]}. Use the same in both")
