"""The steps of the paper's protocol and their progress, which is read from the files of each step.

division 1:  training of phase 1  ->  training of phase 2  ->  evaluations
division 2:  ...
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.load import data_folder, list_path
from utils.common.errors import UserError
from utils.common.processes import say
from utils.reproduction.evaluation_files import are_complete
from utils.settings.config import FREE_SETTINGS, with_defaults

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Progress:
    """The progress of a step: done or not, and a description."""

    done: bool
    text: str


@dataclass(frozen=True)
class TrainingStep:
    """One phase of one division.

    Args:
        argv: the command line of `script`, without --resume.
        settings: the resolved settings of that command line.
        phase, folder: "recon" or "seg", and the folder of its run.
        encoder_from: for phase 2, the folder of the phase 1 whose encoder it uses.
    """

    title: str
    script: str
    argv: list[str]
    settings: argparse.Namespace
    phase: str
    folder: Path
    encoder_from: Path | None = None

    def progress(self) -> Progress:
        """Done if last.pth belongs to this experiment and to its last epoch.

        Raises:
            UserError: if the folder contains a run with other settings, lists or files or, in phase 2, another encoder;
                such a run is neither used nor overwritten.
        """
        last = self.folder / "last.pth"
        if not last.exists():
            return Progress(False, "to do")
        # Imported here, because they import torch, which errors in lists and flags should not wait for.
        from utils.networks.checkpoints import explain, load_checkpoint
        from utils.settings.provenance import file_hashes
        from utils.training.run_state import refuse_another_run, refuse_other_files

        checkpoint = load_checkpoint(last, self.phase)
        refuse_another_run(checkpoint, self.settings, last)
        lists = {"training": self.settings.train_file_dir, "validation": self.settings.val_file_dir}
        if getattr(self.settings, "unlabeled_dir", None):  # the hash of the training images includes theirs
            del lists["training"]
        files = file_hashes(self.settings.base_dir, lists, self.settings.mask_suffix, self.phase == "seg")
        refuse_other_files(checkpoint, files, last)
        if self.encoder_from:
            self._refuse_another_encoder(checkpoint, self.encoder_from / "best.pth")
        epoch, step = explain(lambda: (checkpoint["epoch"], checkpoint["step"]), last)
        epochs = self.settings.epochs
        if epoch >= epochs and (self.folder / "best.pth").exists():
            return Progress(True, f"done, {epochs} epochs")
        inside = f" and {step} steps" if step else ""
        return Progress(False, f"to be resumed after epoch {epoch} of {epochs}{inside}")

    def _refuse_another_encoder(self, checkpoint: dict[str, Any], pretrained: Path) -> None:
        from utils.networks.checkpoints import load_checkpoint
        from utils.networks.load_weights import same_encoder

        if not pretrained.exists() or not same_encoder(checkpoint, load_checkpoint(pretrained, "recon")):
            raise UserError(
                f"{self.folder / 'last.pth'} was trained with another encoder than {pretrained}; phase 1 may have been "
                f"repeated. Move {self.folder} away to train it again, or choose another --output_dir"
            )


@dataclass(frozen=True)
class EvaluationStep:
    """The figures of one checkpoint on one list.

    Args:
        settings: resolves the command line; it reads the checkpoint, which must exist.
        weights: "best" or "last".
        on: the list of the division, "val" or "test".
        folder: the folder of the results of the resolved settings.
        code: the other code that is tested, if any.
    """

    title: str
    script: str
    argv: list[str]
    settings: Callable[[], argparse.Namespace]
    weights: str
    on: str
    checkpoint: Path
    folder: Callable[[argparse.Namespace], Path]
    code: str | None = None

    def progress(self) -> Progress:
        """Done if summary.json belongs to these weights (by their hash), this list, its files and these settings.

        Raises:
            UserError: if the checkpoint is damaged.
        """
        return Progress(True, "done") if self.summary() else Progress(False, "to do")

    def summary(self) -> dict[str, Any] | None:
        """The summary of evaluation.py; None if it is missing, damaged, incomplete, inconsistent or outdated."""
        if not self.checkpoint.exists():
            return None
        from utils.evaluation.read_results import read_evaluation  # here: it imports numpy and scipy

        settings = self.settings()
        try:
            found = read_evaluation(self.folder(settings))
        except UserError:
            return None
        complete = are_complete(found, with_code=self.code is not None)
        return found.summary if complete and not _outdated(found.summary, settings) else None

    def epoch(self) -> int:
        """The epoch, counted from 1, whose weights were evaluated."""
        from utils.networks.checkpoints import explain, load_checkpoint

        checkpoint = load_checkpoint(self.checkpoint, "seg")
        return explain(lambda: checkpoint["epoch"], self.checkpoint)


def _outdated(summary: dict[str, Any], settings: argparse.Namespace) -> bool:
    from utils.settings.provenance import changed, file_hashes, list_hashes, weight_hashes

    before, now = with_defaults(summary.get("settings", {})), vars(settings)
    came_from = summary.get("provenance", {})
    lists = came_from.get("lists")
    evaluated = lists.get("val_file_dir") if isinstance(lists, Mapping) else None
    files = came_from.get("files")
    files = files if isinstance(files, Mapping) else {}
    return (
        any(before.get(name) != now[name] for name in now.keys() - FREE_SETTINGS - {"weights", "batch_size"})
        or evaluated != list_hashes(settings).get("val_file_dir")
        or came_from.get("weights") != weight_hashes(settings)
        or bool(
            changed(files, file_hashes(settings.base_dir, {"evaluated": settings.val_file_dir}, settings.mask_suffix))
        )
    )


Step = TrainingStep | EvaluationStep


def refuse_mixed(plans: Mapping[int, Sequence[Step]]) -> None:
    """Checks that a phase has the same settings in all divisions. They can differ if the configuration was changed:
    started divisions keep their settings, and the others would use the new ones.

    Raises:
        UserError: with the settings that differ.
    """
    first: dict[str, tuple[int, dict[str, Any]]] = {}
    for division, plan in plans.items():
        for step in plan:
            if not isinstance(step, TrainingStep):
                continue
            free = {*FREE_SETTINGS, "train_file_dir", "val_file_dir"}
            now = {name: value for name, value in vars(step.settings).items() if name not in free}
            one, before = first.setdefault(step.phase, (division, now))
            if differing := [name for name, value in now.items() if before.get(name) != value]:
                values = "; ".join(f"{name} {before.get(name)} and {now[name]}" for name in differing)
                raise UserError(
                    f"{step.title} would have different settings in divisions {one} and {division} ({values}), because "
                    "the configuration was changed after a run had started. Pass the flag with one of the values, or "
                    "choose another --output_dir for a new experiment"
                )


def shown(step: Step, processes: int) -> str:
    """The command of a step, as typed in a shell."""
    start = ["torchrun", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else ["python"]
    return shlex.join([*start, step.script, *_arguments(step)])


def command(step: Step, processes: int) -> list[str]:
    """The same for the system."""
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return [sys.executable, *many, str(ROOT / step.script), *_arguments(step)]


def _arguments(step: Step) -> list[str]:
    return [*step.argv, *(["--resume=auto"] if isinstance(step, TrainingStep) else [])]


def numbered(pattern: str, division: int) -> str:
    """The list of a division: "lists/train{}.txt" to "lists/train2.txt"; without {} the pattern itself."""
    return pattern.replace("{}", str(division))


def find_test_lists(base_dir: str, divisions: int) -> str | None:
    """The pattern test{}.txt if at least one division has such a list; None otherwise.

    Raises:
        UserError: if the data folder was not found.
    """
    base, pattern = data_folder(base_dir), "test{}.txt"
    found = any(list_path(base, numbered(pattern, i)).is_file() for i in range(1, divisions + 1))
    return pattern if found else None


def check_lists(base_dir: str, patterns: dict[str, str], divisions: Sequence[int]) -> None:
    """Checks that each of the divisions, given by their numbers, has its lists.

    Args:
        patterns: patterns by flag: {"--train_file": "train{}.txt"}.

    Raises:
        UserError: for a pattern without {}, and for missing lists, with the command that creates them.
    """
    base = data_folder(base_dir)
    for flag, pattern in patterns.items():
        if len(divisions) > 1 and "{}" not in pattern:
            raise UserError(
                f"{flag} must contain {{}} for the number of the division, e.g. train{{}}.txt, got {pattern}; only "
                "--divisions 1 accepts a single list"
            )
    wanted = [numbered(pattern, i) for i in divisions for pattern in patterns.values()]
    if missing := [name for name in wanted if not list_path(base, name).is_file()]:
        flags = " ".join(f"{flag} {pattern!r}" for flag, pattern in patterns.items())
        raise UserError(
            f"not found in {base}: {', '.join(missing)}. Each division requires its own lists; to create them:",
            f"  python prepare_data.py split {base} --divisions {max(divisions)}",
            f"If your lists have other names, pass {flags}, with {{}} for the number of the division",
        )
    stems = {Path(pattern).stem for pattern in patterns.values()}
    if len(stems) < len(patterns):
        raise UserError(
            f"the lists must have different names, by which results are stored, got {', '.join(patterns.values())}"
        )


def check_images(run: Any, steps: Sequence[Step]) -> None:
    """Reads every image and mask of a division. Phase 1 reads no masks, so a faulty mask would be found days later.

    Args:
        run: a run on it (`utils.reproduction.plan.Run`).

    Raises:
        UserError: names every fault.
    """
    from utils.settings.data_loaders import checked_cases

    training = next(step for step in steps if isinstance(step, TrainingStep) and step.phase == "seg")
    purposes = {"train": "training", "val": "validation", "test": "test"}
    checked_cases(training.settings, {purposes[on]: name for on, name in run.lists.items()})
    say(f"division {run.division}: all images and masks are readable, and no case is in two lists")
