"""The sum of gradients over processes, with the other process played by its part of the all-reduce."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.common import distributed
from utils.common.errors import UserError


def parameters(*gradients):
    made = [nn.Parameter(torch.zeros(2)) for _ in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.full((2,), float(gradient))
    return made


def test_a_parameter_that_some_processes_do_not_use(monkeypatch):
    """In order: used by both, by this one, by the other, by none (which then has no gradient, as in one process)."""
    here, there = parameters(1, 2, None, None), parameters(10, None, 30, None)
    sent = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda flat: sent.append(flat.clone()))
    distributed.add_gradients(there)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda flat: flat.add_(sent[0]))
    distributed.add_gradients(here)
    assert [None if p.grad is None else p.grad.tolist() for p in here] == [[11, 11], [2, 2], [30, 30], None]


def test_processes_without_an_address_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"WORLD_SIZE is 2, but MASTER_ADDR and MASTER_PORT are not set.*torchrun"):
        distributed.join(torch.device("cpu"))
