"""Contexts after which random generators, gradients and threads are as before."""

from __future__ import annotations

import contextlib
import ctypes
import random
import sys
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
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
def gradients_kept(network: nn.Module) -> Iterator[None]:
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
def one_thread() -> Iterator[None]:
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
