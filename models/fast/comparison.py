"""Comparison of a fast network with the plain one before its first use, once per process for each structure.

Copies of the network get random weights, so that branches that are still zero are tested too, and small random images,
on which every fast form runs regardless of the size (`worth_it.py`). Both compute in float32. The output is compared,
and for training also the loss, all gradients (a gradient that only one network has is a difference) and the running
statistics. The copies have no hooks: hooked modules stay plain anyway, and what hooks record is for the user's images.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import math
import random
import sys
import weakref
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from models.fast import worth_it
from models.fast.known import hooks_of

# Rows of 16x40, 8x20, 4x10 and 2x5 pixels: sizes that each fast form supports, and sizes that it does not. For
# prediction also rows of 64x128 to 8x16, on all of which the C++ kernels and Winograd's algorithm run.
SIZE = (16, 40)
INPUTS = ((2, SIZE), (1, SIZE), (1, (64, 128)))  # batch and size; the first one alone for training
# Relative to the largest value of an output, and to the norm of a gradient. Rounding errors are about 1e-5, but up to
# 0.1 for gradients on images where a ReLU or a maximum switches. Each result must therefore agree on one of the images;
# a wrong computation differs on all of them.
OUTPUT_TOLERANCE = 3e-4
GRADIENT_TOLERANCE = 2e-3
IMAGES = 6

Results = dict[str, Tensor | None]
Make = Callable[[nn.Module, Callable[[str], bool]], Sequence[str]]

_GRADIENT = "the gradient of "
_OF_EVERY_MODULE = vars(nn.Module()).keys()
_agreed: dict[tuple, str | None] = {}


def difference(
    network: nn.Module, make: Make, training: bool, refuses: Callable[[nn.Module], str | None] = lambda network: None
) -> str | None:
    """The difference between the fast form of a network and the plain one, in words; None if they agree.

    Args:
        network: is not changed.
        make: replaces modules of a copy in place, except those whose name is not allowed; returns the names of the
            replaced ones. Results are cached by this function.
        training: also compare gradients and running statistics.
        refuses: what else speaks against the fast form, in words, of a copy that it may change.
    """
    key = (make, training, _structure(network))
    if key not in _agreed:
        with _random_states_kept(), _gradients_kept(network), torch.autocast("cpu", enabled=False), _one_thread():
            _agreed[key] = _difference(network, make, training) or refuses(_copy(network, False, training))
        give_memory_back()
    return _agreed[key]


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    """A context after which the random generators of torch, Python and numpy, if it is in use, continue as before."""
    numpy, state = sys.modules.get("numpy"), random.getstate()
    numpys = numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpys)


@contextlib.contextmanager
def _gradients_kept(network: nn.Module) -> Iterator[None]:
    """A context after which the network has its gradients: functions of its copies may use its own parameters."""
    before = [(parameter, parameter.grad) for parameter in network.parameters()]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A context with one thread: more bring no gain for small images, but oneDNN would cache larger kernels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def give_memory_back() -> None:
    """Lets glibc's allocator, where there is one, return free memory, which `keep_freed_memory` would keep."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _structure(network: nn.Module) -> tuple:
    """Everything that determines the computation of a network, except the values of its parameters."""
    of_modules = tuple(
        (name, type(module), type(module).forward, module.extra_repr(), *_own(module))
        for name, module in network.named_modules()
    )
    of_numbers = tuple((name, tuple(p.shape), p.requires_grad) for name, p in network.named_parameters())
    return of_modules, of_numbers


