"""The results of a network with random weights on small random images, and how far two networks are apart."""

from __future__ import annotations

import math
import random
import sys

import torch
from torch import Tensor, nn

# Rows of 16x40, 8x20, 4x10 and 2x5 pixels: sizes that each fast form supports, and sizes that it does not. For
# prediction also rows of 64x128 to 8x16, on all of which the C++ kernels and Winograd's algorithm run.
SIZE = (16, 40)
INPUTS = ((2, SIZE), (1, SIZE), (1, (64, 128)))  # batch and size; the first one alone for training
# Relative to the largest value of an output, and to the norm of a gradient. Rounding errors are about 1e-5.
OUTPUT_TOLERANCE = 3e-4
GRADIENT_TOLERANCE = 2e-3

Results = dict[str, Tensor | None]

_GRADIENT = "the gradient of "


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Random parameters and running statistics, the same in each call, that keep the maps at their scale."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            bound = (1.5 / parameter[0].numel()) ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            parameter.uniform_(0.5, 1.5, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)


def results_of(network: nn.Module, number: int, training: bool) -> Results:
    """The outputs of the network for images of this number; for training also the gradients and running statistics of
    a step."""
    generator = torch.Generator().manual_seed(number)
    results: Results = {}
    for batch, size in INPUTS[:1] if training else INPUTS:
        image = torch.randn(batch, 3, *size, generator=generator, dtype=torch.float32)
        image = image.to(memory_format=torch.channels_last)
        _seed(number)  # so that random operations, e.g. dropout, are the same in both networks
        with torch.set_grad_enabled(training):
            outputs = _tensors(network(image))
        named = f"of {batch} image(s) of {size[0]}x{size[1]} pixels"
        results |= {f"output {i} {named}": output.detach() for i, output in enumerate(outputs)}
    if training:
        targets = [torch.randn(output.shape, generator=generator, dtype=torch.float32) for output in outputs]
        loss = sum((output - target).square().mean() for output, target in zip(outputs, targets, strict=True))
        network.zero_grad(set_to_none=True)
        loss.backward()
        results |= {_GRADIENT + name: p.grad for name, p in network.named_parameters() if p.requires_grad}
        results |= {name: buffer.float().clone() for name, buffer in network.named_buffers()}
        results["the loss"] = loss.detach()
    return results


def _seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(number)


def _tensors(output: object) -> list[Tensor]:
    """The tensors that a network returns: one, or several in a list, a tuple or a dict."""
    if isinstance(output, Tensor):
        return [output]
    return [each for part in (output.values() if isinstance(output, dict) else output) for each in _tensors(part)]


def errors_of(plain: Results, fast: Results) -> dict[str, float]:
    """The error of each result relative to the plain one; infinite if only one of the two exists."""
    norms = {name: value.norm() for name, value in plain.items() if value is not None and name.startswith(_GRADIENT)}
    # Gradients that are zero up to rounding, e.g. of a bias before a batch norm, are compared on the scale of others.
    usual = torch.stack([*norms.values()]).square().mean().sqrt() if norms else torch.zeros(())
    errors = {}
    for name in plain.keys() | fast.keys():
        value, other = plain.get(name), fast.get(name)
        if value is None and other is None:
            error = 0.0
        elif value is None or other is None or value.shape != other.shape:
            error = math.inf
        elif name.startswith(_GRADIENT):
            error = ((value - other).norm() / (norms[name] + 0.1 * usual)).item()
        else:
            error = ((value - other).abs().max() / value.abs().max().clamp(min=1e-12)).item()
        errors[name] = math.inf if math.isnan(error) else error
    return errors


def worst(errors: dict[str, float]) -> str | None:
    """The result with the largest error, in words; None if all are within tolerance."""
    name = max(errors, key=lambda name: errors[name] / _tolerance(name))
    return f"{name} by {errors[name]:.0e}" if errors[name] > _tolerance(name) else None


def _tolerance(name: str) -> float:
    return GRADIENT_TOLERANCE if name.startswith(_GRADIENT) else OUTPUT_TOLERANCE
