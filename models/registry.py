"""The networks by name, and how to build them. The builders import torch, this module does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from models.nested import NestedEncoder, NestedUNet
    from models.srs import SRS

STRIDE = 8  # the deepest map is at 1/8 of the input, in each direction
ENCODER_BN = ("frozen", "batch")  # see `models.srs.SRS`


@dataclass(frozen=True)
class Variant:
    """Widths and depths of the segmentation network, rows 0 to 3."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS = {
    "srs": Variant(widths=(16, 64, 128, 256), depths=(3, 4, 6, 3)),  # the paper's
    "srs_tiny": Variant(widths=(8, 16, 32, 64), depths=(2, 2, 2, 2)),  # for laptops
}

# One reconstruction network for every variant, so that one pretrained encoder serves them all.
RECONSTRUCTION_WIDTHS = (8, 16, 32, 64)
RECONSTRUCTION_DEPTHS = (5, 5, 5, 5)


def build(name: str, **options: Any) -> nn.Module:
    """The segmentation network of that name: (B, 1 or 3, H, W) to (B, 1, H, W) logits, initialised as PyTorch does.

    Args:
        name: a key of `NETWORKS`.
        options: of its builder, such as `encoder_bn` of `build_srs`.

    Raises:
        ValueError: for an unknown name, or an option's unknown value.
    """
    return NETWORKS[_known(name)](**options)


def build_reconstruction(variant: str = "srs") -> NestedUNet:
    """The reconstruction autoencoder of phase 1: (B, 1 or 3, H, W) to (B, 3, H, W), initialised as PyTorch does.

    Raises:
        ValueError: for an unknown variant.
    """
    from models.nested import NestedUNet

    _known(variant)
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

    shape = VARIANTS[_known(variant)]
    segmenter = NestedUNet(shape.widths, shape.depths, stem=8, out_channels=1, local_contrast=False)
    dpconv = DPConv(channels=shape.widths[-1], deep_channels=RECONSTRUCTION_WIDTHS[-1])
    return SRS(encoder or build_reconstruction(variant).encode, segmenter, dpconv, encoder_bn)


NETWORKS: dict[str, Callable[..., nn.Module]] = {name: partial(build_srs, name) for name in VARIANTS}


def _known(name: str) -> str:
    if name not in NETWORKS:
        raise ValueError(f"unknown variant {name!r}; there are {', '.join(NETWORKS)}")
    return name
