"""The number of this process in its job, from the environment variables of torchrun. Does not import torch.

Without torchrun a script is one process. The communication of the processes is in `utils.common.distributed`.
"""

from __future__ import annotations

import os

from utils.common.errors import UserError
from utils.common.printable import printable


def rank() -> int:
    """The number of this process in the job."""
    return _number("RANK", 0) if world_size() > 1 else 0  # a job system may leave the variable to a single process


def world_size() -> int:
    """The number of processes of the job, on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process on its machine."""
    return _number("LOCAL_RANK", 0) if world_size() > 1 else 0


def _number(variable: str, default: int) -> int:
    """The number in an environment variable; the default if it is unset or empty."""
    return int(os.environ.get(variable, "").strip() or default)


def refuse_bad_environment() -> None:
    """Checks the variables of torchrun, before anything depends on them.

    Raises:
        UserError: for one that is not a number.
    """
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        try:
            _number(variable, 0)
        except ValueError:
            raise UserError(
                f"the environment variable {variable} must be an integer, got {os.environ[variable]!r}: unset it, or "
                "start the processes with torchrun"
            ) from None


def is_writer() -> bool:
    """Whether this process prints and writes files."""
    return rank() == 0


def say(text: str) -> None:
    """Prints a text once per job; control characters, which file names may contain, are escaped."""
    if is_writer():
        try:
            print(printable(text), flush=True)
        except BrokenPipeError:
            raise
        except OSError:  # a full disk: the files of the run have their own errors, and log.jsonl has the figures
            pass


def torchrun_holds_the_store() -> bool:
    """Whether the processes use torchrun's own store, which outlives them."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def refuse_one_gpu_for_all(device: str) -> None:
    """Checks that every process can use its own GPU.

    Raises:
        UserError: for a device such as cuda:0 in a multi-process job.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) > 1 and device.startswith("cuda:"):
        raise UserError(
            f"--device {device} would put all processes of this machine on one GPU. Pass --device cuda, which gives "
            "each process the GPU of its number; the environment variable CUDA_VISIBLE_DEVICES selects the GPUs"
        )
