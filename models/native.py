"""attention.cpp, compiled for this machine: on Linux, where g++ is. All that it does torch does, too, slower.

It is compiled once, in two seconds, and kept in __pycache__, beside what Python has compiled there.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("attention.cpp")
CHANNELS = (8, 16, 32, 64, 128, 256)
KERNEL_SIZE = 7
LANES = 16  # the narrowest map
_FLAGS = "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC -Wl,--as-needed"


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had."""
    compiler = shutil.which("g++")
    if sys.platform != "linux" or compiler is None:
        return None
    # Linked with the OpenMP that torch has loaded: another one's threads would wait for the same cores.
    openmp = (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")
    command = [compiler, *_FLAGS.split(), str(SOURCE), *map(str, openmp)]
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    key = hashlib.sha256("\n".join([*command, cpu, SOURCE.read_text()]).encode()).hexdigest()[:16]
    target = SOURCE.parent / "__pycache__" / f"attention-{key}.so"
    try:
        if target.exists():
            return _declared(ctypes.CDLL(str(target)))
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent if os.access(target.parent, os.W_OK) else None) as folder:
            compiled = Path(folder) / target.name
            subprocess.run([*command, "-o", str(compiled)], check=True, capture_output=True, timeout=120)
            loaded = _declared(ctypes.CDLL(str(compiled)))
            if compiled.parent.parent == target.parent:
                compiled.replace(target)
            return loaded
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None


def attend(
    y: Tensor, shortcut: Tensor, reduce: Tensor, expand: Tensor, kernel: Tensor, last: bool
) -> tuple[Tensor, Tensor | None] | None:
    """relu(S(z) * z + shortcut) with z = C(y) * y, without gradients; None where it cannot be had for these maps.

    Args:
        y: (B, C, H, W), float32 or bfloat16, as all maps on the CPU and channels_last.
        shortcut: the same in float32.
        reduce: (C / 8, C), of the channel attention, and
        expand: (C, C / 8).
        kernel: (1, 2, 7, 7), of the spatial attention, over the channels' sum and maximum.
        last: whether nothing but the result in y's type is wanted.

    Returns:
        the result in y's type, and in float32 if y is float32 or not `last`.
    """
    batch, channels, height, width = y.shape
    fits = channels in CHANNELS and width >= LANES and width % 2 == 0 and kernel.shape[-1] == KERNEL_SIZE
    if not fits or (functions := library()) is None:
        return None
    y, shortcut = (each.contiguous(memory_format=torch.channels_last) for each in (y, shortcut))
    narrow = y.dtype == torch.bfloat16
    out = None if narrow and last else torch.empty_like(shortcut)
    out_narrow = torch.empty_like(y) if narrow else None
    scratch = torch.empty(functions.srs_scratch(height, width, channels))
    tensors = y, shortcut, out, out_narrow, reduce, expand, kernel, scratch
    pointers = [None if each is None else each.data_ptr() for each in tensors]
    functions.srs_attend(narrow, *pointers, batch, height, width, channels, len(reduce))
    return (out_narrow if narrow else out), out


def _declared(functions: ctypes.CDLL) -> ctypes.CDLL:
    functions.srs_scratch.restype = ctypes.c_long
    functions.srs_scratch.argtypes = [ctypes.c_long] * 3
    functions.srs_attend.restype = None
    functions.srs_attend.argtypes = [ctypes.c_bool, *[ctypes.c_void_p] * 8, *[ctypes.c_long] * 5]
    return functions
