"""The setup of a script before it computes: the device, the seed, the other processes, and torch's options."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.common import distributed
from utils.common.devices import has_tf32, pick_device
from utils.common.precision import Precision
from utils.common.processes import is_writer, rank

Batch = dict[str, Any]  # "image" (B, 3, S, S), "mask" (B, 1, S, S) where there is one, "name" list of B


def set_up(settings: argparse.Namespace) -> torch.device:
    """Sets the seeds and determinism, selects the device and connects the processes of the job.

    Raises:
        UserError: see `utils.common.devices.pick_device` and `utils.common.distributed.join`.
    """
    seed_everything(settings.seed)
    spare_overheads()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        # cuBLAS reads this when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    # See `utils.common.devices.repeating_sizes`; the engine enables it for training crops, which have one size.
    torch.backends.cudnn.benchmark = not settings.deterministic and _sizes_repeat(settings)
    device = pick_device(settings.device)
    distributed.join(device)
    return device


def _sizes_repeat(settings: argparse.Namespace) -> bool:
    """Whether all images have one size; otherwise cuDNN would time its algorithms at each size."""
    return getattr(settings, "resize", "img_size") != "keep" and not getattr(settings, "crop", None)


def layout(settings: argparse.Namespace) -> torch.memory_format:
    """The memory layout of weights and maps. The results of the two layouts are equal up to rounding."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def describe_execution(settings: argparse.Namespace, precision: Precision) -> str:
    """Precision, threads, memory layout and other execution options, in a few words for the log."""
    words = ["float32" if precision.name == "off" else f"{precision.name} mixed precision"]
    words += [f"TF32 {'allowed' if has_tf32() else 'off'}"] if precision.device.type == "cuda" else []
    threads = torch.get_num_threads()
    words += ["1 thread" if threads == 1 else f"{threads} threads"]
    words += ["channels_last" if getattr(settings, "channels_last", True) else "NCHW"]
    words += ["compiled training step"] if getattr(settings, "compile", False) else []
    words += ["CUDA graphs"] if getattr(settings, "cuda_graphs", False) else []
    words += ["deterministic"] if settings.deterministic else []
    return ", ".join(words)


def to_device(batch: Batch, device: torch.device, memory_format: torch.memory_format = torch.channels_last) -> Batch:
    """The batch with its tensors on the device, in that layout."""
    return {
        name: value.to(device, non_blocking=True, memory_format=memory_format) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def spare_overheads() -> None:
    """Reduces the overhead of Python's garbage collector and of the system's allocator."""
    keep_freed_memory()
    # The 350,000 objects of the imports stay; the collector would visit them once or twice per training step.
    gc.freeze()


def keep_freed_memory() -> None:
    """Lets glibc's allocator, where there is one, keep large freed blocks for reuse.

    By default it requests blocks over 32 MB from the system, which zeroes them page by page, and returns them when they
    are freed: at 256x256 with batch size 8 this costs more than the arithmetic (docs/development/speed.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch; shuffling and augmentation have separate seeds (datasets.folder)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from numpy's global state
    torch.manual_seed(seed)


def seed_other_process(seed: int, epoch: int, step: int) -> None:
    """Seeds Python, numpy and torch for a training step, unless this process is the writer.

    So each process draws its own dropout masks, and a resumed run draws the same ones again. The states of the writer's
    generators are in last.pth instead.
    """
    if not is_writer():
        seed_everything(int(np.random.SeedSequence([seed, epoch, step, rank()]).generate_state(1)[0]))
