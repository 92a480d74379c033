"""The networks by name, and their builders. Only the builders import torch."""

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
DPCONV = "dpconv"  # the paper's layer, in models/dpconv.py; models/dynamic contains the alternatives


@dataclass(frozen=True)
class Variant:
    """Widths and depths of the segmentation network, rows 0 to 3. See `check_rows`, and `DPConv` for the last width."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS = {
    "srs": Variant(widths=(16, 64, 128, 256), depths=(3, 4, 6, 3)),  # the paper's
    "srs_tiny": Variant(widths=(8, 16, 32, 64), depths=(2, 2, 2, 2)),  # a small network for trials
}

# All variants share one reconstruction network, and therefore one pretrained encoder.
RECONSTRUCTION_WIDTHS = (8, 16, 32, 64)
RECONSTRUCTION_DEPTHS = (5, 5, 5, 5)


def networks() -> dict[str, Callable[..., nn.Module]]:
    """Builders by name: the variants of SRS, then the files of models/baselines, which are imported when building."""
    others = {name: partial(_build_baseline, name) for name in _files(baselines) if name not in VARIANTS}
    return {**{name: partial(build_srs, name) for name in VARIANTS}, **others}


def layers() -> list[str]:
    """The layers for the slot `dpconv` of SRS: the paper's DPConv, and the files of models/dynamic."""
    return [DPCONV, *_files(dynamic)]


def needs_encoder(name: str, layer: str = DPCONV, kernel_source: str = "recon") -> bool:
    """Whether the network contains a reconstruction encoder. Imports the file of the layer or of the baseline."""
    if _known(name) not in VARIANTS:
        return getattr(_baseline_file(name), "NEEDS_ENCODER", False)
    return kernel_source != "self" and _reads_source(layer)


def needs_phase_1(name: str, layer: str = DPCONV, kernel_source: str = "recon") -> bool:
    """Whether the network requires a pretrained encoder, and therefore phase 1. Imports the file of the layer."""
    return kernel_source == "recon" and needs_encoder(name, layer)


def build_layer(name: str, channels: int, deep_channels: int) -> nn.Module:
    """One of `layers`: x (B, channels, h, w) and deep (B, deep_channels, h', w') to the term that is added to x.

    Raises:
        ValueError: for an unknown name, or channels that the layer does not support.
    """
    return _layer_file(name).build(channels=channels, deep_channels=deep_channels)


def check_network(name: str, layer: str = DPCONV, encoder_bn: str = "frozen", kernel_source: str = "recon") -> None:
    """Checks these options without importing torch, except for a `kernel_source` other than "recon".

    Raises:
        ValueError: for an unknown name, invalid combinations, options that require a variant of SRS, or widths and
            depths that `check_rows` rejects.
    """
    _known(name)
    _check_layer(layer)
    if kernel_source not in KERNEL_SOURCES:
        raise ValueError(f"kernel_source must be one of {', '.join(KERNEL_SOURCES)}, got {kernel_source!r}")
    if name in VARIANTS:
        check_rows(VARIANTS[name].widths, VARIANTS[name].depths)
        if kernel_source != "recon" and not _reads_source(layer):
            raise ValueError(f"kernel_source {kernel_source} requires a layer with a source; {layer} has none")
    elif (layer, encoder_bn, kernel_source) != (DPCONV, "frozen", "recon"):
        raise ValueError("dynamic, kernel_source and encoder_bn require a variant of SRS")


def check_rows(widths: Sequence[int], depths: Sequence[int]) -> None:
    """Checks the widths and depths of a nested U-Net.

    Raises:
        ValueError: if a rule is violated.
    """
    if len(widths) != ROWS or len(depths) != ROWS:
        raise ValueError(f"a nested U-Net must have {ROWS} rows, got {len(widths)} widths and {len(depths)} depths")
    if any(width % 8 or width < 8 for width in widths):
        raise ValueError(f"widths must be multiples of 8, got {tuple(widths)}")
    if any(depth < 1 for depth in depths):
        raise ValueError(f"depths must be at least 1, got {tuple(depths)}")


