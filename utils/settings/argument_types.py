"""The types of the values of flags, and the layout of help lines."""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from utils.common.printable import one_line

AUTO = "auto"  # a value of --white_level
LARGEST_SIDE = 16384  # pixels: such an image in float32 has 3 GB
MOST_THREADS = 1024  # beyond the limit of a system, OpenMP ends the process


class Parser(argparse.ArgumentParser):
    """A parser whose error messages are one line; control characters of the command line are escaped."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (python {self.prog} --help lists the flags)\n")


class Repeated(argparse.Action):
    """A flag that may be repeated, or a list in a configuration; its value is the list of all values."""

    def __call__(self, parser: object, namespace: argparse.Namespace, value: Any, flag: str | None = None) -> None:
        # argparse's own "append" would fail on the placeholder default of `ScriptParser.given`, which is not a list.
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*before, value] if isinstance(before, list) else [value])


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to the end of each help line, unless it is None or False or the line names it already."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        help = action.help or ""
        if action.default is None or action.default is False:
            return help.removesuffix(" (default: %(default)s)")  # which Python 3.10 adds to switches
        if "(default: " in help:
            return help
        return super()._get_help_string(action)


def path(text: str) -> str:
    """An argument type: a file or folder; ~ is the home folder, which shells do not expand in --flag=~ or YAML."""
    if not text:  # as in --init_from "$UNSET"
        raise argparse.ArgumentTypeError("must not be empty")
    return os.path.expanduser(text)  # noqa: PTH111 - Path would remove a trailing /


def folder(text: str) -> Path:
    """An argument type: the same as a Path."""
    return Path(path(text))


def positive(text: str) -> int:
    """An argument type: an integer of at least 1."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """An argument type: an integer of at least 0."""
    return _at_least(0, text)


def image_side(text: str) -> int:
    """An argument type: an image side that the networks accept, in pixels."""
    return _at_least(16, text, LARGEST_SIDE)  # two pixels of the deepest map: a batch norm needs more than one value


def threads(text: str) -> int:
    """An argument type: a number of CPU threads."""
    return _at_least(1, text, MOST_THREADS)


def seed(text: str) -> int:
    """An argument type: a seed that Python, numpy and torch accept."""
    return _at_least(0, text, 2**32 - 1)


def integer(text: str) -> int:
    """An argument type: an integer in decimal digits. int() also accepts 0100 and 1_000."""
    if not re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text):
        raise ValueError(text)
    return int(text)


def number(text: str) -> float:
    """An argument type: a number in decimal digits. float() also accepts nan and 1_000."""
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text) or not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return float(text)


def mask_threshold(text: str) -> float:
    """An argument type: a value of mask files of 8 or 16 bits."""
    value = number(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be between 0 and 255 (16-bit masks: 65535), got {text}")
    return value


def white_level(text: str) -> int:
    """An argument type: a value of 16-bit images."""
    value = integer(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be between 1 and 65535, got {value}")
    return value


def white_level_or_auto(text: str) -> int | str:
    """An argument type: the same, or "auto"."""
    return text if text == AUTO else white_level(text)


def rate(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {value}")
    return value


def minutes(text: str) -> float:
    """An argument type: a time in minutes."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be a positive number of minutes, got {value}")
    return value


def budget(text: str) -> float:
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a finite number of GB, 0 or more, got {value}")
    return value


def _at_least(minimum: int, text: str, maximum: int = 2**31 - 1) -> int:
    value = integer(text)
    if value < minimum:
        raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
    if value > maximum:
        raise argparse.ArgumentTypeError(f"must be at most {maximum}, got {value}")
    return value
