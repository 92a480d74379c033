"""The layer in DPConv's place in words: what report and demo page call it, and how they say what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from models import DPCONV
from models.protocols import code_maker, kernel_writer

SOURCES = {
    "recon": "the deepest feature map of the frozen reconstruction encoder",
    "random": "the deepest feature map of an encoder that was never trained",
    "self": "the segmentation network's own deepest feature map",
}


@dataclass(frozen=True)
class LayerWords:
    """A layer that makes a code of each image.

    Attributes:
        name: DPConv, or what --dynamic calls it.
        kernel_source: what it reads, a key of `SOURCES`.
        writes_kernels: whether it computes a kernel from the code.
    """

    name: str
    kernel_source: str = "recon"
    writes_kernels: bool = True

    @property
    def is_dpconv(self) -> bool:
        return self.name == "DPConv"

    @property
    def made(self) -> str:
        """What it makes of the code."""
        return "kernel" if self.writes_kernels else "code"

    def explain(self) -> str:
        """What it computes, for a reader who has not seen the paper."""
        reads = f"{self.name} reduces {SOURCES[self.kernel_source]} to a code"
        if self.is_dpconv:
            reads += " g and computes a kernel from it: the kernel of output channel o is g · W + V"
        elif self.writes_kernels:
            reads += " and computes a kernel from the code"
        else:
            reads += ". It has no kernel: the code itself changes the channels of x30"
        return f"{reads}. What the layer makes of x30, the segmentation network's deepest feature map, is added to x30."


def layer_words(network: nn.Module, settings: Mapping[str, Any]) -> LayerWords | None:
    """The words for the layer of a network; None if no code of the image goes into it.

    settings: of the training, with "dynamic" and "kernel_source" (the paper's if missing).
    """
    if code_maker(network) is None:
        return None
    name = settings.get("dynamic", DPCONV)
    source = settings.get("kernel_source", "recon")
    return LayerWords("DPConv" if name == DPCONV else name, source, kernel_writer(network) is not None)
