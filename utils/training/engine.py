"""The training loop of both phases. A phase says what is trained; everything else stands here, once.

phase  ->  fit: epochs, progress, validation, best and last checkpoints, resuming, logs, pictures
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datasets.folder import end_workers
from utils.common.devices import repeating_sizes
from utils.common.distributed import add_gradients, highest, same_weights, wait_for_all
from utils.common.pictures import save_png
from utils.common.processes import is_writer, say, world_size
from utils.common.progress import Progress
from utils.common.run_log import RunLog
from utils.common.runtime import Batch, in_force, layout, to_device
from utils.common.signals import Stopped, StopRequest
from utils.networks.checkpoints import fill, load_checkpoint
from utils.networks.speed import Speed, prediction, say_once, training
from utils.settings.config import describe
from utils.training.arithmetic import changes
from utils.training.epoch_line import COLLAPSE_ADVICE, epoch_line, has_collapsed, short
from utils.training.finite_loss import LossWatch, not_finite
from utils.training.optimizer import sgd_with_poly_decay
from utils.training.previews import distributions, preview
from utils.training.run_state import Means, Run
from utils.training.sync_batch_norm import synchronise_batch_norms


class Phase(Protocol):
    """What differs between the phases.

    `model` holds the weights. The engine calls each method with the network that runs: the model, its compiled form, or
    its fast copy.
    """

    name: str  # "recon" or "seg"
    model: nn.Module
    watch: str  # the validation figure that chooses the best epoch ...
    higher_is_better: bool  # ... and its direction
    watch_from: int  # epochs, counted from 0, before this one are never the best

    def step(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and figures of each image, each (B,); "loss" among them."""

    def draw(self, model: nn.Module, batch: Batch) -> list[tuple[Tensor, ...]]:
        """A row of tiles for each image: (3, H, W) as the images of the batch are, or (1, H, W) in 0..1."""

    # Optional: columns: tuple[str, ...], what the tiles of a row are.
    # Optional: recorded: dict[str, Any], what the checkpoints hold beside weights and settings.
    # Optional: def derive(self, means: dict[str, float]) -> dict[str, float], the validation figures, out of the means
    # over the images of what `step` returns.
    # Optional: def distributions(self, model: nn.Module, batch: Batch) -> dict[str, Tensor], what TensorBoard shows the
    # distribution of, (B, K) by name.


def fit(
    phase: Phase,
    train: DataLoader,
    val: DataLoader,
    settings: argparse.Namespace,
    folder: Path,
    device: torch.device,
) -> None:
    """Trains `phase` for settings.epochs epochs and leaves in `folder`: best.pth, last.pth, settings.txt, log.jsonl,
    tensorboard/, validation.png; with settings.save_every, epochNNNN.pth of every N-th epoch, too.

    At SIGINT or SIGTERM it finishes the step, saves last.pth and raises `Stopped`; with settings.resume it goes on from
    there, to the same result as if it had not been stopped. Several processes (`utils.common.distributed`) share each
    batch and the validation list, and stop together.

    Raises:
        UserError: see `Run.resume` and `train_one_epoch`; or if a file cannot be written.
        Stopped: at a signal, after the state was saved.
    """
    phase.model.to(device, memory_format=layout(settings))
    if settings.sync_bn and world_size() > 1:
        synchronise_batch_norms(phase.model)
    trained = [parameter for parameter in phase.model.parameters() if parameter.requires_grad]
    optimizer, schedule = sgd_with_poly_decay(trained, settings.base_lr, settings.epochs * len(train))
    recorded = getattr(phase, "recorded", {})
    run = Run(phase.name, phase.model, optimizer, schedule, settings, folder, device, recorded)
    if run.resume(len(train)):
        say(f"going on after epoch {run.epoch} of {settings.epochs} and {run.step} steps, from {run.last}")
    elif settings.init_from:
        path = Path(settings.init_from)
        fill(phase.model, load_checkpoint(path, phase.name)["model"], path)
        say(f"a new run, from the weights of {path}")
    same_weights(phase.model)
    phase.model.train()
    with _training(phase, settings, device) as speed:  # compared with the plain network before anything is computed
        run.provenance["modules"] = speed.words
    if changed := changes(run.resumed_from, run.provenance):
        say(changed)
    processes = f" in {world_size()} processes" if world_size() > 1 else ""
    say(
        f"{phase.name}: {len(train.dataset)} training and {len(val.dataset)} validation images, batches of "
        f"{settings.batch_size}{processes}, {sum(p.numel() for p in trained) / 1e6:.2f} M trained parameters, on "
        f"{device.type} ({in_force(settings, run.precision)}; {speed.words}); writes to {folder}"
    )
    if speed.warning:
        say(f"warning: {speed.warning}")
    log = RunLog(folder, run.epoch, describe(settings)) if is_writer() else None
    try:
        with StopRequest(patient=world_size() > 1) as stop:
            while run.epoch < settings.epochs:
                _one_epoch(phase, run, train, val, device, stop, log)
    finally:
        if log:
            log.close()
        for loader in (train, val):
            end_workers(loader)
    value, epoch = run.best[phase.watch], run.best["epoch"]
    say(f"{phase.name} done: best {phase.watch} {short(value)} in epoch {epoch}; {folder / 'best.pth'}")