def build(name: str, **options: Any) -> nn.Module:
    """The segmentation network of that name: (B, 1 or 3, H, W) to (B, 1, H, W) logits, with default initialisation.

    Args:
        name: a key of `networks`.
        options: for variants of SRS, e.g. `encoder_bn` and `layer` of `build_srs`.

    Raises:
        ValueError: for an unknown name, or an unknown value of an option.
    """
    return networks()[_known(name)](**options)


def build_reconstruction(variant: str = "srs") -> NestedUNet:
    """The reconstruction autoencoder of phase 1: (B, 1 or 3, H, W) to (B, 3, H, W), with default initialisation.

    Raises:
        ValueError: for an unknown variant, or a network without phase 1.
    """
    from models.nested import NestedUNet

    if not needs_encoder(variant):
        raise ValueError("it has no phase 1")
    return NestedUNet(RECONSTRUCTION_WIDTHS, RECONSTRUCTION_DEPTHS, stem=16, out_channels=3, local_contrast=True)


def build_srs(
    variant: str = "srs",
    encoder_bn: str = "frozen",
    encoder: NestedEncoder | None = None,
    layer: str = DPCONV,
    kernel_source: str = "recon",
) -> SRS:
    """The network of phase 2: (B, 1 or 3, H, W) to (B, 1, H, W) logits, with default initialisation.

    Args:
        variant: a key of `VARIANTS`.
        encoder_bn: "frozen" or "batch", see `SRS`.
        encoder: the `encode` half of a pretrained `build_reconstruction` (default: a new one). It becomes part of the
            network and is frozen; the network sets the mode of its batch norms, so pass a copy (copy.deepcopy) if
            another network contains it. It is not used if the layer needs none.
        layer: the layer in the slot `dpconv`, one of `layers`.
        kernel_source: the source of the layer. "recon": the deepest map of the (pretrained) encoder, as in the paper.
            "random": the same of a new encoder, which is not trained. "self": x itself, the segmenter's own deepest
            map; the network contains no encoder.

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
    name: str,
    encoder_bn: str = "frozen",
    encoder: NestedEncoder | None = None,
    layer: str = DPCONV,
    kernel_source: str = "recon",
) -> nn.Module:
    """`build()` of models/baselines/NAME.py, or `build(encoder)` if it has `NEEDS_ENCODER = True`.

    The other options of `build_srs` must have their defaults.
    """
    check_network(name, layer, encoder_bn, kernel_source)
    if needs_encoder(name):
        return _baseline_file(name).build(encoder or build_reconstruction(name).encode)
    if encoder is not None:
        raise ValueError(f"{name} takes no encoder")
    return _baseline_file(name).build()


def _baseline_file(name: str) -> Any:
    return _with_build(f"{baselines.__name__}.{name}")


def _layer_file(name: str) -> Any:
    _check_layer(name)
    return _with_build("models.dpconv" if name == DPCONV else f"{dynamic.__name__}.{name}")


def _with_build(name: str) -> Any:
    module = import_module(name)
    if not hasattr(module, "build"):
        file = name.replace(".", "/")
        raise ValueError(f"{file}.py has no function build. The names of other files must begin with _")
    return module


def _reads_source(layer: str) -> bool:
    return layer == DPCONV or getattr(_layer_file(layer), "NEEDS_ENCODER", True)


def _check_layer(name: str) -> None:
    if name not in layers():
        raise ValueError(f"unknown layer {name!r}; must be one of {', '.join(layers())}")
    if name == DPCONV and name in _files(dynamic):
        raise ValueError(f"{name} is the layer of the paper, models/dpconv.py: rename models/dynamic/{name}.py")


def _files(package: Any) -> list[str]:
    """The names of the modules of a package, without importing them."""
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def _known(name: str) -> str:
    if name not in networks():
        raise ValueError(f"unknown variant {name!r}; must be one of {', '.join(networks())}")
    if name in VARIANTS and name in _files(baselines):
        raise ValueError(f"{name} is a variant of SRS, models/registry.py: rename models/baselines/{name}.py")
    return name
