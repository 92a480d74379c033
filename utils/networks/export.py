"""A network as a file for other programs: ONNX, OpenVINO or TorchScript, any batch and size, checked against torch.

A file takes images (B, 3, H, W) float32, normalised, H and W at least 8, and gives logits (B, 1, H, W) float32. It
holds the network as `models/` has it, padding and cropping included.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets.prepare.sample import ultrasound_image
from datasets.transforms import Transform
from models.protocols import set_form
from utils.common.errors import UserError
from utils.common.files import replacing
from utils.common.libraries import library
from utils.networks.exported_sessions import Session, open_onnx, open_openvino, open_torchscript

OPSET = 17  # of ONNX; readers since 2022 have it
TOLERANCE = 1e-4  # of the largest logit; rounding is some 1e-6
# The second is no multiple of 8, so that its padding is traced, and must be seen to vanish in the others.
SIZES = ((64, 64), (45, 70), (8, 24))
BATCHES = (1, 3)
METADATA = "metadata.json"  # TorchScript's extra file; OpenVINO's rt_info and ONNX's metadata_props have entries


class _BatchStatistics(nn.Module):
    """A batch norm that takes the statistics of its batch (encoder_bn="batch"), in operations that every format has."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        deviation = x - x.mean((0, 2, 3), keepdim=True)
        variance = deviation.square().mean((0, 2, 3), keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        return deviation * scale + self.bias[:, None, None]


@torch.no_grad()
def export_model(
    model: nn.Module,
    format: str,
    path: Path,
    normalization: str,
    metadata: Mapping[str, str],
    say: Callable[[str], object] = print,
) -> float:
    """Writes the network, after the file was opened and compared with torch on `SIZES` and `BATCHES`.

    Args:
        model: on any device; stays as it is.
        format: a key of `FORMATS`.
        path: with that format's suffix; OpenVINO writes a .bin beside its .xml.
        normalization: "imagenet" or "authors", of the pictures that are compared: a network may well be chaotic on
            others than it has seen.
        metadata: goes into the file.
        say: gets a line for each comparison.

    Returns:
        The largest difference, as a share of the largest logit of its comparison.

    Raises:
        UserError: if the two differ by more than `TOLERANCE`, a library is missing, or the file cannot be written; what
            was there before stays.
    """
    kind = FORMATS[format]
    if path.suffix != kind.suffix:
        raise UserError(f"{path}: a file of --format {format} ends in {kind.suffix}")
    plain = copy.deepcopy(model).eval().cpu()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        written = Path(scratch) / f"model{kind.suffix}"
        try:
            with warnings.catch_warnings():
                # That tracing is deprecated, and may take sizes for constants: the comparison sees whether it has.
                warnings.simplefilter("ignore")
                kind.write(_for_tracing(plain), written, metadata)
                run = kind.open(written, torch.get_num_threads())
            largest = _compare(plain, run, normalization, path, say)
        except UserError:
            raise
        except Exception as error:  # each library raises types of its own
            cause = (str(error).splitlines() or [type(error).__name__])[0][:500]
            raise UserError(f"{path} was not written: --format {format} failed ({cause})") from error
        _move(written, path)
    return largest


def _for_tracing(plain: nn.Module) -> nn.Module:
    """The network in operations that do not depend on the batch at hand, and that every format has."""
    network = copy.deepcopy(plain)
    set_form(network, "shared")
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d and (child.training or child.running_mean is None):
                setattr(module, name, _BatchStatistics(child))
    return network


def _pictures(batch: int, size: tuple[int, int], normalization: str) -> Tensor:
    """(B, 3, *size), cut out of synthetic pictures."""
    side = 128
    transform = Transform(side, normalization)
    drawn = [ultrasound_image(np.random.default_rng(seed), side)[0] for seed in range(batch)]
    images = torch.stack([transform(np.repeat(picture[..., None], 3, axis=2))[0] for picture in drawn])
    top = side // 4
    return images[:, :, top : top + size[0], : size[1]].contiguous()


def _compare(plain: nn.Module, run: Session, normalization: str, path: Path, say: Callable[[str], object]) -> float:
    """The largest difference, as a share of the largest logit; a line for each comparison."""
    largest = 0.0
    for size in SIZES:
        for batch in BATCHES:
            images = _pictures(batch, size, normalization)
            expected, found = plain(images), run(images)
            difference = _difference(found, expected)
            say(f"  {batch} x 3 x {size[0]} x {size[1]}: differs from torch by {difference:.1e} of the largest logit")
            if not difference <= TOLERANCE:  # not a number is not, either
                rounding = _difference(expected, copy.deepcopy(plain).double()(images.double()))
                raise UserError(
                    f"{path} was not written: on {batch} image(s) of {size[0]}x{size[1]} pixels what was exported "
                    f"differs from torch by {difference:.1e} of the largest logit, over {TOLERANCE:g} (torch in "
                    f"float32 differs from torch in float64 by {rounding:.1e}: if that is as much, the network is not "
                    f"meant for such images; is --normalization {normalization} what it was trained with?)"
                )
            largest = max(largest, difference)
    return largest


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _example() -> Tensor:
    return torch.zeros(2, 3, *SIZES[1])


def _write_onnx(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    onnx = library("onnx")
    torch.onnx.export(
        network,
        (_example(),),
        path,
        dynamo=False,  # by tracing: 2 seconds; by way of torch.export it takes 33, and the file is no faster
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 2: "height", 3: "width"} for name in ("image", "logits")},
        keep_initializers_as_inputs=True,  # else it merges equal weights, and loses some of them
    )
    content = onnx.load(path)
    del content.graph.input[1:]
    onnx.helper.set_model_props(content, dict(metadata))
    onnx.save(content, path)


def _write_openvino(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    openvino = library("openvino")
    shape = openvino.PartialShape([-1, 3, -1, -1])
    content = openvino.convert_model(_traced(network), example_input=_example(), input=[shape])
    content.inputs[0].get_tensor().set_names({"image"})
    content.outputs[0].get_tensor().set_names({"logits"})
    for name, value in metadata.items():
        content.set_rt_info(value, ["srs", name])
    openvino.save_model(content, path, compress_to_fp16=False)


def _write_torchscript(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    _traced(network).save(path, _extra_files={METADATA: json.dumps(dict(metadata), indent=2)})


def _traced(network: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.trace(network, (_example(),), check_trace=False)


def _move(written: Path, path: Path) -> None:
    """The files to their place. OpenVINO's are two: the old .xml goes first, so that it never meets a new .bin."""
    weights = written.with_suffix(".bin")
    if weights.exists():
        with replacing(path.with_suffix(".bin")) as beside:
            beside.write_bytes(weights.read_bytes())
            path.unlink(missing_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(written.read_bytes())


@dataclass(frozen=True)
class _Format:
    suffix: str
    write: Callable[[nn.Module, Path, Mapping[str, str]], None]
    open: Callable[[Path, int], Session]


FORMATS = {
    "onnx": _Format(".onnx", _write_onnx, open_onnx),
    "openvino": _Format(".xml", _write_openvino, open_openvino),
    "torchscript": _Format(".pt", _write_torchscript, open_torchscript),
}
