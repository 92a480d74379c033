"""The steps of the paper's protocol, and how far each of them is: what is on the disk decides, nothing is remembered.

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
from utils.common.locks import hold
from utils.common.processes import say
from utils.common.signals import SIGNALS, Stopped
from utils.evaluation.result_files import read_summary
from utils.reproduction.run_scripts import CommandRunner
from utils.settings.config import FREE_SETTINGS, with_defaults

ROOT = Path(__file__).resolve().parents[2]
ONLY = "`--only N` gives each of several processes a division of its own"


@dataclass(frozen=True)
class Progress:
    """How far a step is: done or not, and in words."""

    done: bool
    text: str


@dataclass(frozen=True)
class TrainingStep:
    """One phase of one division.

    Args:
        argv: the command line of `script`, without --resume.
        settings: what that command line resolves to.
        phase, folder: the engine's name for the phase, and where its run is.
        encoder_from: for phase 2, the folder of the phase 1 whose encoder it takes.
    """

    title: str
    script: str
    argv: list[str]
    settings: argparse.Namespace
    phase: str
    folder: Path
    encoder_from: Path | None = None

    def progress(self) -> Progress:
        """Done when last.pth is of this experiment and of its last epoch.

        Raises:
            UserError: if the folder holds a run with other settings, lists or, in phase 2, another encoder: such a run
                is neither used nor overwritten.
        """
        last = self.folder / "last.pth"
        if not last.exists():
            return Progress(False, "to do")
        # Here, since torch comes with them: what is wrong with lists and flags is told without.
        from utils.networks.checkpoints import explain, load_checkpoint
        from utils.training.run_state import refuse_another_run

        checkpoint = load_checkpoint(last, self.phase)
        refuse_another_run(checkpoint, self.settings, last)
        if self.encoder_from:
            self._refuse_another_encoder(checkpoint, self.encoder_from / "best.pth")
        epoch, step = explain(lambda: (checkpoint["epoch"], checkpoint["step"]), last)
        epochs = self.settings.epochs
        if epoch >= epochs:
            return Progress(True, f"done, {epochs} epochs")
        inside = f" and {step} steps" if step else ""
        return Progress(False, f"to go on after epoch {epoch} of {epochs}{inside}")

    def _refuse_another_encoder(self, checkpoint: dict[str, Any], pretrained: Path) -> None:
        from utils.networks.checkpoints import load_checkpoint
        from utils.networks.load_weights import same_encoder

        if not pretrained.exists() or not same_encoder(checkpoint, load_checkpoint(pretrained, "recon")):
            raise UserError(
                f"{self.folder / 'last.pth'} was trained on another encoder than {pretrained} (phase 1 was trained "
                f"again?). Move {self.folder} away, and the same command trains it anew; --output_dir starts elsewhere"
            )


@dataclass(frozen=True)
class EvaluationStep:
    """The figures of one checkpoint on one list.

    Args:
        settings: resolves the command line; it reads the checkpoint, so that it can be called once that is there.
        weights: "best" or "last".
        on: which of the division's lists, "val" or "test".
        folder: where the figures of the resolved settings are.
    """

    title: str
    script: str
    argv: list[str]
    settings: Callable[[], argparse.Namespace]
    weights: str
    on: str
    checkpoint: Path
    folder: Callable[[argparse.Namespace], Path]

    def progress(self) -> Progress:
        """Done when summary.json is of these weights (by their hash), this list and these settings; else it is redone.

        Raises:
            UserError: if the checkpoint is damaged.
        """
        return Progress(True, "done") if self.summary() else Progress(False, "to do")

    def summary(self) -> dict[str, Any] | None:
        """What evaluation.py has written; None if there is nothing, nothing whole, a mixture, or it is outdated."""
        if not self.checkpoint.exists():
            return None
        settings = self.settings()
        try:
            summary = read_summary(self.folder(settings))
        except (OSError, ValueError, UserError):
            return None
        return None if _outdated(summary, settings) else summary

    def epoch(self) -> int:
        """The epoch, counted from 1, whose weights were evaluated."""
        from utils.networks.checkpoints import explain, load_checkpoint

        checkpoint = load_checkpoint(self.checkpoint, "seg")
        return explain(lambda: checkpoint["epoch"], self.checkpoint)


def _outdated(summary: dict[str, Any], settings: argparse.Namespace) -> bool:
    from utils.settings.provenance import list_hashes, weight_hashes

    before, now = with_defaults(summary.get("settings", {})), vars(settings)
    came_from = summary.get("provenance", {})
    return (
        any(before.get(name) != now[name] for name in now.keys() - FREE_SETTINGS - {"weights", "batch_size"})
        or came_from.get("lists", {}).get("val_file_dir") != list_hashes(settings).get("val_file_dir")
        or came_from.get("weights") != weight_hashes(settings)
    )


Step = TrainingStep | EvaluationStep


def refuse_mixed(plans: Mapping[int, Sequence[Step]]) -> None:
    """That a phase has the same settings in all divisions: one that was begun keeps its own if the configuration has
    been changed since, and the others would take the new ones.

    Raises:
        UserError: names the settings and the flag that makes them alike.
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
                    f"{step.title} would have other settings in division {one} than in division {division} ({values}): "
                    "the configuration was changed after a run had begun. Pass the flag with one of the values, or "
                    "--output_dir for a new experiment"
                )


