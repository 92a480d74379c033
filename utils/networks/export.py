"""Export of a network to ONNX, OpenVINO or TorchScript, for any batch and image size, compared with torch.

An exported file maps normalised images (B, 3, H, W) float32, H and W at least 8, to logits (B, 1, H, W) float32. It
contains the network of `models/`, including padding and cropping.
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
from utils.networks.snapshot import reached_by_hooks

OPSET = 17  # of ONNX; supported since 2022
TOLERANCE = 1e-4  # of the largest logit; rounding errors are about 1e-6
# The second size is not a multiple of 8, so that its padding is traced; the others must not be padded.
SIZES = ((64, 64), (45, 70), (8, 24))
BATCHES = (1, 3)
METADATA = "metadata.json"  # extra file of TorchScript; the other formats have entries for metadata


class _BatchStatistics(nn.Module):
    """A batch norm with batch statistics (encoder_bn="batch"), in operations that every format supports."""

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
    """Exports the network, compares the file with torch on `SIZES` and `BATCHES`, and moves it into place.

    Args:
        model: on any device; is not changed.
        format: a key of `FORMATS`.
        path: with the suffix of the format; OpenVINO also writes a .bin beside its .xml.
        normalization: "imagenet" or "authors", of the images that are compared; a network can be chaotic on images
            that are normalised differently from its training.
        metadata: stored in the file.
        say: prints a line for each comparison.

    Returns:
        The largest difference, relative to the largest logit of its comparison.

    Raises:
        UserError: if the difference exceeds `TOLERANCE`, a library is missing, or the file cannot be written; an
            existing file stays unchanged.
    """
    kind = FORMATS[format]
    if path.suffix != kind.suffix:
        raise UserError(f"the output of --format {format} must end in {kind.suffix}, got {path}")
    if reached_by_hooks(model):
        raise UserError(
            f"{path} was not written: a hook refers to a part of the network, and what it stores would become a "
            "constant. Remove the hooks, or compute in the forward what they store"
        )
    plain = copy.deepcopy(model).eval().cpu()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        written = Path(scratch) / f"model{kind.suffix}"
        try:
            with warnings.catch_warnings():
                # Deprecated tracing may store sizes as constants, which the comparison would detect.
                warnings.simplefilter("ignore")
                kind.write(_for_tracing(plain), written, metadata)
                run = kind.open(written, torch.get_num_threads())
            largest = _compare(plain, run, normalization, path, say)
        except UserError:
            raise
        except Exception as error:  # each library raises different types
            cause = (str(error).splitlines() or [type(error).__name__])[0][:500]
            raise UserError(f"{path} was not written: --format {format} failed ({cause})") from error
        _move(written, path)
    return largest


def files_of(path: Path) -> list[Path]:
    """The files that an export to `path` writes."""
    return [path, path.with_suffix(".bin")] if path.suffix == FORMATS["openvino"].suffix else [path]


def _for_tracing(plain: nn.Module) -> nn.Module:
    """The network in operations that do not depend on the batch and that every format supports."""
    network = copy.deepcopy(plain)
    set_form(network, "shared")
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d and (child.training or child.running_mean is None):
                setattr(module, name, _BatchStatistics(child))
    return network


def _pictures(batch: int, size: tuple[int, int], normalization: str) -> Tensor:
    """(B, 3, *size), crops of synthetic images."""
    side = 128
    transform = Transform(side, normalization)
    drawn = [ultrasound_image(np.random.default_rng(seed), side)[0] for seed in range(batch)]
    images = torch.stack([transform(np.repeat(picture[..., None], 3, axis=2))[0] for picture in drawn])
    top = side // 4
    return images[:, :, top : top + size[0], : size[1]].contiguous()


def _compare(plain: nn.Module, run: Session, normalization: str, path: Path, say: Callable[[str], object]) -> float:
    """The largest difference, relative to the largest logit; prints a line for each comparison."""
    largest = 0.0
    for size in SIZES:
        for batch in BATCHES:
            images = _pictures(batch, size, normalization)
            expected, found = plain(images), run(images)
            difference = _difference(found, expected)
            say(f"  {batch} x 3 x {size[0]} x {size[1]}: differs from torch by {difference:.1e} of the largest logit")
            if not difference <= TOLERANCE:  # also true for NaN
                rounding = _difference(expected, copy.deepcopy(plain).double()(images.double()))
                raise UserError(
                    f"{path} was not written: on {batch} image(s) of {size[0]}x{size[1]} pixels the exported network "
                    f"differs from torch by {difference:.1e} of the largest logit, more than {TOLERANCE:g}. Check "
                    f"--normalization {normalization} (torch in float32 differs from torch in float64 by "
                    f"{rounding:.1e}; if this is as large, the network was trained on other images)"
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
        dynamo=False,  # tracing takes 2 seconds; torch.export takes 33, and its file is not faster
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 2: "height", 3: "width"} for name in ("image", "logits")},
        keep_initializers_as_inputs=True,  # otherwise the exporter merges equal weights and loses some of them
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
    """Moves the files into place. With OpenVINO the old .xml is removed first, so that it never meets a new .bin."""
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
