"""The training loop of both phases. A `Phase` (phase.py) defines what is trained; the loop does everything else.

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

import torch
from torch.utils.data import DataLoader

from datasets.folder import end_workers
from datasets.pairing import files_hash
from utils.common.devices import repeating_sizes
from utils.common.distributed import add_gradients, highest, same_weights, wait_for_all
from utils.common.pictures import save_png
from utils.common.processes import is_writer, say, world_size
from utils.common.progress import Progress
from utils.common.run_log import RunLog
from utils.common.runtime import Batch, describe_execution, layout, seed_other_process, to_device
from utils.common.signals import Stopped, StopRequest
from utils.common.tables import aligned
from utils.networks.checkpoints import fill, load_checkpoint
from utils.networks.speed import Speed, prediction, say_once, training
from utils.settings.config import describe
from utils.settings.recorded import refuse_other_preprocessing
from utils.training.arithmetic import changes, earlier_parts
from utils.training.compilation import compiler_errors
from utils.training.cuda_graphs import graphed_for_training
from utils.training.epoch_line import COLLAPSE_ADVICE, epoch_line, has_collapsed, short, time_left
from utils.training.finite_loss import LossWatch, not_finite
from utils.training.optimizer import sgd_with_poly_decay
from utils.training.phase import Phase
from utils.training.previews import distributions, preview
from utils.training.run_state import Means, Run
from utils.training.small_images import rounding_warning
from utils.training.sync_batch_norm import synchronise_batch_norms

LINE_EVERY = 600.0  # seconds between two lines within an epoch, in a log file; each epoch prints a line at its end


def fit(
    phase: Phase,
    train: DataLoader,
    val: DataLoader,
    settings: argparse.Namespace,
    folder: Path,
    device: torch.device,
) -> None:
    """Trains `phase` for settings.epochs epochs and writes to `folder`: best.pth, last.pth, settings.txt, log.jsonl,
    tensorboard/, validation.png; with settings.save_every also epochNNNN.pth of every N-th epoch.

    At SIGINT or SIGTERM it finishes the step, saves last.pth and raises `Stopped`. With settings.resume it resumes from
    there, with the same result as an uninterrupted run. Several processes (`utils.common.distributed`) share each batch
    and the validation list, and stop together.

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
    run.provenance["files"] = {"training": files_hash(train.dataset.cases), "validation": files_hash(val.dataset.cases)}
    if run.resume(len(train)):
        say(f"resuming from {run.last}: {run.epoch} of {settings.epochs} epochs and {run.step} steps are done")
    elif settings.init_from:
        path = Path(settings.init_from)
        initial = load_checkpoint(path, phase.name)
        # White levels may differ, since they scale other images to the same range.
        refuse_other_preprocessing(initial["settings"], settings, path, ("normalization",))
        fill(phase.model, initial["model"], path)
        say(f"new run, initialised from {path}")
    same_weights(phase.model)
    phase.model.train()
    if settings.cuda_graphs:
        image = train.dataset[0]["image"]
        run.of_whole_batches = graphed_for_training(phase.model, image, settings, run.precision)
    with _training(phase, settings, device) as speed:  # compares the fast network with the plain one first
        run.provenance["modules"] = speed.words
    if changed := changes(run.resumed_from, run.provenance):
        say(changed)
    run.provenance["earlier"] = earlier_parts(run.resumed_from, bool(changed), run.epoch)
    images = f"{len(train.dataset)} training and {len(val.dataset)} validation images"
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    header = {
        "data": f"{settings.Dataset}: {images}, batch size {settings.batch_size}{processes}",
        "network": f"{settings.variant}, {sum(p.numel() for p in trained) / 1e6:.2f} M trained parameters",
        "execution": f"{device.type}, {describe_execution(settings, run.precision)}, {speed.short}",
        "output": folder,
    }
    say(aligned(list(header.items())))
    for warning in (speed.warning, rounding_warning(phase.model, settings.normalization, run.precision)):
        if warning:
            say(f"warning: {warning}")
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
    say(
        f"done: best {phase.watch} {short(value)} in epoch {epoch} of {settings.epochs}, weights: {folder / 'best.pth'}"
    )


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
    same_weights(phase.model)  # the running statistics of batch norms differ between the processes
    train_figures = run.means.total().read()
    figures = validate(phase, val, device, run, stop)
    epoch, epochs = run.epoch + 1, run.settings.epochs
    # A run that ends before the first watched epoch of the phase still has a best epoch.
    improved = run.epoch >= min(phase.watch_from, epochs - 1) and _better(phase, figures, run.best)
    best = {"epoch": epoch, phase.watch: figures[phase.watch]} if improved else run.best
    entry = {
        "epoch": epoch,
        "train": train_figures,
        "val": figures,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "seconds": round(time.perf_counter() - started, 2),
    }
    if images > 0:  # none are left in an epoch that was stopped during its validation
        entry["images_per_second"] = round(images / seconds_of_training, 3)
    if log:
        # The line is written before the checkpoint: an extra line is removed when the epoch is repeated, but a missing
        # line would stay missing.
        log.write_line(entry)
    run.finish_epoch(figures, best)
    if not log:
        return
    model = phase.model.eval()
    picture = preview(partial(phase.draw, model), val, device, getattr(phase, "columns", ()))
    shown = getattr(phase, "distributions", None)
    histograms = distributions(partial(shown, model), val, device) if shown else {}
    log.write_board(entry, picture, histograms)
    save_png(run.folder / "validation.png", picture)
    seconds = [entry["seconds"] for entry in log.entries]
    Progress.write(epoch_line(phase.watch, entry, epochs, best, time_left(seconds, epochs - epoch)))
    if has_collapsed(log.entries):
        Progress.write(COLLAPSE_ADVICE)


