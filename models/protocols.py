"""The interface of segmentation networks: the required parts, and the optional ones that scripts check for."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


class SegmentationNetwork(Protocol):
    """The required parts: the call, and the interface of nn.Module. Optional attributes, as in SRS:

    encoder_bn: str                       the batch-norm statistics of the encoder, see `models.SRS`
    deep_features(image) -> Tensor        the source of the layer: the deepest map of the encoder or of the segmenter
    layer_inputs(image) -> (x, deep)      both inputs of the layer
    dpconv: DynamicLayer                  the layer; the attribute has this name for every layer
    """

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) to (B, 1, H, W) logits."""

    def state_dict(self) -> dict[str, Any]: ...


class DynamicLayer(Protocol):
    """A layer for the slot `dpconv`. Optional: `form`, "shared" or "per_sample", see `models.DPConv`."""

    def __call__(self, x: Tensor, deep: Tensor | None) -> Tensor:
        """x (B, C, h, w) and the encoder's map (x itself without an encoder) to the term that is added to x."""


@runtime_checkable
class MakesCodes(Protocol):
    """A layer that makes a code of each image: report, TensorBoard and demo page show it."""

    def code(self, deep: Tensor) -> Tensor:
        """(B, D, h, w) to (B, numbers)."""


@runtime_checkable
class WritesKernels(MakesCodes, Protocol):
    """A layer that also makes a kernel of the code: report and demo page show slices of it."""

    def kernels(self, deep: Tensor) -> Tensor:
        """(B, D, h, w) to (B, C, C, k, k)."""


def code_maker(network: nn.Module) -> MakesCodes | None:
    """The layer of `network` that makes codes from a source feature; None if it has none."""
    layer = getattr(network, "dpconv", None)
    if not hasattr(network, "deep_features") or not isinstance(layer, MakesCodes):
        return None
    return None if isinstance(layer.code, nn.Module) else layer  # a part of the layer, not its method


def kernel_writer(network: nn.Module) -> WritesKernels | None:
    """The layer of `network` that writes kernels from a source feature; None if it has none."""
    layer = code_maker(network)
    return layer if isinstance(layer, WritesKernels) else None


def set_form(network: nn.Module, form: str) -> None:
    """Sets the form in which the layer of the network computes, if it has several."""
    layer = getattr(network, "dpconv", None)
    if hasattr(layer, "form"):
        layer.form = form
