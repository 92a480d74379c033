"""Stops a run whose loss is no number any more, without waiting for the GPU at each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils.common.errors import UserError

# Steps between two looks at the loss, each of which waits for all that the GPU has yet to do. A CPU has no queue.
LOOK_EVERY = {"cuda": 20, "mps": 20, "xpu": 20}


class LossWatch:
    """The losses of the last steps, left on the device until `every` of them wait to be looked at."""

    def __init__(self, device: torch.device) -> None:
        self.every = LOOK_EVERY.get(device.type, 1)
        self.waiting: list[tuple[Tensor, str]] = []

    def add(self, loss: Tensor, where: str) -> None:
        """One more loss; `where` is for the error. Raises as `look` does."""
        self.waiting.append((loss.detach(), where))
        if len(self.waiting) >= self.every:
            self.look()

    def look(self) -> None:
        """Looks at those that wait; due before weights are saved.

        Raises:
            UserError: at the first that is not finite, naming its step and images.
        """
        waiting, self.waiting = self.waiting, []
        values = torch.stack([loss for loss, _ in waiting]).tolist() if waiting else []
        for value, (_, where) in zip(values, waiting, strict=True):
            if not math.isfinite(value):
                raise not_finite(value, where)


def not_finite(loss: float, where: str) -> UserError:
    return UserError(
        f"the loss is {loss} {where}. The checkpoints are those of before; a lower --base_lr usually helps, in a new "
        "run (--output_dir) from scratch or from a good epoch (--init_from)"
    )
