"""The networks of SRS, and how to build them.

import models

autoencoder = models.build_reconstruction("srs")            # phase 1
srs = models.build("srs")                                   # phase 2, with a fresh encoder
srs = models.build_srs("srs", encoder=autoencoder.encode)   # phase 2, with the pretrained one
logits = srs(images)                                        # (B, 3, H, W) -> (B, 1, H, W)
models.networks(), models.layers()                          # the names that --variant and --dynamic take

Read blocks.py, nested.py, dpconv.py and srs.py in this order: they implement the method. `models.fast` contains faster
twins of these modules for CPUs, which this folder does not import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.registry import (
    DPCONV,
    ENCODER_BN,
    KERNEL_SOURCES,
    STRIDE,
    VARIANTS,
    build,
    build_layer,
    build_reconstruction,
    build_srs,
    check_network,
    layers,
    needs_encoder,
    needs_phase_1,
    networks,
)

if TYPE_CHECKING:
    from models import authors
    from models.any_network import with_dynamic
    from models.dpconv import DPConv, DPConv2d
    from models.nested import NestedUNet
    from models.srs import SRS

__all__ = [
    "DPCONV",
    "ENCODER_BN",
    "KERNEL_SOURCES",
    "SRS",
    "STRIDE",
    "VARIANTS",
    "DPConv",
    "DPConv2d",
    "NestedUNet",
    "authors",
    "build",
    "build_layer",
    "build_reconstruction",
    "build_srs",
    "check_network",
    "layers",
    "needs_encoder",
    "needs_phase_1",
    "networks",
    "with_dynamic",
]

# The modules of these names, which are imported on first use, so that the names of networks are available without
# torch.
_HOMES = {"DPConv": "dpconv", "DPConv2d": "dpconv", "NestedUNet": "nested", "SRS": "srs", "with_dynamic": "any_network"}


def __getattr__(name: str) -> Any:
    if name == "authors":
        return import_module("models.authors")
    if name in _HOMES:
        return getattr(import_module(f"models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
