"""The inference engines: torch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import copy
import tempfile
import threading
import time
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn

from models.nested import prepare_image
from utils.common.errors import UserError
from utils.common.libraries import library
from utils.common.precision import Precision
from utils.common.printable import one_line
from utils.common.processes import say
from utils.networks import ENGINES
from utils.networks.export import FORMATS, export_model
from utils.networks.exported_sessions import Session, has_bfloat16, open_onnx, open_openvino
from utils.networks.snapshot import Snapshot, hooks_of, reached_by_hooks
from utils.networks.speed import Speed, prediction, say_once, unedited

_PREPARING = threading.RLock()


def load_engine(
    name: str, model: nn.Module, precision: Precision, threads: int | None = None, normalization: str = "imagenet"
) -> nn.Module:
    """The network, ready for inference: a call maps images (B, 1 or 3, H, W) float32 to logits (B, 1, H, W).

        predict = load_engine("openvino", model, Precision("bf16", torch.device("cpu")), threads=2)
        logits = predict(images)

    Images are normalised, H and W at least 8, on the device of `precision`; so are the logits, float32. The other
    engines read the weights of `model` from a temporary file that `utils.networks.export` writes and compares with
    torch, which takes some seconds.

    Args:
        name: one of `ENGINES`.
        model: is not changed, except that a network that cannot be copied (e.g. a pruned one, or one with hooks that
            refer to its parts) runs itself, in evaluation mode and on the device. Later changes of its weights have no
            effect. Later edits (hooks, functions, replaced modules, settings) take effect with torch while the caller
            keeps `model`; the other engines run what was exported.
        precision: the device and number format; "off" is float32 in every engine.
        threads: of onnxruntime and openvino (default: the number of torch, from --threads, OMP_NUM_THREADS or the
            cores).
        normalization: "imagenet" or "authors", as in the training of `model`.

    Raises:
        UserError: if the library is not installed, does not support the device or precision, or differs from torch.
        ValueError: for an unknown engine; when called, for images that the network does not accept.
    """
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
    if name == "torch":
        return _Torch(model, precision)
    if precision.device.type != "cpu":
        raise UserError(f"--engine {name} requires --device cpu")
    if precision.name == "bf16" and name == "onnxruntime":
        raise UserError("--engine onnxruntime supports only float32: pass --amp off, or --engine openvino")
    library(name)
    if precision.name == "bf16" and not has_bfloat16():
        raise UserError("this CPU does not support bfloat16 (AVX512-BF16 or AMX): pass --amp off")
    return _Exported(_open(name, model, precision, threads or torch.get_num_threads(), normalization))


class _Torch(nn.Module):
    """`network` is the network that runs, `speed` describes it in words."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self._model = weakref.ref(model)  # a model that nobody holds cannot be edited, and needs no memory
        self._prepare(model)

    def _prepare(self, model: nn.Module) -> None:
        state = Snapshot(model), unedited(self.precision)
        weights = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
        network, self.speed = prediction(model, self.precision)
        if self.speed.warning:
            say_once(f"warning: {self.speed.warning}")
        self.fast = network is not model
        self.dtype, self.network = next(weights, torch.float32), network if self.fast else self._plain(model)
        self.snapshot, self.unedited = state

    def _plain(self, model: nn.Module) -> nn.Module:
        return _copied(model).eval().to(self.precision.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        model = self._model()
        with _PREPARING:  # threads may share the engine
            if model is not None and self._edited():  # so that e.g. hooks added to the original model take effect
                with torch.inference_mode(False):
                    self._prepare(model)
            network, fast, dtype = self.network, self.fast, self.dtype
        if not len(images):  # fast forms cannot divide an empty batch
            return self.forward(images.new_zeros(1, *images.shape[1:]))[:0]
        images = images.to(dtype, memory_format=torch.channels_last)
        try:
            return self._run(network, images)
        except ValueError:  # images that the network does not accept
            raise
        except Exception as error:
            if model is None or not fast:
                raise
            return self._run_plain(model, images, error)

    def _run(self, network: nn.Module, images: Tensor) -> Tensor:
        with self.precision.autocast():
            return network(images).float()

    def _run_plain(self, model: nn.Module, images: Tensor, error: Exception) -> Tensor:
        """For a forward that reads parts of the network only for some images, which a fast network may not have."""
        with torch.inference_mode(False):
            plain = self._plain(model)
        logits = self._run(plain, images)  # raises if the error is that of the network
        why = f"the fast one failed ({type(error).__name__}: {one_line(str(error))[:200]})"
        with _PREPARING:
            self.network, self.fast = plain, False
            self.speed = Speed("plain modules", f"the slower plain network runs: {why}")
        say_once(f"warning: {self.speed.warning}")
        return logits

    def _edited(self) -> bool:
        return self.snapshot.edited() or self.unedited != unedited(self.precision)


def _copied(model: nn.Module) -> nn.Module:
    """A copy with the hooks of the model, so that what they record stays where their owner reads it; the model itself
    if it cannot be copied, or if its hooks would not reach the copy."""
    if reached_by_hooks(model):
        return model
    try:
        return copy.deepcopy(model, {id(hooks): hooks for hooks in hooks_of(model)})
    except RuntimeError:  # computed parameters, e.g. of pruning
        return model


class _Exported(nn.Module):
    def __init__(self, run: Session) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        return self.run(prepare_image(images).contiguous())[..., :height, :width]


def _open(name: str, model: nn.Module, precision: Precision, threads: int, normalization: str) -> Session:
    format = "onnx" if name == "onnxruntime" else "openvino"
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / f"model{FORMATS[format].suffix}"
        largest = export_model(model, format, path, normalization, {}, say=lambda line: None)
        bf16 = precision.name == "bf16"
        run = open_onnx(path, threads) if name == "onnxruntime" else open_openvino(path, threads, bf16)
    seconds = time.perf_counter() - started
    say(f"exported the network to {name} in {seconds:.1f} s; logits differ by at most {largest:.1e} of the largest")
    return run