def _one_epoch(
    phase: Phase,
    run: Run,
    train: DataLoader,
    val: DataLoader,
    device: torch.device,
    stop: StopRequest,
    log: RunLog | None,
) -> None:
    """Trains, validates, logs (if there is a log: in the writer) and saves one epoch."""
    started = time.perf_counter()
    images = len(train.dataset) - run.step * run.settings.batch_size
    train_one_epoch(phase, run, train, device, stop)
    seconds_of_training = time.perf_counter() - started
    same_weights(phase.model)  # the running statistics of batch norms are each process's own
    train_figures = run.means.total().read()
    figures = validate(phase, val, device, run, stop)
    epoch, epochs = run.epoch + 1, run.settings.epochs
    # A run shorter than the phase's first watched epoch has a best epoch, too.
    improved = run.epoch >= min(phase.watch_from, epochs - 1) and _better(phase, figures, run.best)
    best = {"epoch": epoch, phase.watch: figures[phase.watch]} if improved else run.best
    entry = {
        "epoch": epoch,
        "train": train_figures,
        "val": figures,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "seconds": round(time.perf_counter() - started, 2),
    }
    if images > 0:  # none are left of an epoch that was stopped in its validation
        entry["images_per_second"] = round(images / seconds_of_training, 3)
    if log:
        # The line comes first: that of an epoch that is run again is dropped, one that is missing stays missing.
        log.write_line(entry)
    run.finish_epoch(figures, best, improved)
    if not log:
        return
    model = phase.model.eval()
    picture = preview(partial(phase.draw, model), val, device, getattr(phase, "columns", ()))
    shown = getattr(phase, "distributions", None)
    histograms = distributions(partial(shown, model), val, device) if shown else {}
    log.write_board(entry, picture, histograms)
    save_png(run.folder / "validation.png", picture)
    Progress.write(epoch_line(phase.watch, entry, epochs, best))
    if has_collapsed(log.entries):
        Progress.write(COLLAPSE_ADVICE)


def train_one_epoch(phase: Phase, run: Run, loader: DataLoader, device: torch.device, stop: StopRequest) -> None:
    """Trains from step run.step of the epoch to its end; the figures gather in run.means.

    Raises:
        UserError: at a loss that is not finite, naming the step and its images.
        Stopped: at a signal, after the state was saved.
    """
    phase.model.train()
    epoch, epochs = run.epoch + 1, run.settings.epochs
    batches = loader.batch_sampler
    batches.start(run.epoch, run.step)
    if run.step == len(batches):
        return
    losses = LossWatch(device)
    images = {"total": len(loader.dataset), "initial": run.step * run.settings.batch_size, "unit": "img"}
    bar = Progress(**images, desc=f"epoch {epoch}/{epochs}", leave=False, disable=not is_writer())
    with _training(phase, run.settings, device), bar, repeating_sizes():
        for batch in stop.batches(loader):
            _stop_if_asked(run, stop, losses)
            run.optimizer.zero_grad(set_to_none=True)
            scaler = run.precision.scaler
            # The last batch of an epoch may be smaller: it is not worth a compilation.
            network = run.compiled if batches.size(run.step) == run.settings.batch_size else phase.model
            for part in _parts(batch, _parts_of_step(run.settings, batches.size(run.step))):
                with run.precision.autocast():
                    loss, figures = phase.step(network, to_device(part, device, layout(run.settings)))
                losses.add(loss, f"at step {run.step} of epoch {epoch}, on {', '.join(part['name'])}")
                scaler.scale(loss * (len(part["name"]) / batches.size(run.step))).backward()
                run.means.add(figures)
            add_gradients(run.trained)
            scaler.step(run.optimizer)
            scaler.update()
            run.schedule.step()
            bar.update(batches.size(run.step))
            run.step += 1
            if run.step % losses.every == 0:
                shown = {name: short(value) for name, value in run.means.read().items() if name in ("loss", "iou")}
                bar.set_postfix({**shown, "lr": f"{run.optimizer.param_groups[0]['lr']:.4f}"}, refresh=False)
    losses.look()
    _stop_if_asked(run, stop)


