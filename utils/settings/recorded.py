"""Settings from a checkpoint, which are untrusted until the parser of the command line has accepted them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.settings.arguments import add_layer_argument, add_shared_arguments
from utils.settings.config import ScriptParser, as_flags


def recorded_settings(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of the checkpoint `path`, parsed like flags; unknown settings are returned unchanged.

    Raises:
        UserError: for a value that the command line would reject.
    """
    parser = ScriptParser("train", "")
    add_shared_arguments(parser, epochs=1)
    add_layer_argument(parser)
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
