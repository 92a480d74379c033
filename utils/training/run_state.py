"""The complete state of a run, from which `--resume` continues as if it had not been interrupted."""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from utils.common.devices import widest_float
from utils.common.distributed import gather
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.common.processes import is_writer, say
from utils.networks.checkpoints import epoch_of, explain, fill, load_checkpoint, save_checkpoint
from utils.settings.arguments import AUTO
from utils.settings.config import FREE_SETTINGS, with_defaults
from utils.settings.provenance import changed, list_hashes, provenance, weight_hashes
from utils.settings.refusals import has_run
from utils.training.arithmetic import arithmetic
from utils.training.check_progress import check_progress
from utils.training.compilation import compiled_for_training

PROGRESS = ("optimizer", "schedule", "scaler", "step", "means", "random")  # only in last.pth


class Means:
    """Running means of the figures of a phase over the images of this process; on the device until `read`."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, figures: dict[str, Tensor]) -> None:
        for name, values in figures.items():
            total = values.detach().sum(dtype=widest_float(values.device))
            self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.count += len(figures["loss"])

    def total(self) -> Means:
        """The means over the images of all processes (collective)."""
        whole = Means()
        for state in gather(self.state_dict()):
            for name, value in state["sums"].items():
                whole.sums[name] = whole.sums[name] + value if name in whole.sums else value
            whole.count += state["count"]
        return whole

    def read(self) -> dict[str, float]:
        return {name: total.item() / self.count for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: total.cpu() for name, total in self.sums.items()}, "count": self.count}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.sums = {name: total.to(device) for name, total in state["sums"].items()}
        self.count = state["count"]


class Run:
    """The model in training, its optimizer, its schedule and its progress.

    `epoch` epochs and `step` steps of the next one are finished; `means` contains the figures of these steps. `best` is
    {"epoch": number from 1, figure: value} of the best epoch, or None. `recorded` is stored in the checkpoints.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
        settings: argparse.Namespace,
        folder: Path,
        device: torch.device,
        recorded: dict[str, Any] | None = None,
    ) -> None:
        self.precision = Precision(settings.amp, device)
        self.name = name
        self.model = model
        self.of_whole_batches = compiled_for_training(model, settings.compile)  # the model itself without --compile
        self.optimizer = optimizer
        self.schedule = schedule
        self.settings = settings
        self.folder = folder
        self.device = device
        self.provenance = {**provenance(settings, device), **arithmetic(settings, self.precision)}
        self.resumed_from: dict[str, Any] = {}  # the provenance of the run before
        self.recorded = recorded or {}
        self.epoch = 0
        self.step = 0
        self.means = Means()
        self.best: dict[str, float] | None = None

    @property
    def trained(self) -> list[nn.Parameter]:
        return self.optimizer.param_groups[0]["params"]

    @property
    def last(self) -> Path:
        return self.folder / "last.pth"

    def finish_epoch(self, figures: dict[str, float], best: dict[str, float] | None) -> None:
        """Counts the epoch as done; the writer saves last.pth, best.pth if this epoch is the best, and the history."""
        self.epoch, self.step, self.means, self.best = self.epoch + 1, 0, Means(), best
        if not is_writer():
            return
        content = {**self._result(), "figures": figures}
        # The first one: if the run is killed before the others are written, `resume` writes them.
        save_checkpoint(self.last, {**content, **self._progress(self.means)})
        for path in self._of_this_epoch():
            save_checkpoint(path, content)

    def _of_this_epoch(self) -> list[Path]:
        """The files that have the weights of the epoch that was finished last, besides last.pth."""
        is_best = self.best is not None and self.best["epoch"] == self.epoch
        in_history = self.settings.save_every and self.epoch and self.epoch % self.settings.save_every == 0
        history = [self._in_history(self.epoch)] if in_history else []
        return [self.folder / "best.pth", *history] if is_best else history

    def _in_history(self, epoch: int) -> Path:
        return self.folder / f"epoch{epoch:04d}.pth"

    def save(self) -> None:
        """Writes last.pth in the middle of an epoch (collective)."""
        means = self.means.total()
        if is_writer():
            save_checkpoint(self.last, {**self._result(), **self._progress(means)})

    def resume(self, steps: int) -> bool:
        """Resumes from last.pth if the settings request it; returns whether it did. `steps` is the length of an epoch.

        Raises:
            UserError: see `utils.settings.refusals.has_run`; or if the run had other settings or the file is damaged.
        """
        if not has_run(self.last, self.settings.resume):
            return False
        previous = load_checkpoint(self.last, self.name)
        refuse_another_run(previous, self.settings, self.last)
        refuse_other_files(previous, self.provenance.get("files", {}), self.last)
        states = check_progress(previous, self.optimizer, self.schedule, self.settings.epochs, steps, self.last)
        fill(self.model, previous["model"], self.last)
        explain(lambda: self._restore({**previous, **states}), self.last)
        self.resumed_from = previous["provenance"]
        if is_writer():
            if self.step == 0:
                content = {name: value for name, value in previous.items() if name not in PROGRESS}
                for path in self._of_this_epoch():
                    if not _is_of(path, self.epoch):
                        save_checkpoint(path, content)
            self._restore_best()
        return True

    def _restore_best(self) -> None:
        """Writes a best.pth that is missing or damaged again, from the history.

        Raises:
            UserError: if the history does not have its epoch.
        """
        path, epoch = self.folder / "best.pth", int((self.best or {}).get("epoch", 0))
        if not epoch or _is_of(path, epoch):
            return
        kept = self._in_history(epoch)
        if not _is_of(kept, epoch):
            raise UserError(
                f"{path} is missing or not of epoch {epoch}, the best one of this run, and without {kept.name} its "
                "weights cannot be restored. Put the file back, or choose another --output_dir for a new run. "
                f"{self.last.name} is complete and can be evaluated"
            )
        save_checkpoint(path, load_checkpoint(kept, self.name))
        say(f"{path} was missing or damaged; it was restored from {kept.name}")

    def _result(self) -> dict[str, Any]:
        return {
            "phase": self.name,
            "settings": vars(self.settings),
            "provenance": self.provenance,
            **self.recorded,
            "model": self.model.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
        }

    def _progress(self, means: Means) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "step": self.step,
            "means": means.state_dict(),
            "random": _random_states(),
        }

    def _restore(self, previous: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(previous["optimizer"])
        self.schedule.load_state_dict(previous["schedule"])
        if previous["scaler"]:  # empty if the run used another format: --amp auto depends on the device
            self.precision.scaler.load_state_dict(previous["scaler"])
        # The writer continues the sums of all processes and its random numbers. The sums of the others start at zero,
        # and they are seeded before each step (`utils.common.runtime.seed_other_process`).
        if is_writer():
            self.means.load_state_dict(previous["means"], self.device)
            _set_random_states(previous["random"])
        self.epoch, self.step, self.best = previous["epoch"], previous["step"], previous["best"]


def refuse_another_run(previous: dict[str, Any], settings: argparse.Namespace, path: Path) -> None:
    """Checks that the checkpoint `previous`, read from `path`, belongs to the experiment of these settings.

    Raises:
        UserError: with the settings and lists that differ; or if the file is damaged.
    """
    before, now = with_defaults(previous["settings"]), vars(settings)
    of_run: dict[str, str] = explain(lambda: dict(previous["provenance"].get("weights", {})), path)
    moved = {name for name, value in weight_hashes(settings).items() if of_run.get(name) == value}
    differing = [
        f"{name} was {before.get(name)}, now {now.get(name)}"
        for name in sorted((previous["settings"].keys() | now.keys()) - FREE_SETTINGS - moved)
        # The result of "auto" depends only on the training list, which is compared below.
        if before.get(name) != now.get(name) and (name, now.get(name)) != ("white_level", AUTO)
    ]
    if differing:
        raise UserError(
            f"{path} belongs to a run with other settings ({'; '.join(differing)}). Choose another --output_dir for a "
            "new run"
        )
    lists_before: dict[str, str] = explain(lambda: dict(previous["provenance"]["lists"]), path)
    lists = list_hashes(settings)
    if differing := [name for name in {**lists_before, **lists} if lists.get(name) != lists_before.get(name)]:
        files = ", ".join(f"{name} ({getattr(settings, name, None)})" for name in differing)
        raise UserError(
            f"{path} belongs to a run with other lists; changed: {files}. Choose another --output_dir for a new run"
        )


def refuse_other_files(previous: dict[str, Any], files: Mapping[str, str], path: Path) -> None:
    """Checks the images and masks of both lists by their names and sizes, which older runs have not recorded.

    Args:
        files: `datasets.pairing.files_hash` of each list that is there, by purpose.

    Raises:
        UserError: with the lists whose files differ from those of the checkpoint `previous`, read from `path`.
    """
    before = explain(lambda: dict(previous["provenance"].get("files", {})), path)
    if differing := changed(before, files):
        raise UserError(
            f"{path} belongs to a run on other files: images or masks of the {' and '.join(differing)} list have other "
            "names or sizes. Choose another --output_dir for a new run"
        )


def _is_of(path: Path, epoch: int) -> bool:
    """Whether this is an undamaged checkpoint of the epoch."""
    with suppress(UserError):
        return epoch_of(path) == epoch
    return False


def _random_states() -> dict[str, Any]:
    """The states of all global random generators, in types that weights_only loading accepts."""
    version, python, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global one is meant
    return {
        "python": [version, list(python), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        # Reading the states of CUDA would initialise every GPU, even for a run on the CPU.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    version, python, gauss = states["python"]
    random.setstate((version, tuple(python), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    keys = keys.numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
