"""`--compile`: torch.compile for the one call that is made over and over, a training step of a whole batch."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from utils.common.errors import UserError

BACKEND = "inductor"


def compiled_for_training(model: nn.Module, wanted: bool) -> nn.Module:
    """The model with its call compiled at the first batch; the model itself if not `wanted`.

    It shares the model's weights; the model's own call, in validation and for pictures, stays as it is, and so does its
    state dict. Sizes are constants of the compiled code, which is faster so.

    Raises:
        UserError: on a CPU without a C++ compiler, which inductor needs.
    """
    if not wanted:
        return model
    compiler = os.environ.get("CXX", "c++")
    if next(model.parameters()).device.type == "cpu" and not (shutil.which(compiler) or shutil.which("g++")):
        raise UserError(
            "--compile needs a C++ compiler (Debian: apt-get install g++); without --compile none is needed"
        )
    return torch.compile(model, backend=BACKEND, dynamic=False)
