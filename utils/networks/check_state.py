"""Validation of untrusted .pth files before their content is used.

A valid file is an uncompressed archive as written by torch.save. Its content is dense tensors, plain values, and
settings that are valid on a command line.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ZIP, END_OF_ZIP = b"PK\x03\x04", b"PK\x05\x06"
END_SIZE = 22  # bytes of the last record of a zip file without a comment
LONGEST = 10_000  # characters of a setting
WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DataParallel and torch.compile add to the names of a network


def file_problem(path: Path) -> str | None:
    """The problem of the file as a whole; None if torch may read it.

    torch writes archives with uncompressed members. Compressed members, and members that share their bytes, may expand
    to a thousand times the size of the file.
    """
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        start = file.read(4096)
        if not any(start):
            return "the file begins with zeros, as after a power failure"
        if not start.startswith(ZIP):
            return None  # an older format, whose tensors cannot be larger than their bytes in the file
        file.seek(max(0, size - END_SIZE))
        end = file.read()
    # The record must be at the very end, without a comment, so that all readers find the same directory.
    if not end.startswith(END_OF_ZIP) or end[-2:] != b"\0\0":
        return "the end of the file is missing"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return f"the directory of the archive cannot be read ({error})"
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        return "the members of the archive are compressed, which torch.save never does"
    if sum(member.file_size for member in members) > size:
        return "the members of the archive are larger than the file"
    return None


def content_problem(content: dict[Any, Any]) -> str | None:
    """The first tensor that is sparse, quantized or not on the CPU; None if all are plain."""
    for where, value in _entries(content):
        if isinstance(value, Tensor) and (reason := _not_plain(value)):
            return f"{where or 'the content'} is {reason}"
    return None


def checkpoint_problem(content: dict[Any, Any]) -> str | None:
    """The first invalid setting, figure or counter of a checkpoint; None if all are valid."""
    for name, value in content["settings"].items():
        if not isinstance(name, str):
            return "the names of the settings must be strings"
        if not _is_setting(value) and not (isinstance(value, list | tuple) and all(map(_is_setting, value))):
            return f"the setting {name} must be a string or a number, got {type(value).__name__}"
    for name in ("epoch", "step"):
        if name in content and not is_count(content[name]):
            return f"{name} must be an integer of at least 0"
    for name in ("best", "figures"):
        figures = content.get(name)
        if figures is not None and not (isinstance(figures, dict) and all(map(_is_figure, figures.items()))):
            return f"{name} must be numbers by name"
    return None


def tensor_problem(value: Any, expected: Tensor) -> str | None:
    """How `value` differs from a finite tensor of the expected shape and type; None if it does not."""
    if not isinstance(value, Tensor):
        return f"must be a tensor, got {type(value).__name__}"
    if reason := _not_plain(value):
        return f"is {reason}"
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return f"is {value.dtype} {tuple(value.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
    return None if value.isfinite().all() else "contains values that are not finite"


def unwrapped(state: dict[Any, Any]) -> dict[Any, Any]:
    """A state dict without the prefixes of DataParallel and torch.compile; unchanged if there are none."""
    names = list(state)
    while names and all(isinstance(name, str) for name in names):
        wrapper = next((each for each in WRAPPERS if all(name.startswith(each) for name in names)), None)
        if wrapper is None:
            # torch.compile may have been applied to a part of the network.
            names = [name.replace(f".{WRAPPERS[1]}", ".") for name in names]
            break
        names = [name.removeprefix(wrapper) for name in names]
    if names == list(state) or len(set(names)) < len(names):
        return state
    return dict(zip(names, state.values(), strict=True))


def is_count(value: Any) -> bool:
    """Whether it is an integer of at least 0 (bool excluded)."""
    return type(value) is int and 0 <= value < 2**63


def is_finite(value: Any) -> bool:
    """Whether it is a finite number (bool excluded)."""
    return type(value) in (int, float) and math.isfinite(value)


def _not_plain(value: Tensor) -> str | None:
    if value.layout != torch.strided:
        return "a sparse tensor"
    if value.device.type != "cpu":
        return f"a tensor on {value.device.type}"
    return "a quantized tensor" if value.is_quantized else None


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Each value of nested containers with its path of names; visits each container once."""
    waiting, seen = [("", content)], set()
    while waiting:
        where, value = waiting.pop()
        yield where, value
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            named = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(f"{where}.{str(name)[:200]}" if where else str(name)[:200], each) for name, each in named]


def _is_setting(value: Any) -> bool:
    return value is None or type(value) is bool or is_finite(value) or (type(value) is str and len(value) < LONGEST)


def _is_figure(named: tuple[Any, Any]) -> bool:
    """Figures may be NaN, e.g. the recall of a list without targets."""
    name, value = named
    return type(name) is str and type(value) in (int, float)
