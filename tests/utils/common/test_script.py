"""How scripts end."""

from __future__ import annotations

import argparse

import pytest
import torch

from utils.common.script import run_script

TRAINING = argparse.Namespace(batch_size=8, accumulate=1, crop=None)
PREDICTION = argparse.Namespace(batch_size=8, tile=None)


def ends(capsys, error, args=TRAINING):
    """The exit code and what is printed as an error, of a script whose main raises `error`."""

    def main(_):
        raise error

    with pytest.raises(SystemExit) as ended:
        run_script(main, lambda: args)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nSee documentation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1]\n. DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
    ],
    ids=lambda error: f"{type(error).__name__}: {str(error).split()[-1]}",
)
def test_memory_that_has_run_out_is_one_line_with_what_helps(capsys, error):
    code, printed = ends(capsys, error)
    assert code == 2
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert all(flag in printed for flag in ("--batch_size", "--accumulate", "--crop")) and "--tile" not in printed


def test_what_helps_a_prediction(capsys):
    _, printed = ends(capsys, MemoryError(), PREDICTION)
    assert "--batch_size" in printed and "--tile" in printed and "--accumulate" not in printed


def test_memory_that_really_has_run_out(capsys):
    def main(_):
        torch.empty(1 << 50)

    with pytest.raises(SystemExit) as ended:
        run_script(main, lambda: TRAINING)
    assert ended.value.code == 2 and "--batch_size" in capsys.readouterr().err


def test_other_errors_keep_their_traceback():
    def main(_):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        run_script(main, lambda: TRAINING)
