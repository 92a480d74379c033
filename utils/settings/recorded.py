"""Settings from a checkpoint, which are untrusted until the parser of the command line has accepted them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.settings.arguments import Repeated, add_layer_argument, add_shared_arguments
from utils.settings.config import ScriptParser, as_flags

PREPROCESSING = ("normalization", "white_level")


def recorded_settings(settings: Mapping[str, Any], path: Path, script: ScriptParser | None = None) -> dict[str, Any]:
    """The settings of the checkpoint `path`, parsed like flags of `script`; its other settings are returned unchanged.

    Args:
        script: parser of the script that resumes; by default, the flags of the data and the network are known.

    Raises:
        UserError: for a value that the command line would reject.
    """
    parser = script or ScriptParser("train", "")
    if script is None:
        add_shared_arguments(parser, epochs=1)
        add_layer_argument(parser)
    known = {action.dest: action for action in parser._actions if action.dest not in ("help", "version")}
    checked = dict(settings)
    for name, value in settings.items():
        if name not in known or value is None:
            continue
        try:
            if isinstance(value, list | tuple) and not isinstance(known[name], Repeated):
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
