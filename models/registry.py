"""The networks by name, and how to build them. The builders import torch, this module does not."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models import baselines, dynamic

if TYPE_CHECKING:
    from torch import nn

    from models.nested import NestedEncoder, NestedUNet
    from models.srs import SRS

STRIDE = 8  # the deepest map is at 1/8 of the input, in each direction
ROWS = 4  # of a nested U-Net
ENCODER_BN = ("frozen", "batch")  # see `models.srs.SRS`
DPCONV = "dpconv"  # the paper's layer, in models/dpconv.py; models/dynamic holds what may stand in its place


@dataclass(frozen=True)
class Variant:
    """Widths and depths of the segmentation network, rows 0 to 3. See `check_rows`; DPConv wants more of the last."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS = {
    "srs": Variant(widths=(16, 64, 128, 256), depths=(3, 4, 6, 3)),  # the paper's
    "srs_tiny": Variant(widths=(8, 16, 32, 64), depths=(2, 2, 2, 2)),  # for laptops
}

# One reconstruction network for every variant, so that one pretrained encoder serves them all.
RECONSTRUCTION_WIDTHS = (8, 16, 32, 64)
RECONSTRUCTION_DEPTHS = (5, 5, 5, 5)


def networks() -> dict[str, Callable[..., nn.Module]]:
    """Builders by name: SRS' variants, then the files of models/baselines, which are imported when they build."""
    others = {name: partial(_build_baseline, name) for name in _files(baselines)}
    return {**{name: partial(build_srs, name) for name in VARIANTS}, **others}


def layers() -> list[str]:
    """What may stand in the slot `dpconv` of SRS: the paper's DPConv, and the files of models/dynamic."""
    return [DPCONV, *_files(dynamic)]


def needs_encoder(name: str, layer: str = DPCONV) -> bool:
    """Whether the network holds a reconstruction encoder, so that phase 1 comes first. Imports a layer's file."""
    if name not in VARIANTS:
        return False
    return layer == DPCONV or getattr(import_module(f"{dynamic.__name__}.{layer}"), "NEEDS_ENCODER", True)


def check_network(name: str, layer: str = DPCONV, encoder_bn: str = "frozen") -> None:
    """What can be said of these options without torch.

    Raises:
        ValueError: for an unknown name, options that are SRS' alone, or widths and depths that `check_rows` refuses.
    """
    _known(name)
    if layer not in layers():
        raise ValueError(f"unknown layer {layer!r}; there are {', '.join(layers())}")
    if name in VARIANTS:
        check_rows(VARIANTS[name].widths, VARIANTS[name].depths)
    elif (layer, encoder_bn) != (DPCONV, "frozen"):
        raise ValueError("a layer in DPConv's place and encoder_bn are for variants of SRS")


def check_rows(widths: Sequence[int], depths: Sequence[int]) -> None:
    """Whether widths and depths are those of a nested U-Net.

    Raises:
        ValueError: names the rule.
    """
    if len(widths) != ROWS or len(depths) != ROWS:
        raise ValueError(f"a nested U-Net has {ROWS} rows; got {len(widths)} widths and {len(depths)} depths")
    if any(width % 8 or width < 8 for width in widths):
        raise ValueError(f"widths must be multiples of 8, got {tuple(widths)}")
    if any(depth < 1 for depth in depths):
        raise ValueError(f"depths must be at least 1, got {tuple(depths)}")


def build(name: str, **options: Any) -> nn.Module:
    """The segmentation network of that name: (B, 1 or 3, H, W) to (B, 1, H, W) logits, initialised as PyTorch does.

    Args:
        name: a key of `networks`.
        options: of SRS' variants, such as `encoder_bn` and `layer` of `build_srs`.

    Raises:
        ValueError: for an unknown name, or an option's unknown value.
    """
    return networks()[_known(name)](**options)


def build_reconstruction(variant: str = "srs") -> NestedUNet:
    """The reconstruction autoencoder of phase 1: (B, 1 or 3, H, W) to (B, 3, H, W), initialised as PyTorch does.

    Raises:
        ValueError: for an unknown variant, or a network without phase 1.
    """
    from models.nested import NestedUNet

    if _known(variant) not in VARIANTS:
        raise ValueError("it has no phase 1")
    return NestedUNet(RECONSTRUCTION_WIDTHS, RECONSTRUCTION_DEPTHS, stem=16, out_channels=3, local_contrast=True)


def build_srs(
    variant: str = "srs", encoder_bn: str = "frozen", encoder: NestedEncoder | None = None, layer: str = DPCONV
) -> SRS:
    """The network of phase 2: (B, 1 or 3, H, W) to (B, 1, H, W) logits, initialised as PyTorch does.

    Args:
        variant: a key of `VARIANTS`.
        encoder_bn: "frozen" or "batch", see `SRS`.
        encoder: the `encode` half of a pretrained `build_reconstruction`; a fresh one if not given. It becomes part of
            the network and is frozen. A network whose layer needs none gets none.
        layer: what stands in the slot `dpconv`, one of `layers`.

    Raises:
        ValueError: for an unknown variant, layer or `encoder_bn`, or widths that do not fit.
    """
    from models.nested import NestedUNet
    from models.srs import SRS

    check_network(variant, layer, encoder_bn)
    shape = VARIANTS[variant]
    segmenter = NestedUNet(shape.widths, shape.depths, stem=8, out_channels=1, local_contrast=False)
    source = import_module("models.dpconv" if layer == DPCONV else f"{dynamic.__name__}.{layer}")
    dpconv = source.build(channels=shape.widths[-1], deep_channels=RECONSTRUCTION_WIDTHS[-1])
    if not needs_encoder(variant, layer):
        return SRS(None, segmenter, dpconv, encoder_bn)
    return SRS(encoder or build_reconstruction(variant).encode, segmenter, dpconv, encoder_bn)


def _build_baseline(name: str, encoder_bn: str = "frozen", encoder: None = None, layer: str = DPCONV) -> nn.Module:
    """`build()` of models/baselines/NAME.py; the options of `build_srs` are refused but for their defaults."""
    check_network(name, layer, encoder_bn)
    return import_module(f"{baselines.__name__}.{name}").build()


def _files(package: Any) -> list[str]:
    """The names of a package's modules; none is imported."""
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def _known(name: str) -> str:
    if name not in networks():
        raise ValueError(f"unknown variant {name!r}; there are {', '.join(networks())}")
    return name