def train_one_epoch(phase: Phase, run: Run, loader: DataLoader, device: torch.device, stop: StopRequest) -> None:
    """Trains from step run.step of the epoch to its end; run.means collects the figures.

    Raises:
        UserError: for a loss that is not finite, with the step and its images.
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
    bar = Progress(**images, desc=f"epoch {epoch}/{epochs}", leave=False, disable=not is_writer(), every=LINE_EVERY)
    with _training(phase, run.settings, device), bar, repeating_sizes(), compiler_errors(stop):
        for batch in stop.batches(loader):
            _stop_if_asked(run, stop, losses)
            seed_other_process(run.settings.seed, run.epoch, run.step)
            run.optimizer.zero_grad(set_to_none=True)
            scaler = run.precision.scaler
            # The last batch of an epoch may be smaller; compiling for its size would not pay off.
            network = run.of_whole_batches if batches.size(run.step) == run.settings.batch_size else phase.model
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
    """The number of parts of a step, whose images over all processes are given.

    Synchronised batch norms communicate in every part, so all processes need the same number of parts.
    """
    return min(settings.accumulate, images // world_size()) if settings.sync_bn else settings.accumulate


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """The batch in at most `count` parts, whose sizes differ by at most one."""
    images = len(batch["name"])
    bounds = [images * i // count for i in range(count + 1)]
    for first, last in itertools.pairwise(bounds):
        if first < last:
            yield {name: values[first:last] for name, values in batch.items()}


@torch.inference_mode()
def validate(phase: Phase, loader: DataLoader, device: torch.device, run: Run, stop: StopRequest) -> dict[str, float]:
    """The means of the phase's figures over the validation images.

    The network is the same as in `evaluation.py`, so that the best epoch is selected by the figures reported there: in
    bfloat16, folded batch norms round differently.

    Raises:
        UserError: if the loss is not finite.
        Stopped: at a signal, after the state was saved; the resumed run repeats the validation.
    """
    network, speed = prediction(phase.model.eval(), run.precision)
    if speed.warning:
        say_once(f"warning: in validation {speed.warning}")
    means = Means()
    words = {"desc": "validating", "unit": "batch", "leave": False, "every": LINE_EVERY}
    bar = Progress(loader, **words, disable=not is_writer())
    # Processes with one batch less make an additional round, because `_stop_if_asked` is collective.
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
    """A context in which the network of the phase has its fast modules."""
    alone = not (settings.sync_bn and world_size() > 1)
    return training(phase.model, device, compiled=settings.compile, alone=alone)


def _stop_if_asked(run: Run, stop: StopRequest, losses: LossWatch | None = None) -> None:
    """Saves and stops after a signal. Called before each step, and after the last, which a stopped loader reaches."""
    if number := highest(stop.number):
        if losses:
            losses.look()  # weights that are not finite must not be saved
        run.save()
        wait_for_all()  # torchrun kills the others as soon as one process has ended
        done = f"epoch {run.epoch + 1} of {run.settings.epochs}, after step {run.step}"
        raise Stopped(number, f"stopped in {done}; saved to {run.last}. Continue with --resume")


def _better(phase: Phase, figures: dict[str, float], best: dict[str, float] | None) -> bool:
    if best is None:
        return True
    value, reference = figures[phase.watch], best[phase.watch]
    return value > reference if phase.higher_is_better else value < reference
