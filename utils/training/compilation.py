"""`--compile`: torch.compile for the training step of a whole batch."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from utils.common.errors import UserError

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
