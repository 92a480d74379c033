"""Where speed comes in, on CPUs: faster twins of the network's modules (`models/fast`), or the plain network.

These two functions are the only ones that call `models/fast`. Without that folder, on other devices, and where a
network or a part of it is not what the twins were written for, the plain modules run; `Speed` says which.
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


@dataclass(frozen=True)
class Speed:
    """What runs a network: `words` for a log and a record; `warning`, what is slower than it could be, or nothing."""

    words: str
    warning: str = ""


@contextmanager
def training(model: nn.Module, device: torch.device, compiled: bool = False, alone: bool = True) -> Iterator[Speed]:
    """A context in which `model` trains as fast as this device allows; the same parameters, the same object.

    Args:
        compiled: torch.compile runs it: it gets the plain modules.
        alone: its batch norms need no other process; a comparison with the plain network would keep those waiting.
    """
    fast = _fast() if device.type == "cpu" and not compiled and alone else None
    if fast is None:
        why = "compiled by torch" if compiled else "" if alone else "synchronised batch norms"
        yield _plain(device, why)
        return
    with fast.for_training(model) as found:
        yield Speed(*fast.words(found))


def prediction(model: nn.Module, precision: Precision) -> tuple[nn.Module, Speed]:
    """A copy of `model` that predicts as fast as this device allows; the model itself where nothing is to be gained."""
    fast = _fast() if precision.device.type == "cpu" else None
    if fast is None:
        return model, _plain(precision.device)
    network, found = fast.for_prediction(model, precision.dtype)
    return network, Speed(*fast.words(found))


@lru_cache
def say_once(line: str) -> None:
    """Prints what every epoch or image would say again."""
    say(line)


def _plain(device: torch.device, why: str = "") -> Speed:
    if why or device.type != "cpu":
        return Speed(f"plain modules{why and f' ({why})'}")
    return Speed("plain modules (models/fast not found)", "models/fast not found: the plain network runs, slower")


@lru_cache
def _fast() -> ModuleType | None:
    try:
        return importlib.import_module("models.fast")
    except ModuleNotFoundError as error:
        if error.name != "models.fast":
            raise
        return None
