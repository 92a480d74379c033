"""`--cuda_graphs`: the network's forward and backward pass of a whole batch as CUDA graphs.

SRS consists of thousands of small operators: with batches of 8, a GPU waits for Python, which launches each of them.
A CUDA graph records the launches once and repeats them without Python
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). The kernels are those of the plain network.

What Python decides in `forward` is recorded, too: a random number that Python draws, or a temperature that changes with
the epoch, would stay what it was. So the graphs are compared with the plain network in the first step and then every
`COMPARE_EVERY` steps.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from utils.common.devices import repeating_sizes
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.common.runtime import layout

COMPARE_EVERY = 500  # steps; a comparison takes as long as three plain steps
# Of the norms of the outputs and of the gradients. Two runs of the same kernels differ by the order of atomic sums,
# which training in bfloat16 amplifies through ties of ReLUs and maxima.
TOLERANCE = 0.05


def graphed_for_training(
    model: nn.Module, image: Tensor, settings: argparse.Namespace, precision: Precision
) -> nn.Module:
    """The model, on its device and in training mode, with a call that replays CUDA graphs for whole batches.

    The result shares the weights of the model. The model's own call, used in validation and for pictures, does not
    change.

    Args:
        image: (3, H, W), one of the training images.

    Raises:
        UserError: on another device than CUDA, and see `GraphedNetwork`.
    """
    if precision.device.type != "cuda":
        raise UserError(f"--cuda_graphs requires CUDA, but this run uses {precision.device.type}. Omit --cuda_graphs")
    images = torch.stack([image] * settings.batch_size)
    return GraphedNetwork(model, images.to(precision.device, memory_format=layout(settings)), precision)


class GraphedNetwork(nn.Module):
    """A network in training whose call on images of one shape replays CUDA graphs; other shapes run as written.

    It shares the weights of the network, whose own call does not change.

    Args:
        network: on a CUDA device, in training mode. Its weights must stay the same tensors.
        images: (B, 3, H, W), a batch of the shape and layout to record.

    Raises:
        UserError: if the network cannot be recorded, e.g. because `forward` waits for a value of the GPU, or has hooks;
            and in a call, if the graphs no longer compute what the network computes.
    """

    def __init__(self, network: nn.Module, images: Tensor, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self._precision = precision
        self._shape = images.shape
        self._calls = 0
        if any(_hooks(part) for part in (*network.modules(), *network.parameters())):
            raise UserError(
                "--cuda_graphs: the network has hooks, which would be called when it is recorded, but not in training. "
                "Omit --cuda_graphs"
            )
        with _no_trace(network), repeating_sizes():
            self._graphed = _record(network, images, precision)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape != self._shape:
            return self.network(images)
        if self._calls % COMPARE_EVERY == 0:
            self._compare(images)
        self._calls += 1
        return self._graphed(images)

    def _compare(self, images: Tensor) -> None:
        found = self._outputs_and_gradients(self._graphed, images)
        expected = self._outputs_and_gradients(self.network, images)
        for what, ours, plain in zip(("outputs", "gradients"), found, expected, strict=True):
            difference, size = (ours - plain).norm().item(), plain.norm().item()
            # A size that is not finite is reported with the loss.
            if math.isfinite(size) and not difference <= TOLERANCE * size:
                raise UserError(
                    f"--cuda_graphs: the {what} of the recorded network differ from those of the network as written by "
                    f"{difference:.2g} (size {size:.2g}). Python code in its forward that does not do the same in each "
                    "step is probably the reason. Omit --cuda_graphs"
                )

    def _outputs_and_gradients(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Copies, because the next replay overwrites them."""
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        with _no_trace(self.network), self._precision.autocast():
            torch.manual_seed(0)  # the same dropout for both
            outputs = network(images).float()
            gradients = torch.autograd.grad(outputs.square().mean(), trained, allow_unused=True)
        return outputs.detach().clone(), torch.cat([g.float().flatten() for g in gradients if g is not None])


class _Call(nn.Module):
    """make_graphed_callables replaces the forward of the module that it gets: this one's, not the network's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def _record(network: nn.Module, images: Tensor, precision: Precision) -> nn.Module:
    try:
        # The cache of autocast would keep casts of weights beyond the step in which they are recorded.
        with precision.autocast(cached=False), warnings.catch_warnings():
            # Before torch 2.12 it warms up on one stream and records on another, which is safe.
            warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
            return torch.cuda.make_graphed_callables(_Call(network), (images,), allow_unused_input=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[0]
        raise UserError(f"--cuda_graphs: this network cannot be recorded ({cause}). Omit --cuda_graphs") from error


def _hooks(part: nn.Module | nn.Parameter) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, kind, None) for kind in kinds)


@contextmanager
def _no_trace(network: nn.Module) -> Iterator[None]:
    """A context after which buffers, such as the statistics of batch norms, and random numbers are as before it.

    Not after an error, which ends the run: a failed recording can leave CUDA unusable.
    """
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    devices = {parameter.device for parameter in network.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        yield
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
