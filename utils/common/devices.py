"""Where a script computes: the choice of the device, and what differs between CUDA, XPU, MPS and the CPU."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.common.errors import UserError
from utils.common.processes import local_rank, refuse_one_gpu_for_all, world_size

ORDER = ("cuda", "xpu", "mps")  # of --device auto; the CPU where none of them is available
SHARED = ("cuda",)  # by several processes of a job, beside the CPU


def pick_device(name: str) -> torch.device:
    """The device of that name, made the current one; "auto" is the first available of `ORDER`, else the CPU.

    Each process of a job takes its own GPU: "cuda" is the one with the process's number on its machine. On CUDA,
    float32 means float32 from here on: `exact_float32`.

    Raises:
        UserError: for a device that is unknown or not available, or that the processes of a job cannot share.
    """
    refuse_one_gpu_for_all(name)
    if name == "auto":
        kinds = ORDER if world_size() == 1 else SHARED
        name = next((kind for kind in kinds if _available(kind)), "cpu")
    if name == "cuda" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if local_rank() >= count:
            raise UserError(
                f"process {local_rank()} of this machine needs its own GPU, and there are {count}: "
                f"--nproc_per_node {count} (torchrun), or --device cpu"
            )
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here ({cause}); try --device auto") from error
    if world_size() > 1 and device.type not in (*SHARED, "cpu"):
        raise UserError(f"--device {name} takes one process: run the script without torchrun, or pass --device cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # else libraries that take the current device would open a context on GPU 0
        exact_float32()
    return device


def pins_memory(name: str) -> bool:
    """Whether batches for the device of that name are to wait in pinned memory, from which CUDA copies at once."""
    return name.startswith(("auto", "cuda")) and torch.cuda.is_available()


def exact_float32() -> None:
    """Has CUDA multiply float32 as float32. By default cuDNN rounds the factors to 10 bits (TF32) on newer cards."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def has_tf32() -> bool:
    """Whether float32 may be TF32 on CUDA as the process is set."""
    return torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32


@contextmanager
def repeating_sizes(repeat: bool = True) -> Iterator[None]:
    """Within this context cuDNN times its algorithms at the first batch of each size, and then takes the fastest.

    That pays where sizes repeat. It is not always the same algorithm: not with --deterministic.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = repeat and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def synchronise(device: torch.device) -> None:
    """Returns when the device has done all that it was given; a CPU has no queue."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def peak_memory(device: torch.device) -> float:
    """GB (1e9 bytes) at most so far: of the GPU's memory, or of this process's."""
    if device.type == "mps":  # it counts no peak; its allocator keeps what it has taken
        return torch.mps.driver_allocated_memory() / 1e9
    if device.type != "cpu":
        return getattr(torch, device.type).max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of device."""
    return getattr(torch, device.type).get_device_name(device) if device.type in ("cuda", "xpu") else device.type


def widest_float(device: torch.device) -> torch.dtype:
    """float64, in which figures are summed; float32 on MPS, which has no float64, and on XPU, which may have none."""
    return torch.float32 if device.type in ("mps", "xpu") else torch.float64


def _available(kind: str) -> bool:
    return torch.backends.mps.is_available() if kind == "mps" else getattr(torch, kind).is_available()
