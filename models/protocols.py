"""What the scripts ask of a segmentation network: what it must have, and what only some have."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


class SegmentationNetwork(Protocol):
    """Required: the call, and what every nn.Module has. An attribute that is not here is looked for, never expected:

    encoder_bn: str                       SRS: how its encoder's batch norms compute, see `models.SRS`
    deep_features(image) -> Tensor        SRS: what its layer reads, the encoder's deepest map or its own
    layer_inputs(image) -> (x, deep)      SRS: all that its layer gets
    dpconv: DynamicLayer                  SRS: the slot, which keeps its name whatever fills it
    """

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) to (B, 1, H, W) logits."""

    def state_dict(self) -> dict[str, Any]: ...


class DynamicLayer(Protocol):
    """What the slot `dpconv` holds. Optional: `form`, "shared" or "per_sample", see `models.DPConv`."""

    def __call__(self, x: Tensor, deep: Tensor | None) -> Tensor:
        """x (B, C, h, w) and the encoder's map, x itself without an encoder, to what is added to x."""


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
    return layer if hasattr(network, "deep_features") and isinstance(layer, MakesCodes) else None


def kernel_writer(network: nn.Module) -> WritesKernels | None:
    """The layer of `network` that writes kernels from a source feature; None if it has none."""
    layer = code_maker(network)
    return layer if isinstance(layer, WritesKernels) else None


def set_form(network: nn.Module, form: str) -> None:
    """Chooses the form in which the network's layer computes, if it has several."""
    layer = getattr(network, "dpconv", None)
    if hasattr(layer, "form"):
        layer.form = form
