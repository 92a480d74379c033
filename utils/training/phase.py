"""What the engine trains: the parts of the training that differ between the phases."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from utils.common.runtime import Batch


class Phase(Protocol):
    """The parts of the training that differ between the phases.

    `model` contains the weights. The engine calls each method with the network that runs: the model, its compiled form,
    or its fast copy.
    """

    name: str  # "recon" or "seg"
    model: nn.Module
    watch: str  # the validation figure that selects the best epoch ...
    higher_is_better: bool  # ... and its direction
    watch_from: int  # epochs, counted from 0, before this one are never the best

    def step(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and figures of each image, each (B,); "loss" among them."""

    def draw(self, model: nn.Module, batch: Batch) -> list[tuple[Tensor, ...]]:
        """A row of tiles for each image: (3, H, W) as the images of the batch are, or (1, H, W) in 0..1."""

    # Optional: columns: tuple[str, ...], what the tiles of a row are.
    # Optional: recorded: dict[str, Any], further content of the checkpoints.
    # Optional: def derive(self, means: dict[str, float]) -> dict[str, float], the validation figures, from the means
    # over the images of the figures that `step` returns.
    # Optional: def distributions(self, model: nn.Module, batch: Batch) -> dict[str, Tensor], values (B, K) by name, of
    # which TensorBoard shows histograms.
