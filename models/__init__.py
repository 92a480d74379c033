"""The networks of SRS, and how to build them.

import models

autoencoder = models.build_reconstruction("srs")            # phase 1
srs = models.build_srs("srs")                               # phase 2, with a fresh encoder
srs = models.build_srs("srs", encoder=autoencoder.encode)   # phase 2, with the pretrained one
logits = srs(images)                                        # (B, 3, H, W) -> (B, 1, H, W)
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models import authors
    from models.dpconv import DPConv
    from models.nested import NestedEncoder, NestedUNet
    from models.srs import SRS

__all__ = ["ENCODER_BN", "SRS", "VARIANTS", "DPConv", "NestedUNet", "authors", "build_reconstruction", "build_srs"]


@dataclass(frozen=True)
class Variant:
    """Widths and depths of the segmentation network, rows 0 to 3."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS = {
    "srs": Variant(widths=(16, 64, 128, 256), depths=(3, 4, 6, 3)),  # the paper's
    "srs_tiny": Variant(widths=(8, 16, 32, 64), depths=(2, 2, 2, 2)),  # for laptops
}

STRIDE = 8  # the deepest map is at 1/8 of the input, in each direction
ENCODER_BN = ("frozen", "batch")

# One reconstruction network for every variant, so that one pretrained encoder serves them all.
RECONSTRUCTION_WIDTHS = (8, 16, 32, 64)
RECONSTRUCTION_DEPTHS = (5, 5, 5, 5)


def build_reconstruction(variant: str = "srs") -> NestedUNet:
    """The reconstruction autoencoder of phase 1: (B, 1 or 3, H, W) to (B, 3, H, W), initialised as PyTorch does.

    Raises:
        ValueError: for an unknown variant.
    """
    from models.nested import NestedUNet

    _variant(variant)
    return NestedUNet(RECONSTRUCTION_WIDTHS, RECONSTRUCTION_DEPTHS, stem=16, out_channels=3, local_contrast=True)


def build_srs(variant: str = "srs", encoder_bn: str = "frozen", encoder: NestedEncoder | None = None) -> SRS:
    """The network of phase 2: (B, 1 or 3, H, W) to (B, 1, H, W) logits, initialised as PyTorch does.

    Args:
        variant: a key of `VARIANTS`.
        encoder_bn: "frozen" or "batch", see `SRS`.
        encoder: the `encode` half of a pretrained `build_reconstruction`; a fresh one if not given. It becomes part of
            the network and is frozen.

    Raises:
        ValueError: for an unknown variant or `encoder_bn`.
    """
    from models.dpconv import DPConv
    from models.nested import NestedUNet
    from models.srs import SRS

    shape = _variant(variant)
    segmenter = NestedUNet(shape.widths, shape.depths, stem=8, out_channels=1, local_contrast=False)
    dpconv = DPConv(channels=shape.widths[-1], deep_channels=RECONSTRUCTION_WIDTHS[-1])
    return SRS(encoder or build_reconstruction(variant).encode, segmenter, dpconv, encoder_bn)


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]


# Where the classes are. They are imported when they are asked for, and torch with them: scripts know the variants
# without it.
_HOMES = {"DPConv": "dpconv", "NestedUNet": "nested", "SRS": "srs"}


def __getattr__(name: str) -> Any:
    if name == "authors":
        return import_module("models.authors")
    if name in _HOMES:
        return getattr(import_module(f"models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
