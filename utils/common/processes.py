"""Which process of a job this is, from what torchrun has set. Imports no torch.

Without torchrun a script is one process. What the processes do together is in `utils.common.distributed`.
"""

from __future__ import annotations

import os

from utils.common.errors import UserError
from utils.common.printable import printable


def rank() -> int:
    """This process's number in the job."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes the job has, on all its machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_writer() -> bool:
    """Whether this process is the one that prints and writes files."""
    return rank() == 0


def say(text: str) -> None:
    """Prints, once for the job; control characters, as names of files may hold, are escaped."""
    if is_writer():
        print(printable(text), flush=True)


def torchrun_holds_the_store() -> bool:
    """Whether the processes meet in torchrun's own store, which outlives them."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def refuse_one_gpu_for_all(device: str) -> None:
    """Whether every process can take its own GPU.

    Raises:
        UserError: for a device such as cuda:0 in a job of several processes.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) > 1 and device.startswith("cuda:"):
        raise UserError(
            f"--device {device} would put all processes of this machine on one GPU. Pass --device cuda: each process "
            "takes the GPU of its number; the environment variable CUDA_VISIBLE_DEVICES chooses which GPUs there are"
        )
