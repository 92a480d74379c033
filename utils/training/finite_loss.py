"""Stops a run whose loss has become NaN or infinite, without waiting for the GPU at each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils.common.errors import UserError

# Steps between two checks of the loss, each of which waits for the queue of the GPU. A CPU has no queue.
LOOK_EVERY = {"cuda": 20, "mps": 20, "xpu": 20}


class LossWatch:
    """The losses of the last steps, which stay on the device until there are `every` of them to check."""

    def __init__(self, device: torch.device) -> None:
        self.every = LOOK_EVERY.get(device.type, 1)
        self.waiting: list[tuple[Tensor, str]] = []

    def add(self, loss: Tensor, where: str) -> None:
        """Adds a loss; `where` is for the error message. Raises as `look` does."""
        self.waiting.append((loss.detach(), where))
        if len(self.waiting) >= self.every:
            self.look()

    def look(self) -> None:
        """Checks the waiting losses; must be called before weights are saved.

        Raises:
            UserError: for the first loss that is not finite, with its step and images.
        """
        waiting, self.waiting = self.waiting, []
        values = torch.stack([loss for loss, _ in waiting]).tolist() if waiting else []
        for value, (_, where) in zip(values, waiting, strict=True):
            if not math.isfinite(value):
                raise not_finite(value, where)


def not_finite(loss: float, where: str) -> UserError:
    return UserError(
        f"the loss is {loss} {where}. The saved checkpoints are from before this step. Start a new run with a lower "
        "--base_lr (in another --output_dir), from scratch or from a good epoch (--init_from)"
    )
