"""The time that the runs of an experiment have taken, and an estimate of the rest, from the finished epochs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from utils.common.run_log import read_log
from utils.reproduction.plan import Run
from utils.reproduction.protocol_steps import Step, TrainingStep


class Times:
    """Seconds an epoch of each phase of each run that has begun.

    Args:
        plans: the runs that are not finished, and their steps.
        lines: of those that are.
    """

    def __init__(self, plans: Sequence[tuple[Run, Sequence[Step]]], lines: Iterable[Mapping[str, Any]] = ()) -> None:
        self._of_folder: dict[Path, list[float]] = {}
        self._of_arm: dict[tuple[str, str], list[float]] = {}  # by arm and phase
        for run, steps in plans:
            for step in steps:
                if isinstance(step, TrainingStep) and step.folder not in self._of_folder:
                    seconds = [entry["seconds"] for entry in read_log(step.folder / "log.jsonl")]
                    self._of_folder[step.folder] = seconds
                    self._of_arm.setdefault((run.arm, step.phase), []).extend(seconds)
        for line in lines:
            for phase in ("recon", "seg"):
                epochs = (line["settings"][phase] or {}).get("epochs")
                if epochs and line["seconds"][phase]:
                    each = line["seconds"][phase] / epochs
                    self._of_arm.setdefault((line["arm"], phase), []).append(each)
        self._plans = plans

    def so_far(self) -> float:
        """Seconds of all finished epochs of the unfinished runs."""
        return sum(map(sum, self._of_folder.values()))

    def to_come(self, run: Run, step: Step) -> float | None:
        """Seconds of the epochs that are left: each as long as those of this training, else of this arm's, else of all
        arms'. None without any of them, and for evaluations."""
        if not isinstance(step, TrainingStep):
            return None
        own = self._of_folder[step.folder]
        all_arms = [seconds for (_, phase), of in self._of_arm.items() if phase == step.phase for seconds in of]
        known = own or self._of_arm.get((run.arm, step.phase)) or all_arms
        left = max(0, step.settings.epochs - len(own))
        return left * fmean(known) if known else None if left else 0.0

    def summary(self) -> str:
        """One line."""
        seen: set[Path] = set()
        left: list[float | None] = []
        for run, steps in self._plans:
            for step in steps:
                if isinstance(step, TrainingStep) and step.folder not in seen:
                    seen.add(step.folder)
                    left.append(self.to_come(run, step))
        known = [seconds for seconds in left if seconds is not None]
        unknown = f"{len(left) - len(known)} trainings of which no epoch was timed" * (len(known) < len(left))
        training = f"about {in_words(sum(known))} of training" * bool(known)
        return (
            f"{len(self._plans)} runs are unfinished; their epochs so far took {in_words(self.so_far())}; to come: "
            f"{' and '.join(filter(None, [training, unknown])) or 'nothing'}"
        )


def in_words(seconds: float) -> str:
    """ "3 h 20 min", "45 min", "12 s" """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