def _parts_of_step(settings: argparse.Namespace, images: int) -> int:
    """In how many parts a step of so many images, over all processes, is taken.

    Synchronised batch norms meet in every part: all processes then make as many as the one with the fewest images can.
    """
    return min(settings.accumulate, images // world_size()) if settings.sync_bn else settings.accumulate


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """The batch in at most `count` parts, whose sizes differ by one at most."""
    images = len(batch["name"])
    bounds = [images * i // count for i in range(count + 1)]
    for first, last in itertools.pairwise(bounds):
        if first < last:
            yield {name: values[first:last] for name, values in batch.items()}


@torch.inference_mode()
def validate(phase: Phase, loader: DataLoader, device: torch.device, run: Run, stop: StopRequest) -> dict[str, float]:
    """Means over the validation images of the figures of the phase.

    The network is the one that `evaluation.py` computes with, so that the best epoch is chosen by its figures: in
    bfloat16, batch norms that are folded round differently.

    Raises:
        UserError: if the loss is not finite.
        Stopped: at a signal, after the state was saved; the validation starts again when the run goes on.
    """
    network, speed = prediction(phase.model.eval(), run.precision)
    if speed.warning:
        say_once(f"warning: in validation {speed.warning}")
    means = Means()
    bar = Progress(loader, desc="validating", unit="batch", leave=False, disable=not is_writer())
    # A process whose share is a batch shorter goes round once more, so that all agree on a stop as often.
    rounds = highest(len(loader))
    for batch in itertools.chain(stop.batches(bar), itertools.repeat(None, rounds - len(loader))):
        _stop_if_asked(run, stop)
        if batch is not None:
            with run.precision.autocast():
                means.add(phase.step(network, to_device(batch, device, layout(run.settings)))[1])
    _stop_if_asked(run, stop)
    figures = getattr(phase, "derive", dict)(means.total().read())
    if not math.isfinite(figures["loss"]):
        raise not_finite(figures["loss"], f"in the validation of epoch {run.epoch + 1}")
    return figures


def _training(phase: Phase, settings: argparse.Namespace, device: torch.device) -> AbstractContextManager[Speed]:
    """Gives the phase's network its faster modules."""
    alone = not (settings.sync_bn and world_size() > 1)
    return training(phase.model, device, compiled=settings.compile, alone=alone)


def _stop_if_asked(run: Run, stop: StopRequest, losses: LossWatch | None = None) -> None:
    """Before each step, and after the last one: where a process whose loader the signal has ended stands, too."""
    if number := highest(stop.number):
        if losses:
            losses.look()  # broken weights must not be saved
        run.save()
        wait_for_all()  # torchrun ends the others when the first of them has gone
        done = f"epoch {run.epoch + 1} of {run.settings.epochs}, after step {run.step}"
        raise Stopped(number, f"stopped in {done}; saved as {run.last}, --resume goes on from there")


def _better(phase: Phase, figures: dict[str, float], best: dict[str, float] | None) -> bool:
    if best is None:
        return True
    value, reference = figures[phase.watch], best[phase.watch]
    return value > reference if phase.higher_is_better else value < reference
