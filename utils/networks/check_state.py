"""What a stranger's .pth file may hold, looked at before anything of it is used.

The file: an archive as torch.save writes it, nothing compressed. Its content: tensors in memory, plain values, and
settings that a command line could hold.
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
WRAPPERS = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's names in front of a network's


def file_problem(path: Path) -> str | None:
    """What is wrong with the file as a whole; None if torch may read it.

    torch writes archives of uncompressed members. A compressed one may unpack to a thousand times its size, and so may
    members that share their bytes.
    """
    size = path.stat().st_size
    if size == 0:
        return "it is empty"
    with path.open("rb") as file:
        start = file.read(4096)
        if not any(start):
            return "it begins with zeros, as after a power cut"
        if not start.startswith(ZIP):
            return None  # an older format, whose tensors are as long as their bytes in the file
        file.seek(max(0, size - END_SIZE))
        end = file.read()
    # At the very end and without a comment, so that no two readers find two directories.
    if not end.startswith(END_OF_ZIP) or end[-2:] != b"\0\0":
        return "its end is missing"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return f"its directory cannot be read ({error})"
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        return "its members are compressed, as torch.save writes none"
    if sum(member.file_size for member in members) > size:
        return "its members are larger than the file"
    return None


def content_problem(content: dict[Any, Any]) -> str | None:
    """The first entry that is a tensor without plain memory: sparse, on the meta device, quantized; None if none is."""
    for where, value in _entries(content):
        if isinstance(value, Tensor) and (reason := _not_plain(value)):
            return f"{where or 'it'} is {reason}"
    return None


def checkpoint_problem(content: dict[Any, Any]) -> str | None:
    """What a checkpoint of ours cannot hold in its settings, figures and counters; None if all is plain."""
    for name, value in content["settings"].items():
        if not isinstance(name, str):
            return "its settings have a name that is not a word"
        if not _is_setting(value) and not (isinstance(value, list | tuple) and all(map(_is_setting, value))):
            return f"its setting {name} is a {type(value).__name__}, expected a word or a number"
    for name in ("epoch", "step"):
        if name in content and not is_count(content[name]):
            return f"its {name} is not a number of at least 0"
    for name in ("best", "figures"):
        figures = content.get(name)
        if figures is not None and not (isinstance(figures, dict) and all(map(_is_figure, figures.items()))):
            return f"its {name} must be numbers by name"
    return None


def tensor_problem(value: Any, expected: Tensor) -> str | None:
    """How `value` differs from a finite tensor of that shape and type; None if it does not."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, expected a tensor"
    if reason := _not_plain(value):
        return f"is {reason}"
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return f"is {value.dtype} {tuple(value.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
    return None if value.isfinite().all() else "holds values that are not finite"


def unwrapped(state: dict[Any, Any]) -> dict[Any, Any]:
    """A state dict without the names that DataParallel and torch.compile put in front; itself if there are none."""
    names = list(state)
    while names and all(isinstance(name, str) for name in names):
        wrapper = next((each for each in WRAPPERS if all(name.startswith(each) for name in names)), None)
        if wrapper is None:
            # A part of a network may be compiled alone.
            names = [name.replace(f".{WRAPPERS[1]}", ".") for name in names]
            break
        names = [name.removeprefix(wrapper) for name in names]
    if names == list(state) or len(set(names)) < len(names):
        return state
    return dict(zip(names, state.values(), strict=True))


def is_count(value: Any) -> bool:
    """Whether it is an integer of at least 0 (and not a truth value)."""
    return type(value) is int and 0 <= value < 2**63


def is_finite(value: Any) -> bool:
    """Whether it is a number (and not a truth value) that is finite."""
    return type(value) in (int, float) and math.isfinite(value)


def _not_plain(value: Tensor) -> str | None:
    if value.layout != torch.strided:
        return "a sparse tensor"
    if value.device.type != "cpu":
        return f"a tensor on {value.device.type}"
    return "a quantized tensor" if value.is_quantized else None


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Each value of nested containers with its names, each container once."""
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
    """Figures may be NaN: a set without a target has no recall."""
    name, value = named
    return type(name) is str and type(value) in (int, float)
