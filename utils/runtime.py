"""What every script does around its main: the device, the seed, and errors written for the person who reads them."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils import distributed
from utils.errors import UserError
from utils.precision import Precision
from utils.signals import Stopped

Batch = dict[str, Any]  # "image" (B, 3, S, S), "mask" (B, 1, S, S) where there is one, "name" list of B


def set_up(settings: argparse.Namespace) -> torch.device:
    """What a script does first: seeds, determinism, the device, and the other processes of the job.

    Raises:
        UserError: see `pick_device` and `utils.distributed.join`.
    """
    seed_everything(settings.seed)
    spare_overheads()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        # cuBLAS reads this when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    # Times cuDNN's algorithms at the first batch of each size, and then takes the fastest: not always the same one.
    torch.backends.cudnn.benchmark = not settings.deterministic
    device = pick_device(settings.device)
    distributed.join(device)
    return device


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else Apple's MPS, else the CPU.

    Each process of a job takes a GPU of its own: "cuda" is the one with the process's number on its machine.

    Raises:
        UserError: for a device that is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here ({cause}); try --device auto") from error
    return device


def layout(settings: argparse.Namespace) -> torch.memory_format:
    """Of weights and maps: channels_last is what convolutions run fastest in, with the same numbers up to rounding."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def compile_model(model: nn.Module) -> None:
    """Has torch.compile (inductor) compile the model at its first batch, in place; its state dict stays as it is.

    Raises:
        UserError: on a CPU without a C++ compiler, which inductor needs.
    """
    compiler = os.environ.get("CXX", "c++")
    if next(model.parameters()).device.type == "cpu" and not (shutil.which(compiler) or shutil.which("g++")):
        raise UserError(
            "--compile needs a C++ compiler (Debian: apt-get install g++); without --compile none is needed"
        )
    model.compile()


def in_force(settings: argparse.Namespace, precision: Precision) -> str:
    """How a run computes, in a few words for the log."""
    words = [f"{precision.name} mixed precision", f"{torch.get_num_threads()} threads"]
    words += ["channels_last" if settings.channels_last else "NCHW"]
    words += ["compiled"] if settings.compile else []
    words += ["deterministic"] if settings.deterministic else []
    return ", ".join(words)


def to_device(batch: Batch, device: torch.device, memory_format: torch.memory_format = torch.channels_last) -> Batch:
    """The batch with its tensors on the device, in that layout."""
    return {
        name: value.to(device, non_blocking=True, memory_format=memory_format) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def spare_overheads() -> None:
    """Keeps Python and the system's allocator from doing over and over what need not be done again."""
    keep_freed_memory()
    # What the imports have made stays: the collector would look at its 350,000 objects once or twice a training step.
    gc.freeze()


def keep_freed_memory() -> None:
    """Has glibc's allocator, where there is one, keep large blocks for the next use; other systems' are as they are.

    By default it takes blocks over 32 MB from the system, zeroed page by page, and gives them back when they are freed:
    at 256x256 in batches of 8 that costs more than the arithmetic (docs/performance.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch; the data's order and augmentation have seeds of their own (datasets.folder)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from numpy's global state
    torch.manual_seed(seed)


def run_script(main: Callable[[Any], object], parse: Callable[[], Any]) -> None:
    """Runs main(parse()): a UserError is printed in one piece and exits with 2, a signal with 128 + its number.

    `main` may call sys.exit() with a number of its own.
    """
    threading.excepthook = _leave_to_main_thread
    code: int | str | None = 0
    try:
        main(parse())
    except UserError as error:
        code = _fail(f"error: {error}", 2)
    except Stopped as stopped:
        code = _fail(str(stopped), 128 + stopped.number)
    except KeyboardInterrupt:
        code = _fail("interrupted", 128 + signal.SIGINT)
    except SystemExit as request:
        code = request.code
    if distributed.world_size() > 1:
        # Not by way of Python's end: gloo's threads may still run then, and abort a process that was done.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


def _leave_to_main_thread(error: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread. On a full disk its error is raised again at the next flush: once is enough."""
    if not isinstance(error.exc_value, OSError | UserError):
        sys.__excepthook__(error.exc_type, error.exc_value, error.exc_traceback)


def _fail(message: str, code: int) -> int:
    if distributed.says_first(message):
        print(message, file=sys.stderr, flush=True)
    return code
