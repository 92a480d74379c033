"""`--compile`: torch.compile for the training step of a whole batch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from utils.common.errors import UserError
from utils.common.signals import Stopped, StopRequest

BACKEND = "inductor"


def compiled_for_training(model: nn.Module, wanted: bool) -> nn.Module:
    """The model with a call that is compiled at the first batch; the model itself if not `wanted`.

    The result shares the weights of the model. The model's own call, used in validation and for pictures, and its state
    dict do not change. Sizes are compiled as constants, which is faster.

    Raises:
        UserError: on a CPU without a C++ compiler, which inductor requires.
    """
    if not wanted:
        return model
    compiler = os.environ.get("CXX", "c++")
    if next(model.parameters()).device.type == "cpu" and not (shutil.which(compiler) or shutil.which("g++")):
        raise UserError(
            "--compile requires a C++ compiler on CPUs (Debian: apt-get install g++). Install one, or omit --compile"
        )
    return torch.compile(model, backend=BACKEND, dynamic=False)


@contextmanager
def compiler_errors(stop: StopRequest) -> Iterator[None]:
    """A context for the training steps, the first of which compiles the network.

    Raises:
        Stopped: if the compiler has failed after a signal: Ctrl-C ends its process, too. There is nothing to save: a
            process compiles in its first step.
        UserError: if the compiler has failed for another reason.
    """
    try:
        yield
    except Exception as error:
        if not any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__):
            raise
        if stop.number:
            raise Stopped(stop.number, "stopped while torch.compile was compiling the first step") from error
        lines = (line.strip() for line in str(error).splitlines())
        reason = next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
        raise UserError(f"--compile: torch cannot compile this training step ({reason}). Omit --compile") from error
