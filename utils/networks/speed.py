"""Acceleration on CPUs: replaces modules of a network by their faster twins (`models/fast`) where this is exact.

Only the functions below call `models/fast`. Without that folder, on other devices, and for modules that the twins
do not match, the plain modules run; `Speed` describes which.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch import nn

from utils.common.precision import Precision
from utils.common.processes import say
from utils.networks.snapshot import reached_by_hooks


@dataclass(frozen=True)
class Speed:
    """How a network runs: `words` for logs and records, and a `warning` if it is slower than possible."""

    words: str
    warning: str = ""

    @property
    def short(self) -> str:
        """The words without the numbers of modules: "fast modules, C++ kernels"."""
        kernels = ", C++ kernels" if ", with C++ kernels" in self.words else ""
        return self.words.partition(":")[0] + kernels


@contextmanager
def training(model: nn.Module, device: torch.device, compiled: bool = False, alone: bool = True) -> Iterator[Speed]:
    """A context in which `model` trains with fast modules where possible; it stays the same object.

    Args:
        compiled: torch.compile runs the model, which requires plain modules.
        alone: its batch norms do not communicate; otherwise the comparison with the plain network would block.
    """
    fast = _fast() if device.type == "cpu" and not compiled and alone else None
    if fast is None:
        why = "compiled by torch" if compiled else "" if alone else "synchronised batch norms"
        yield _plain(device, why)
        return
    with fast.for_training(model) as found:
        yield Speed(*fast.words(found))


def prediction(model: nn.Module, precision: Precision) -> tuple[nn.Module, Speed]:
    """A copy of `model` with fast modules for prediction; the model itself if there are none."""
    fast = _fast() if precision.device.type == "cpu" else None
    if fast is None:
        return model, _plain(precision.device)
    if reached_by_hooks(model):
        why = "a hook refers to a part of the network, so that a copy could compute something else"
        return model, Speed("plain modules", f"the slower plain network runs: {why}")
    network, found = fast.for_prediction(model, precision.dtype)
    return network, Speed(*fast.words(found))


def unedited(precision: Precision) -> tuple[bool, ...]:
    """Whether torch and the classes of `models` are as the fast modules of `prediction` assume, in parts."""
    fast = _fast() if precision.device.type == "cpu" else None
    return () if fast is None else fast.unedited()


@lru_cache
def say_once(line: str) -> None:
    """Prints a line that would otherwise be repeated for every epoch or image."""
    say(line)


def _plain(device: torch.device, why: str = "") -> Speed:
    if why or device.type != "cpu":
        return Speed(f"plain modules{why and f' ({why})'}")
    return Speed("plain modules (models/fast not found)", "models/fast was not found: the slower plain network runs")


@lru_cache
def _fast() -> ModuleType | None:
    try:
        return importlib.import_module("models.fast")
    except ModuleNotFoundError as error:
        if error.name != "models.fast":
            raise
        return None
