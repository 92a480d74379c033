"""Comparison of a fast network with the plain one before its first use, once per process for each structure.

Copies of the network get random weights, so that branches that are still zero are tested too, and small random images,
on which every fast form runs regardless of the size (`worth_it.py`). Both compute in float32. The output is compared,
and for training also the loss, all gradients (a gradient that only one network has is a difference) and the running
statistics. The copies have no hooks: hooked modules stay plain anyway, and what hooks record is for the user's images.
"""

from __future__ import annotations

import copy
import weakref
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from models.fast import worth_it
from models.fast.kept_state import give_memory_back, gradients_kept, one_thread, random_states_kept
from models.fast.known import hooks_of
from models.fast.trial import Results, errors_of, randomise, results_of, worst

# Rounding errors of gradients are up to 0.1 on images where a ReLU or a maximum switches. Each result must therefore
# agree on one of the images; a wrong computation differs on all of them.
IMAGES = 6

Make = Callable[[nn.Module, Callable[[str], bool]], Sequence[str]]

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
        with random_states_kept(), gradients_kept(network), torch.autocast("cpu", enabled=False), one_thread():
            _agreed[key] = _difference(network, make, training) or refuses(_copy(network, False, training))
        give_memory_back()
    return _agreed[key]


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
        randomise(copied)
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
            errors = errors_of(expected, results_of(network, number, training))
        least = {name: min(error, least.get(name, error)) for name, error in errors.items()}
        if not worst(least):
            return None
    return worst(least)


def _plain_results(network: nn.Module, number: int, training: bool) -> Results:
    try:
        expected = results_of(network, number, training)
    except Exception as error:  # the network of a user may raise anything
        raise _PlainFails(f"{type(error).__name__}: {_line(error)}") from error
    if not torch.stack([value.sum() for value in expected.values() if value is not None]).isfinite().all():
        raise _PlainFails("its results are not finite")
    return expected


def _line(error: Exception | None) -> str:
    return (str(error).splitlines() or [""])[0][:200]
