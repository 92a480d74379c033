"""The time of a piece of work, and what the machine can do at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from utils.common.devices import synchronise


def timed(work: Callable[[], Any], device: torch.device, repeat: int, warm_up: int = 2) -> float:
    """The median of `repeat` runs in seconds, after `warm_up` that are not counted."""
    times = []
    for _ in range(warm_up + repeat):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[warm_up:])


def convolution_peak(device: torch.device) -> float:
    """FLOP/s of 3x3 convolutions of 64 to 64 channels, float32, channels last."""
    conv = nn.Conv2d(64, 64, 3, padding=1).to(device, memory_format=torch.channels_last)
    image = torch.randn(8, 64, 128, 128, device=device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return 2 * 64 * 64 * 9 * image[:, 0].numel() / timed(lambda: conv(image), device, 5, warm_up=1)
