"""What every script does around its main: the device, the seed, and errors written for the person who reads them."""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.signals import Stopped

Batch = dict[str, Any]  # "image" (B, 3, S, S), "mask" (B, 1, S, S) where there is one, "name" list of B


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises:
        UserError: for a device that is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here ({cause}); try --device auto") from error
    return device


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device, channels last."""
    return {
        name: value.to(device, non_blocking=True, memory_format=torch.channels_last)
        if isinstance(value, Tensor)
        else value
        for name, value in batch.items()
    }


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch; the data's order and augmentation have seeds of their own (datasets.folder)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from numpy's global state
    torch.manual_seed(seed)


def run_script(main: Callable[[Any], object], parse: Callable[[], Any]) -> None:
    """Runs main(parse()): a UserError is printed in one piece and exits with 2, a signal with 128 + its number."""
    threading.excepthook = _leave_to_main_thread
    try:
        main(parse())
    except UserError as error:
        sys.exit(_fail(f"error: {error}", 2))
    except Stopped as stopped:
        sys.exit(_fail(str(stopped), 128 + stopped.number))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 128 + signal.SIGINT))


def _leave_to_main_thread(error: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread. On a full disk its error is raised again at the next flush: once is enough."""
    if not isinstance(error.exc_value, OSError | UserError):
        sys.__excepthook__(error.exc_type, error.exc_value, error.exc_traceback)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