def run_division(runner: CommandRunner, division: int, plan: Sequence[Step], folder: Path, processes: int) -> None:
    """Runs the steps of a division that are not done, each in a process (or `processes`) of its own.

    Raises:
        Stopped: at a signal, which the running script was told.
        UserError: if a script fails, or another process works in the folder.
    """
    with hold(folder, ONLY) as held:
        for step in plan:
            state, where = step.progress(), f"division {division}, {step.title}"
            say(f"{where}: {state.text}")
            if state.done:
                continue
            say(shown(step, processes))
            code = runner.run(_command(step, processes), held)
            number = runner.number or code - 128
            if number in SIGNALS or runner.number:
                raise Stopped(number, f"stopped in {where}; the same command goes on there")
            if code:
                cause = f"signal {number} has ended it (out of memory?)" if number > 0 else "its message stands above"
                raise UserError(
                    f"{where} has failed: {cause}. Once the cause is removed, the same command goes on there"
                )
            if not (state := step.progress()).done:
                raise UserError(f"{where} ended without an error, but is not done: {state.text}")


def shown(step: Step, processes: int) -> str:
    """The command of a step as one would type it."""
    start = ["torchrun", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else ["python"]
    return shlex.join([*start, step.script, *_arguments(step)])


def _command(step: Step, processes: int) -> list[str]:
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return [sys.executable, *many, str(ROOT / step.script), *_arguments(step)]


def _arguments(step: Step) -> list[str]:
    return [*step.argv, *(["--resume=auto"] if isinstance(step, TrainingStep) else [])]


def numbered(pattern: str, division: int) -> str:
    """The list of a division: "lists/train{}.txt" to "lists/train2.txt"; without {} the one list there is."""
    return pattern.replace("{}", str(division))


def find_test_lists(base_dir: str, divisions: int) -> str | None:
    """The pattern test{}.txt if there is such a list for one of the divisions; a list that is missing is then a fault.

    Raises:
        UserError: if there is no such data folder.
    """
    base, pattern = data_folder(base_dir), "test{}.txt"
    found = any(list_path(base, numbered(pattern, i)).is_file() for i in range(1, divisions + 1))
    return pattern if found else None


def check_lists(base_dir: str, patterns: dict[str, str], divisions: int) -> None:
    """That there is a list for each division.

    Args:
        patterns: the flag, and the pattern it holds: {"--train_file": "train{}.txt"}.

    Raises:
        UserError: for patterns that cannot tell the divisions apart, or lists that are missing, with the command that
            makes them.
    """
    base = data_folder(base_dir)
    for flag, pattern in patterns.items():
        if divisions > 1 and "{}" not in pattern:
            raise UserError(
                f"{flag} {pattern}: with {divisions} divisions it needs {{}} where the division's number stands, as in "
                "train{}.txt; --divisions 1 takes one list as it is"
            )
    wanted = [numbered(pattern, i) for i in range(1, divisions + 1) for pattern in patterns.values()]
    if missing := [name for name in wanted if not list_path(base, name).is_file()]:
        raise UserError(
            f"{base} has no {', '.join(missing)}. Each division has its own lists; this draws them at random:",
            f"  python prepare_data.py split {base} --divisions {divisions}",
            f"If they have other names: {' '.join(f'{flag} {pattern!r}' for flag, pattern in patterns.items())}, with "
            "{} for the division's number",
        )
    stems = {Path(pattern).stem for pattern in patterns.values()}
    if len(stems) < len(patterns):
        raise UserError(f"{', '.join(patterns.values())}: results are filed by the lists' names, which must differ")
