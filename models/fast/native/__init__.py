"""C++ kernels for passes over maps, compiled for this machine, on Linux with g++. Without them, slower torch code runs.

    prediction.cpp   the operations between convolutions in prediction: attentions of a block, input of a node
    training.cpp     the operations between the convolutions of a residual block in training

Each file is compiled once, in 2 and 4 seconds. The libraries are stored in __pycache__, or in the user's cache if the
checkout is read-only (store.py).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.fast.native.store import load_or_compile

FOLDER = Path(__file__).parent
CHANNELS = (8, 16, 32, 64, 128, 256)
LANES = 16  # numbers per vector
observer: Callable[[str, Tensor, float], None] | None = None  # called with the name, first map and seconds of a pass
_FLAGS = "-std=c++2a -O2 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC -Wl,--as-needed"


@lru_cache
def library(name: str) -> ctypes.CDLL | None:
    """The compiled functions of NAME.cpp; None if they are not available."""
    compiler = shutil.which("g++")
    if sys.platform != "linux" or compiler is None:
        return None
    source = FOLDER / f"{name}.cpp"
    # Linked with the OpenMP library of torch, because threads of another one would compete for the cores.
    openmp = (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")
    command = [compiler, *_FLAGS.split(), str(source), *map(str, openmp)]
    described = Path("/proc/cpuinfo").read_bytes().splitlines()
    cpu = next((line for line in described if line.startswith((b"flags", b"Features"))), b"")
    sources = [path.read_bytes() for path in (source, *sorted(FOLDER.glob("*.h")))]
    key = hashlib.sha256(b"\n".join([*map(os.fsencode, command), cpu, *sources])).hexdigest()[:16]

    def compile(library: Path) -> None:
        environment = {**os.environ, "TMPDIR": str(library.parent)}  # removed even if the compiler is killed
        words = [*command, "-o", str(library)]
        subprocess.run(words, check=True, capture_output=True, timeout=120, env=environment)

    try:
        return load_or_compile(f"{name}-{key}", FOLDER / "__pycache__", compile)
    except (OSError, subprocess.SubprocessError):
        return None


def run(function: Any, x: Tensor, *arguments: Any) -> None:
    """Calls a compiled function, a pass over maps like x."""
    started = time.perf_counter()
    function(*arguments)
    if observer is not None:
        observer(function.__name__, x, time.perf_counter() - started)
