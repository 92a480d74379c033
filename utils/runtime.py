"""What every script does around its main: the device, the seed, and errors written for the person who reads them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from utils.errors import UserError


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else Apple's MPS, else the CPU; any other name is torch's.

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


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch; the data's order and augmentation have seeds of their own (datasets.folder)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from numpy's global state
    torch.manual_seed(seed)


def run_script(main: Callable[[Any], object], parse: Callable[[], Any]) -> None:
    """Runs main(parse()): a UserError is printed in one piece and exits with 2, Ctrl-C with 130."""
    try:
        main(parse())
    except UserError as error:
        sys.exit(_fail(error, 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 130))


def _fail(reason: object, code: int) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return code
