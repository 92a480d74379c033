"""The training loop of both phases. A phase says what is trained; everything else stands here, once.

phase  ->  fit: epochs, progress, validation, best and last checkpoints, resuming, logs, pictures
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.checkpoint import fill, load_checkpoint, save_checkpoint
from utils.config import describe
from utils.errors import UserError
from utils.logs import RunLog
from utils.pictures import grid, save_png
from utils.runtime import Batch, pick_device, to_device
from utils.schedule import sgd_with_poly_decay

PREVIEWS = 4  # validation images that are drawn after each epoch
# Settings that a run may change when it goes on; all others are the experiment itself.
FREE_SETTINGS = {"Dataset", "config", "base_dir", "device", "workers", "output_dir", "resume", "recon_weights"}


class Phase(Protocol):
    """What differs between the phases."""

    name: str  # "recon" or "seg"
    model: nn.Module
    watch: str  # the validation figure that chooses the best epoch ...
    higher_is_better: bool  # ... and its direction
    watch_from: int  # epochs, counted from 0, before this one are never the best

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and figures of each image, each (B,); "loss" among them."""

    def draw(self, batch: Batch) -> list[list[np.ndarray]]:
        """A row of tiles for each image of the batch."""


class Means:
    """Running means over images of the figures a phase returns; they stay on the device until asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, figures: dict[str, Tensor]) -> None:
        for name, values in figures.items():
            total = values.detach().sum(dtype=torch.float32 if values.device.type == "mps" else torch.float64)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.count += len(figures["loss"])

    def read(self) -> dict[str, float]:
        return {name: total.item() / self.count for name, total in self.sums.items()}


def fit(phase: Phase, train: DataLoader, val: DataLoader, settings: argparse.Namespace, folder: Path) -> None:
    """Trains `phase` for settings.epochs epochs and leaves in `folder`: best.pth, last.pth, log.jsonl, tensorboard/,
    validation.png.

    With settings.resume it goes on from last.pth if there is one; without, a folder with a run in it is an error.
    """
    device = pick_device(settings.device)
    # Channels last is the layout in which convolutions run fastest, on CPUs as on GPUs; the numbers are the same.
    phase.model.to(device, memory_format=torch.channels_last)
    trained = [parameter for parameter in phase.model.parameters() if parameter.requires_grad]
    optimizer, schedule = sgd_with_poly_decay(trained, settings.base_lr, settings.epochs * len(train))
    state = {"epoch": 0, "best": None}
    if previous := _previous_run(phase, settings, folder):
        fill(phase.model, previous["model"], folder / "last.pth")
        optimizer.load_state_dict(previous["optimizer"])
        schedule.load_state_dict(previous["schedule"])
        state = {"epoch": previous["epoch"], "best": previous["best"]}
        print(f"going on after epoch {state['epoch']} of {settings.epochs}, from {folder / 'last.pth'}")
    print(
        f"{phase.name}: {len(train.dataset)} training and {len(val.dataset)} validation images, "
        f"{sum(p.numel() for p in trained) / 1e6:.2f} M trained parameters, on {device}; writes to {folder}"
    )

    log = RunLog(folder, state["epoch"], describe(settings))
    first_watched = min(phase.watch_from, settings.epochs - 1)  # so that a short run has a best epoch, too
    try:
        for epoch in range(state["epoch"], settings.epochs):
            started = time.perf_counter()
            train_figures = train_one_epoch(phase, train, optimizer, schedule, device, epoch, settings.epochs)
            val_figures = validate(phase, val, device)
            picture = _preview(phase, val, device)
            improved = epoch >= first_watched and _better(phase, val_figures, state["best"])
            best = {"epoch": epoch + 1, phase.watch: val_figures[phase.watch]} if improved else state["best"]
            entry = {
                "epoch": epoch + 1,
                "train": train_figures,
                "val": val_figures,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "seconds": round(time.perf_counter() - started, 2),
            }
            # The log comes first: the line of an epoch that is run again is dropped, one that is missing stays missing.
            log.write(entry, picture)
            content = {
                "phase": phase.name,
                "settings": vars(settings),
                "model": phase.model.state_dict(),
                "figures": val_figures,
                "epoch": epoch + 1,
                "best": best,
            }
            if improved:
                save_checkpoint(folder / "best.pth", content)
            progress = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            save_checkpoint(folder / "last.pth", {**content, **progress})
            state = {"epoch": epoch + 1, "best": best}
            save_png(folder / "validation.png", picture)
            tqdm.write(_line(phase, entry, settings.epochs, best))
    except KeyboardInterrupt:
        tqdm.write(f"interrupted: --resume goes on after epoch {state['epoch']} of {settings.epochs}")
        raise
    finally:
        log.close()
    print(
        f"{phase.name} done: best {phase.watch} {_show(state['best'][phase.watch])} in epoch {state['best']['epoch']}; "
        f"{folder / 'best.pth'}"
    )


def train_one_epoch(
    phase: Phase,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
    epoch: int,
    epochs: int,
) -> dict[str, float]:
    """One pass over the training images; returns the means of the figures over the images.

    Raises:
        UserError: at a loss that is not finite, naming the step and its images.
    """
    phase.model.train()
    loader.sampler.set_epoch(epoch)
    means = Means()
    with tqdm(total=len(loader.dataset), desc=f"epoch {epoch + 1}/{epochs}", unit="img", leave=False) as bar:
        for i, batch in enumerate(loader):
            loss, figures = phase.step(to_device(batch, device))
            if not torch.isfinite(loss):
                raise UserError(
                    f"the loss is {loss.item()} at step {i} of epoch {epoch + 1}, on {', '.join(batch['name'])}; the "
                    "checkpoints are those of the epoch before. A lower --base_lr usually helps"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            means.add(figures)
            shown = {name: _show(value) for name, value in means.read().items() if name in ("loss", "iou")}
            bar.set_postfix({**shown, "lr": f"{optimizer.param_groups[0]['lr']:.4f}"}, refresh=False)
            bar.update(len(batch["name"]))
    return means.read()


@torch.inference_mode()
def validate(phase: Phase, loader: DataLoader, device: torch.device) -> dict[str, float]:
    """Means over the validation images of the figures of the phase."""
    phase.model.eval()
    means = Means()
    for batch in tqdm(loader, desc="validating", unit="batch", leave=False):
        means.add(phase.step(to_device(batch, device))[1])
    return means.read()


@torch.inference_mode()
def _preview(phase: Phase, loader: DataLoader, device: torch.device) -> np.ndarray:
    """A few validation images, spread over the list, as the phase draws them."""
    phase.model.eval()
    dataset = loader.dataset
    chosen = np.unique(np.linspace(0, len(dataset) - 1, PREVIEWS).astype(int))
    batches = (to_device(loader.collate_fn([dataset[int(i)]]), device) for i in chosen)
    return grid([row for batch in batches for row in phase.draw(batch)])


def _previous_run(phase: Phase, settings: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    """The last checkpoint to go on from, if there is one and it is asked for."""
    path = folder / "last.pth"
    if not path.exists():
        return None
    if not settings.resume:
        raise UserError(f"{folder} holds a run already: --resume goes on with it, --output_dir starts elsewhere")
    previous = load_checkpoint(path, phase.name)
    now = vars(settings)
    differing = [
        f"{name} was {previous['settings'].get(name)}, now {now.get(name)}"
        for name in sorted((previous["settings"].keys() | now.keys()) - FREE_SETTINGS)
        if previous["settings"].get(name) != now.get(name)
    ]
    if differing:
        raise UserError(
            f"{path} is of a run with other settings ({'; '.join(differing)}); --output_dir starts a new one"
        )
    return previous


def _better(phase: Phase, figures: dict[str, float], best: dict[str, float] | None) -> bool:
    if best is None or math.isnan(best[phase.watch]):
        return True
    value, reference = figures[phase.watch], best[phase.watch]
    return value > reference if phase.higher_is_better else value < reference


def _line(phase: Phase, entry: dict[str, Any], epochs: int, best: dict[str, float] | None) -> str:
    parts = [
        f"{part} " + " ".join(f"{name} {_show(value)}" for name, value in entry[part].items() if name in SHOWN)
        for part in ("train", "val")
    ]
    chosen = f"best {phase.watch} {_show(best[phase.watch])} (epoch {best['epoch']})" if best else "no best yet"
    return f"epoch {entry['epoch']:3}/{epochs} | {' | '.join(parts)} | {chosen} | {entry['seconds']:.0f} s"


SHOWN = ("loss", "iou", "F1")


def _show(value: float) -> str:
    return f"{value:.4g}"
