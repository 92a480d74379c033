"""The losses of phase 2, one per file. --loss takes the name of the file, which is imported when it is used.

Each file defines `loss(logits, targets)`: both (B, 1, H, W), targets in {0, 1}, to the loss of each image, (B,).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from utils.training.losses.bce_dice import BCEDiceLoss

__all__ = ["BCEDiceLoss", "load", "names"]


def names() -> list[str]:
    """The values of --loss, which are the names of the files; nothing is imported."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


def load(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The function `loss` of the file `name`.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in names():
        raise ValueError(f"unknown loss {name!r}; must be one of {', '.join(names())}")
    return import_module(f"{__name__}.{name}").loss


def __getattr__(name: str) -> Any:
    if name == "BCEDiceLoss":
        return import_module(f"{__name__}.bce_dice").BCEDiceLoss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
