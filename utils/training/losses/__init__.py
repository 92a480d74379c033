"""The losses of phase 2, one per file. --loss takes the name of the file, which is imported when it is used.

Each file defines `loss(logits, targets)`: both (B, 1, H, W), targets in {0, 1}, to the loss of each image, (B,).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from utils.common.errors import UserError
from utils.training.shapes import check_shape

if TYPE_CHECKING:
    from torch import Tensor

    from utils.training.losses.bce_dice import BCEDiceLoss

__all__ = ["BCEDiceLoss", "load", "names"]


def names() -> list[str]:
    """The values of --loss, which are the names of the files; nothing is imported."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


def load(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The function `loss` of the file `name`, which raises a UserError if its result is not the loss of each image.

    Raises:
        ValueError: for an unknown name.
        UserError: if the file has no such function, or imports a library that is not installed.
    """
    if name not in names():
        raise ValueError(f"unknown loss {name!r}; must be one of {', '.join(names())}")
    try:
        of_images = import_module(f"{__name__}.{name}").loss
    except ModuleNotFoundError as error:
        raise UserError(f"--loss {name} requires {error.name}, which is not installed") from error
    except AttributeError as error:
        raise UserError(f"--loss {name}: {error}") from error

    @wraps(of_images)
    def checked(logits: Tensor, targets: Tensor) -> Tensor:
        found = of_images(logits, targets)
        check_shape(found, logits.shape[:1], f"--loss {name} must return one value for each image,")
        return found

    return checked


def __getattr__(name: str) -> Any:
    if name == "BCEDiceLoss":
        return import_module(f"{__name__}.bce_dice").BCEDiceLoss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
