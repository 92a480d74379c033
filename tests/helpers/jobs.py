"""Work for the processes of a job, in a module that they can import, and the start of such a job without torchrun."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy import Toy, make_loaders
from toy import settings as toy_settings
from waiting import join

import evaluation
import models
import predict
import train_recon
import train_seg
from utils.common import distributed
from utils.common.distributed import add_gradients, same_weights
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.common.processes import is_writer, rank, world_size
from utils.common.runtime import set_up
from utils.common.signals import Stopped
from utils.prediction.predictor import Predictor
from utils.training.cuda_graphs import GraphedNetwork
from utils.training.engine import fit
from utils.training.sync_batch_norm import synchronise_batch_norms

BATCH, STEPS = 5, 2


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_job(processes: int, work: Callable[..., None], *args: Any) -> None:
    """Runs work(*args) in that many processes that have the imports behind them already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jobs"])
    port = free_port()
    ranks = [context.Process(target=_as_rank, args=(i, processes, port, work, args)) for i in range(processes)]
    for process in ranks:
        process.start()
    assert join(*ranks) == [0] * processes


def _as_rank(number: int, processes: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    work(*args)
    os._exit(0)  # as utils.common.script.run_script does


def train(script: str, argv: list[str]) -> None:
    module = {"recon": train_recon, "seg": train_seg}[script]
    module.main(module.parser().settings(argv))


def evaluate(argv: list[str]) -> None:
    evaluation.main(evaluation.settings(argv))


def predict_with_a_failure(argv: list[str], listing: Path) -> None:
    """predict.py, which must exit with 1; the images that this process has read go into read0, read1"""
    share: list[str] = []
    read = Predictor.read
    Predictor.read = lambda self, image, **options: share.append(str(image)) or read(self, image, **options)
    try:
        predict.main(predict.settings(argv))
    except SystemExit as ended:
        assert ended.code == 1
    listing.with_name(f"{listing.name}{rank()}").write_text("\n".join(share))


def take_steps_in_float64(name: str, result: Path, device: str = "cpu") -> None:
    """Training steps of a phase, each process on its share of each batch.

    In float32 two correct runs part within a few steps, since a rounding error decides ties of ReLUs and maxima; in
    float64 what is left of a difference is an error.
    """
    distributed.join(torch.device("cpu"))
    torch.manual_seed(rank())  # the processes begin with other weights: they must take the first one's
    if name == "recon":
        phase = train_recon.Reconstruction(models.build_reconstruction("srs_tiny"))
    else:
        phase = train_seg.Segmentation(models.build_srs("srs_tiny", encoder_bn="batch"))
    phase.model.to(device).double().train()
    if world_size() > 1:
        synchronise_batch_norms(phase.model)
    same_weights(phase.model)
    trained = [parameter for parameter in phase.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        images = torch.randn(BATCH, 3, 24, 24, generator=generator, dtype=torch.float64)
        batch = {"image": images, "mask": (images[:, :1] > 0.5).double()}
        share = {key: value[rank() :: world_size()].to(device) for key, value in batch.items()}
        loss, _ = phase.step(phase.model, share)
        optimizer.zero_grad()
        (loss * len(share["image"]) / BATCH).backward()
        add_gradients(trained)
        optimizer.step()
    if is_writer():
        torch.save(phase.model.state_dict(), result)


def record_a_waiting_network(error: Path) -> None:
    """Apart, because a failed recording leaves CUDA in an unknown state."""

    class Waiting(torch.nn.Conv2d):
        def forward(self, images):
            return super().forward(images) * (2 if images.mean().item() > 0 else 1)

    device = torch.device("cuda")
    try:
        GraphedNetwork(Waiting(3, 1, 3).to(device), torch.randn(2, 3, 9, 9, device=device), Precision("off", device))
    except UserError as refusal:
        error.write_text(str(refusal))


def draw_in_each_step(base: Path, folder: Path, stop_at: int | None, result: Path) -> None:
    """A training that draws a number in each step, stopped in one step or resumed; result0, result1: the numbers."""

    class Drawing(Toy):
        def step(self, model, batch):
            if torch.is_grad_enabled():
                numbers.append(torch.rand(1).item() + random.random() + np.random.rand())  # noqa: NPY002
            return super().step(model, batch)

    device = set_up(settings := toy_settings(base_dir=str(base), resume="auto", threads=1))
    numbers: list[float] = []
    phase = Drawing()
    if stop_at:
        phase.at_step[stop_at] = lambda batch: os.kill(os.getpid(), signal.SIGTERM)
    with contextlib.suppress(Stopped):
        fit(phase, *make_loaders(base), settings, folder, device)
    result.with_name(f"{result.name}{rank()}").write_text(json.dumps(numbers))


def normalize_together(result: Path) -> None:
    """A synchronised batch norm, in float16 and bfloat16, each process on its share of a batch of five.

    The writer saves, by type: its share's result and gradient, and the gradients of the weight and the bias (summed),
    and the running statistics.
    """
    distributed.join(torch.device("cpu"))
    found = {}
    for dtype in (torch.float16, torch.bfloat16):
        norm = synchronised_norm()
        x = large_maps().to(dtype)[rank() :: world_size()].requires_grad_()
        with torch.autocast("cpu", dtype):
            y = norm(x)
        y.float().square().sum().backward()
        add_gradients(norm.parameters())
        kept = {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
        found[str(dtype)] = kept | dict(norm.named_buffers())
    if is_writer():
        torch.save(found, result)


def synchronised_norm() -> torch.nn.Module:
    torch.manual_seed(0)
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(8))
    torch.nn.init.uniform_(norm[0].weight, 0.5, 1.5)
    if world_size() > 1:
        synchronise_batch_norms(norm)
    return norm[0]


def large_maps() -> torch.Tensor:
    """(5, 8, 96, 96): a channel's sum over an image is 46080, over two of them more than float16 holds."""
    return 5 + torch.randn(5, 8, 96, 96, generator=torch.Generator().manual_seed(1))