def _own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The settings of a module, e.g. whether it is in training, and the functions that it has itself."""
    for name, value in vars(module).items():
        kind = type(value)
        if kind in (bool, int, float, str):
            yield name, value
        elif kind in (tuple, list, Namespace, SimpleNamespace) or (kind is dict and name not in _OF_EVERY_MODULE):
            yield name, repr(value)
        elif kind in (FunctionType, MethodType):
            yield name, weakref.ref(getattr(value, "__func__", value))
        else:
            yield name, kind


class _PlainFails(Exception):
    pass


def _difference(network: nn.Module, make: Make, training: bool) -> str | None:
    error: Exception | None = None
    for randomised in (True, False):
        try:
            return _first_that_differs(lambda: _copy(network, randomised, training), make, training)  # noqa: B023 - it returns
        except _PlainFails as raised:
            error = raised
    return f"it cannot be compared with the fast one ({_line(error)})"


def _copy(network: nn.Module, randomised: bool, training: bool) -> nn.Module:
    try:
        copied = copy.deepcopy(network, {id(hooks): OrderedDict() for hooks in hooks_of(network)}).float().cpu()
    except RuntimeError as error:  # computed parameters, e.g. of pruning
        raise _PlainFails(_line(error)) from error
    if not training:
        copied.eval().requires_grad_(False)
    if randomised:
        _randomise(copied)
    return copied


def _first_that_differs(plain: Callable[[], nn.Module], make: Make, training: bool) -> str | None:
    """The difference, with the name of the first differing module; None if there is none.

    Args:
        plain: creates a copy of the plain network.
    """

    def attempt(count: int | None) -> str | None:
        """The difference from the plain network if only the first `count` modules are replaced."""
        allowed = None if count is None else set(names[:count])

        def fast(network: nn.Module) -> None:
            made = make(network, (lambda name: True) if allowed is None else allowed.__contains__)
            names.extend(() if names else made)

        try:
            return _apart(plain, fast, training)
        except _PlainFails:
            raise
        except Exception as error:  # e.g. in a module that accesses another one
            return f"{type(error).__name__}: {_line(error)}"

    names: list[str] = []
    with torch.inference_mode(False), torch.enable_grad():
        if (found := attempt(None)) is None:
            return None
        low, high = 0, len(names)  # the first `low` agree, the first `high` do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if attempt(middle) else (middle, high)
    return f"the fast form of {names[high - 1] if names else 'a module'} differs from the plain one ({found})"


def _apart(plain: Callable[[], nn.Module], make: Callable[[nn.Module], None], training: bool) -> str | None:
    """The difference in words; each result must agree on at least one of the images."""
    least: dict[str, float] = {}
    for number in range(IMAGES):
        expected = _plain_results(plain(), number, training)  # one copy at a time, to save memory
        network = plain()  # another one, because a step may change any part of the first
        make(network)
        with worth_it.at_any_size():
            errors = _errors(expected, _results(network, number, training))
        least = {name: min(error, least.get(name, error)) for name, error in errors.items()}
        if not _worst(least):
            return None
    return _worst(least)


def _plain_results(network: nn.Module, number: int, training: bool) -> Results:
    try:
        expected = _results(network, number, training)
    except Exception as error:  # the network of a user may raise anything
        raise _PlainFails(f"{type(error).__name__}: {_line(error)}") from error
    if not torch.stack([value.sum() for value in expected.values() if value is not None]).isfinite().all():
        raise _PlainFails("its results are not finite")
    return expected


def _worst(errors: dict[str, float]) -> str | None:
    """The result with the largest error, in words; None if all are within tolerance."""
    worst = max(errors, key=lambda name: errors[name] / _tolerance(name))
    return f"{worst} by {errors[worst]:.0e}" if errors[worst] > _tolerance(worst) else None


def _tolerance(name: str) -> float:
    return GRADIENT_TOLERANCE if name.startswith(_GRADIENT) else OUTPUT_TOLERANCE


def _line(error: Exception | None) -> str:
    return (str(error).splitlines() or [""])[0][:200]


@torch.no_grad()
def _randomise(network: nn.Module) -> None:
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


def _results(network: nn.Module, number: int, training: bool) -> Results:
    """The results of the network for an image; for training also the gradients and running statistics of a step."""
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


def _errors(plain: Results, fast: Results) -> dict[str, float]:
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
