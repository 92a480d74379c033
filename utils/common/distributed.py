"""Communication between the processes of a job that torchrun has started.

    torchrun --nproc_per_node 2 train_seg.py --Dataset BUS

Without torchrun a script is one process, for which every function here returns at once. Each process takes its share of
each batch, and all have the same weights at every step. Collective functions must be called by all processes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.common.errors import UserError
from utils.common.processes import rank, torchrun_holds_the_store, world_size

# How long a process waits for one that does not answer; one that has ended is noticed at once. It must exceed the time
# that the writer needs for pictures and checkpoints on a slow disk while the others wait.
TIMEOUT = timedelta(minutes=10)


def join(device: torch.device, timeout: timedelta = TIMEOUT) -> None:
    """Connects the processes of the job (collective).

    Args:
        device: of this process.
        timeout: how long a process waits for one that does not answer.

    Raises:
        UserError: if they cannot be connected.
    """
    if world_size() == 1 or dist.is_initialized():
        return
    with _explained():
        dist.init_process_group(
            # Small values go through gloo on GPUs too, so that they need not wait for the GPU.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=_store(TIMEOUT),
            rank=rank(),
            world_size=world_size(),
            timeout=timeout,
        )


def gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks; anything that can be pickled (collective)."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    with _explained():
        dist.all_gather_object(values, value)
    return values


def highest(number: int) -> int:
    """The maximum over the processes (collective)."""
    if world_size() == 1:
        return number
    with _explained():
        dist.all_reduce(result := torch.tensor(number), dist.ReduceOp.MAX)
    return int(result)


def wait_for_all() -> None:
    """Waits until every process has called this (collective)."""
    highest(0)


def same_weights(model: nn.Module) -> None:
    """Gives every process the writer's parameters and buffers (collective)."""
    if world_size() > 1:
        with _explained(), torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, src=0)


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each gradient by the sum over the processes (collective).

    For the gradient of the mean over the whole batch, each process weights its loss by its share of the batch before
    the backward pass; weighting afterwards would be wrong, because synchronised batch norms mix the processes.

    All gradients go through one all-reduce in a fixed order, so that a resumed run adds them in the same order as an
    uninterrupted one. (DistributedDataParallel sends them in groups during the backward pass, but changes the groups
    after the first step.)
    """
    if world_size() == 1:
        return
    parameters = list(parameters)
    zeros = torch.zeros((), device=parameters[0].device)
    parts = [zeros.expand(p.shape) if p.grad is None else p.grad for p in parameters]
    used = zeros.new_tensor([float(p.grad is not None) for p in parameters])
    flat = torch.cat([*(part.reshape(-1) for part in parts), used])
    with _explained():
        dist.all_reduce(flat)
    *totals, used = flat.split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, total, processes in zip(parameters, totals, used, strict=True):
        if parameter.grad is None:
            if not processes:  # no process has used it: without a gradient, the optimizer leaves it alone
                continue
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(total.view_as(parameter))


class AddUp(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of their gradients (collective, both passes)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        with _explained():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return AddUp.apply(gradient)


def says_first(message: str) -> bool:
    """Whether this process is the first of the job to report this message, by torchrun's store."""
    try:
        return _store(timedelta(seconds=5)).add(f"said/{hashlib.sha256(message.encode()).hexdigest()}", 1) == 1
    except RuntimeError:
        return True


def _store(timeout: timedelta) -> dist.Store:
    """The store through which the processes find each other: torchrun's, or else one in the first process.

    torchrun's store outlives the processes and still contains the addresses of an earlier attempt, hence the prefix.
    """
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE is {world_size()}, but MASTER_ADDR and MASTER_PORT are not set: start the processes with "
            "torchrun, or unset WORLD_SIZE for one process"
        ) from error
    if not torchrun_holds_the_store():
        return dist.TCPStore(address, port, is_master=rank() == 0, timeout=timeout)
    store = dist.TCPStore(address, port, is_master=False, timeout=timeout)
    return dist.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            "another process of this job has ended or does not answer. Its own output, or torchrun's summary below, "
            f"shows the cause ({cause})"
        ) from error
