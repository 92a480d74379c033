"""What a script sets up before it works."""

from __future__ import annotations

import platform
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import waiting

from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.common.runtime import seed_everything, seed_other_process

ROOT = Path(__file__).resolve().parents[3]

MEMORY_AFTER_FREEING = """
import sys, torch
from utils.common.runtime import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
block = torch.zeros(100_000_000, dtype=torch.uint8)
assert resident() - before > 90e6
del block
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what is set")
@pytest.mark.parametrize(("keep", "kept"), [("keep", True), ("default", False)])
def test_freed_memory_is_kept_for_the_next_use(keep, kept):
    command = [sys.executable, "-c", MEMORY_AFTER_FREEING, keep]
    done = waiting.run(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 90e6) == kept


def test_float16_needs_cuda():
    with pytest.raises(UserError, match=r"fp16 requires CUDA.*cpu.*bf16"):
        Precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize(("amp", "name"), [("auto", "off"), ("off", "off"), ("bf16", "bf16")])
def test_precision_on_a_cpu(amp, name):
    precision = Precision(amp, torch.device("cpu"))
    assert precision.name == name
    with precision.autocast():
        out = torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 2, 2))
    assert out.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)


def test_other_processes_draw_other_numbers_in_each_step_and_the_writer_goes_on(monkeypatch):
    def numbers(rank, step):
        monkeypatch.setenv("WORLD_SIZE", "3")
        monkeypatch.setenv("RANK", str(rank))
        seed_everything(1)
        seed_other_process(1, 2, step)
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    seed_everything(1)
    of_writer = torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002
    assert numbers(0, 3) == numbers(0, 4) == of_writer
    drawn = [numbers(rank, step) for rank in range(3) for step in range(2)]
    assert len({number for of_step in drawn for number in of_step}) == 3 * 5
    assert numbers(2, 1) == drawn[-1]
