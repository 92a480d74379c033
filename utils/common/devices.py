"""The compute device: its choice, and the differences between CUDA, XPU, MPS and the CPU."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.common.errors import UserError
from utils.common.processes import local_rank, refuse_one_gpu_for_all, world_size

ORDER = ("cuda", "xpu", "mps")  # in which --device auto tries them before it falls back to the CPU
SHARED = ("cuda",)  # devices, besides the CPU, that the processes of a job can share


def pick_device(name: str) -> torch.device:
    """The device of that name, which becomes the current one; "auto" is the first available of `ORDER`, else the CPU.

    Each process of a job uses its own GPU: "cuda" is the GPU with the number of the process on its machine. On CUDA,
    TF32 is disabled from here on: `exact_float32`.

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
                f"process {local_rank()} of this machine requires its own GPU, but there are {count}. Pass "
                f"--nproc_per_node {count} to torchrun, or --device cpu"
            )
        name = f"cuda:{local_rank()}"
    if not re.fullmatch(rf"cpu|({'|'.join(ORDER)})(:[0-9]+)?", name):
        raise UserError(f"--device must be auto, cpu, cuda, cuda:1, xpu or mps, got {name!r}")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"--device {name} is not available ({cause}). Try --device auto") from error
    if world_size() > 1 and device.type not in (*SHARED, "cpu"):
        raise UserError(f"--device {name} supports one process: run without torchrun, or pass --device cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # otherwise libraries that use the current device open a context on GPU 0
        exact_float32()
    return device


def pins_memory(name: str) -> bool:
    """Whether batches for the device of that name should be in pinned memory, for asynchronous copies to CUDA."""
    return name.startswith(("auto", "cuda")) and torch.cuda.is_available()


def exact_float32() -> None:
    """Disables TF32: by default cuDNN rounds float32 factors to 10 bits on newer cards."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def has_tf32() -> bool:
    """Whether this process allows TF32 on CUDA."""
    return torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32


@contextmanager
def repeating_sizes(repeat: bool = True) -> Iterator[None]:
    """A context in which cuDNN times its algorithms at the first batch of each size and then uses the fastest.

    This pays off where sizes repeat. The choice varies between runs, so it is disabled with --deterministic.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = repeat and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def synchronise(device: torch.device) -> None:
    """Waits until the device has finished its queue; a CPU has none."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def peak_memory(device: torch.device) -> float:
    """The peak memory so far in GB (1e9 bytes), of the GPU, or of this process on the CPU."""
    if device.type == "mps":  # MPS records no peak, but its allocator keeps the memory that it has taken
        return torch.mps.driver_allocated_memory() / 1e9
    if device.type != "cpu":
        return getattr(torch, device.type).max_memory_allocated(device) / 1e9
    import resource  # here: Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of device."""
    return getattr(torch, device.type).get_device_name(device) if device.type in ("cuda", "xpu") else device.type


def widest_float(device: torch.device) -> torch.dtype:
    """The type in which figures are summed: float64, but float32 on MPS (no float64) and XPU (not always)."""
    return torch.float32 if device.type in ("mps", "xpu") else torch.float64


def _available(kind: str) -> bool:
    return torch.backends.mps.is_available() if kind == "mps" else getattr(torch, kind).is_available()
