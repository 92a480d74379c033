"""The paper's optimizer and learning-rate schedule, for both phases."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR


def sgd_with_poly_decay(parameters: Iterable[nn.Parameter], base_lr: float, total_steps: int) -> tuple[SGD, LambdaLR]:
    """SGD with momentum 0.9 and weight decay 1e-4, and its schedule, to be stepped after each optimizer step.

    After step i, counted from 0, the rate is base_lr * (1 - i / total_steps)^0.9, so that steps 0 and 1 both run at
    base_lr. Paper: SRS, section IV-A.
    """
    optimizer = SGD(parameters, lr=base_lr, momentum=0.9, weight_decay=1e-4, fused=True)
    return optimizer, LambdaLR(optimizer, lambda step: (1 - max(step - 1, 0) / total_steps) ** 0.9)
