"""Exported files as functions: images (B, 3, H, W) to logits (B, 1, H, W), float32 tensors on the CPU.

ONNX Runtime and OpenVINO are optional (requirements-export.txt) and are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from utils.common.libraries import library

Session = Callable[[Tensor], Tensor]


def open_torchscript(path: Path, threads: int) -> Session:
    """A TorchScript file; it uses the threads of torch and ignores `threads`."""
    network = torch.jit.load(path, map_location="cpu")
    return torch.inference_mode()(lambda images: network(images))


def open_onnx(path: Path, threads: int) -> Session:
    """An ONNX file in ONNX Runtime, float32, on `threads` threads.

    Raises:
        UserError: if ONNX Runtime is not installed.
    """
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])


def has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU."""
    return "BF16" in library("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_openvino(path: Path, threads: int, bf16: bool = False) -> Session:
    """An OpenVINO file (the .xml, with its .bin in the same folder) on the CPU, on `threads` threads.

    Args:
        bf16: compute in bfloat16 if the CPU supports it; otherwise in float32.

    Raises:
        UserError: if OpenVINO is not installed.
    """
    core = library("openvino").Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",  # by default OpenVINO uses bf16 if the CPU supports it
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # otherwise all processes of a job would use the first cores
    }
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    return lambda images: torch.from_numpy(compiled(images.numpy())[0])
