"""Passes over maps in C++, compiled for this machine: on Linux, where g++ is. All that they do torch does, too, slower.

    prediction.cpp   what stands between the convolutions in prediction: a block's attentions, a node's joined input
    training.cpp     what stands between a residual block's convolutions in training

Each is compiled once, in 2 and 4 seconds, and kept in __pycache__, beside what Python has compiled there.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
CHANNELS = (8, 16, 32, 64, 128, 256)
LANES = 16  # numbers that are computed with at once
observer: Callable[[str, Tensor, float], None] | None = None  # is told each pass' name, its first map and its seconds
_FLAGS = "-std=c++2a -O2 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC -Wl,--as-needed"


@lru_cache
def library(name: str) -> ctypes.CDLL | None:
    """The compiled functions of NAME.cpp, or None where they cannot be had."""
    compiler = shutil.which("g++")
    if sys.platform != "linux" or compiler is None:
        return None
    source = FOLDER / f"{name}.cpp"
    # Linked with the OpenMP that torch has loaded: another one's threads would wait for the same cores.
    openmp = (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")
    command = [compiler, *_FLAGS.split(), str(source), *map(str, openmp)]
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))), ""
    )
    sources = [path.read_text() for path in (source, *sorted(FOLDER.glob("*.h")))]
    key = hashlib.sha256("\n".join([*command, cpu, *sources]).encode()).hexdigest()[:16]
    target = FOLDER / "__pycache__" / f"{name}-{key}.so"
    try:
        if target.exists():
            return ctypes.CDLL(str(target))
        with _folder_beside(target) as folder:
            compiled = Path(folder) / target.name
            subprocess.run([*command, "-o", str(compiled)], check=True, capture_output=True, timeout=120)
            loaded = ctypes.CDLL(str(compiled))
            if compiled.parent.parent == target.parent:
                compiled.replace(target)
            return loaded
    except (OSError, subprocess.SubprocessError):
        return None


def run(function: Any, x: Tensor, *arguments: Any) -> None:
    """Calls one of the compiled functions, a pass over maps like x."""
    started = time.perf_counter()
    function(*arguments)
    if observer is not None:
        observer(function.__name__, x, time.perf_counter() - started)


def _folder_beside(target: Path) -> tempfile.TemporaryDirectory:
    """A folder for a while; somewhere else where nothing can be kept, so that this process alone has what is in it."""
    try:
        target.parent.mkdir(exist_ok=True)
        return tempfile.TemporaryDirectory(dir=target.parent)
    except OSError:
        return tempfile.TemporaryDirectory()
