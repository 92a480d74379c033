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
KERNEL_SOURCES = ("recon", "random", "self")  # see `build_srs`
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


def needs_encoder(name: str, layer: str = DPCONV, kernel_source: str = "recon") -> bool:
    """Whether the network holds a reconstruction encoder. Imports a layer's file."""
    return name in VARIANTS and kernel_source != "self" and _reads_source(layer)


def needs_phase_1(name: str, layer: str = DPCONV, kernel_source: str = "recon") -> bool:
    """Whether that encoder is a pretrained one, so that phase 1 comes first. Imports a layer's file."""
    return kernel_source == "recon" and needs_encoder(name, layer)


def build_layer(name: str, channels: int, deep_channels: int) -> nn.Module:
    """One of `layers`: takes x (B, channels, h, w) and deep (B, deep_channels, h', w'), returns the term added to x.

    Raises:
        ValueError: for an unknown name, or channels that the layer does not take.
    """
    return _layer_file(name).build(channels=channels, deep_channels=deep_channels)


def check_network(name: str, layer: str = DPCONV, encoder_bn: str = "frozen", kernel_source: str = "recon") -> None:
    """What can be said of these options without torch; another `kernel_source` than "recon" imports a layer's file.

    Raises:
        ValueError: for an unknown name, options that do not go together or are SRS' alone, or widths and depths that
            `check_rows` refuses.
    """
    _known(name)
    _check_layer(layer)
    if kernel_source not in KERNEL_SOURCES:
        raise ValueError(f"kernel_source {kernel_source!r} is not one of {', '.join(KERNEL_SOURCES)}")
    if name in VARIANTS:
        check_rows(VARIANTS[name].widths, VARIANTS[name].depths)
        if kernel_source != "recon" and not _reads_source(layer):
            raise ValueError(f"kernel_source {kernel_source} is for layers that read a source, {layer} reads none")
    elif (layer, encoder_bn, kernel_source) != (DPCONV, "frozen", "recon"):
        raise ValueError("a layer in DPConv's place, its source and encoder_bn are for variants of SRS")


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
    variant: str = "srs",
    encoder_bn: str = "frozen",
    encoder: NestedEncoder | None = None,
    layer: str = DPCONV,
    kernel_source: str = "recon",
) -> SRS:
    """The network of phase 2: (B, 1 or 3, H, W) to (B, 1, H, W) logits, initialised as PyTorch does.

    Args:
        variant: a key of `VARIANTS`.
        encoder_bn: "frozen" or "batch", see `SRS`.
        encoder: the `encode` half of a pretrained `build_reconstruction`; a fresh one if not given. It becomes part of
            the network and is frozen. A network whose layer needs none gets none.
        layer: what stands in the slot `dpconv`, one of `layers`.
        kernel_source: what the layer reads beside x. "recon": the deepest map of the (pretrained) encoder, as in the
            paper. "random": the same of a fresh encoder, which stays as it was initialised. "self": x itself, the
            segmenter's own deepest map; the network holds no encoder.

    Raises:
        ValueError: for an unknown variant, layer, source or `encoder_bn`, or widths that do not fit.
    """
    from models.nested import NestedUNet
    from models.srs import SRS

    check_network(variant, layer, encoder_bn, kernel_source)
    shape = VARIANTS[variant]
    segmenter = NestedUNet(shape.widths, shape.depths, stem=8, out_channels=1, local_contrast=False)
    channels = shape.widths[-1]
    deep_channels = channels if kernel_source == "self" else RECONSTRUCTION_WIDTHS[-1]
    dpconv = build_layer(layer, channels, deep_channels)
    if not needs_encoder(variant, layer, kernel_source):
        return SRS(None, segmenter, dpconv, encoder_bn)
    if encoder is None or kernel_source == "random":
        encoder = build_reconstruction(variant).encode
    return SRS(encoder, segmenter, dpconv, encoder_bn)


def _build_baseline(
    name: str, encoder_bn: str = "frozen", encoder: None = None, layer: str = DPCONV, kernel_source: str = "recon"
) -> nn.Module:
    """`build()` of models/baselines/NAME.py; the options of `build_srs` are refused but for their defaults."""
    check_network(name, layer, encoder_bn, kernel_source)
    return import_module(f"{baselines.__name__}.{name}").build()


def _layer_file(name: str) -> Any:
    _check_layer(name)
    return import_module("models.dpconv" if name == DPCONV else f"{dynamic.__name__}.{name}")


def _reads_source(layer: str) -> bool:
    return layer == DPCONV or getattr(_layer_file(layer), "NEEDS_ENCODER", True)


def _check_layer(name: str) -> None:
    if name not in layers():
        raise ValueError(f"unknown layer {name!r}; there are {', '.join(layers())}")


def _files(package: Any) -> list[str]:
    """The names of a package's modules; none is imported."""
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def _known(name: str) -> str:
    if name not in networks():
        raise ValueError(f"unknown variant {name!r}; there are {', '.join(networks())}")
    return name
