"""`reproduce.py --Dataset`: both phases on each division of one data set, and the table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from utils.common.processes import say
from utils.reproduction import division_table, plan
from utils.reproduction.division_table import Result
from utils.reproduction.plan import Run, Scripts, known_to
from utils.reproduction.protocol_steps import (
    EvaluationStep,
    Step,
    TrainingStep,
    check_lists,
    find_test_lists,
    numbered,
    refuse_mixed,
)
from utils.settings.config import FREE_SETTINGS


class DatasetJob:
    """The runs, one per division, and what follows when one is finished.

    Args:
        args: of reproduce.py.

    Raises:
        UserError: for lists that are missing.
    """

    keep_going = False

    def __init__(self, args: argparse.Namespace, scripts: Scripts) -> None:
        self._args, self._scripts = args, scripts
        self.folder = Path(args.output_dir)
        test = args.test_file or find_test_lists(args.base_dir, args.divisions)
        self._lists = {"train": args.train_file, "val": args.val_file, **({"test": test} if test else {})}
        divisions = range(1, args.divisions + 1)
        check_lists(args.base_dir, {f"--{on}_file": pattern for on, pattern in self._lists.items()}, divisions)
        self.runs = [self._run(division) for division in divisions]
        self.chosen = [run for run in self.runs if not args.only or run.division in args.only]
        self._finished: set[int] = set()
        self.steps = lru_cache(None)(self._steps)

    def _run(self, division: int) -> Run:
        folder = self.folder / f"division{division}"
        flags = {script.__name__: known_to(script, self._args.handed_on) for script in self._scripts}
        lists = {on: numbered(pattern, division) for on, pattern in self._lists.items()}
        epochs = {"recon": self._args.recon_epochs, "seg": self._args.seg_epochs}
        return Run("", division, None, flags, lists, epochs, folder, folder)

    def _steps(self, run: Run) -> list[Step]:
        return plan.steps(run, self._scripts)

    def recorded(self, run: Run) -> str | None:
        """The file that records a run as finished; None: its folder shows the progress."""
        return None

    def check(self) -> None:
        """Raises UserError if the divisions would have different settings."""
        refuse_mixed({run.division: self.steps(run) for run in self.runs})

    def is_finished(self, run: Run) -> bool:
        if run.division not in self._finished and all(step.progress().done for step in self.steps(run)):
            self._finished.add(run.division)
        return run.division in self._finished

    def finish(self, run: Run, steps: Sequence[Step], seconds: Mapping[str, float]) -> None:
        self.tabulate()

    def conclude(self, done: int) -> None:
        """Writes the table, unless it was written when the last run was finished."""
        if not done:
            self.tabulate()

    def tabulate(self) -> None:
        """Prints and writes the table of the finished divisions."""
        done = [run.division for run in self.runs if self.is_finished(run)]
        plans = {run.division: self.steps(run) for run in self.runs}
        results = [
            Result.read(division, step.on, step.weights, step.epoch(), step.summary())
            for division in done
            for step in plans[division]
            if isinstance(step, EvaluationStep)
        ]
        args = self._args
        phases = {step.phase: step.settings for step in plans[1] if isinstance(step, TrainingStep)}
        encoders = "; each trained its own encoder" if "recon" in phases else ""
        notes = [f"Divisions done: {', '.join(map(str, done))}{encoders}."]
        if other := self._other_settings(phases):
            notes.append(f"Not as in configs/{args.Dataset}.yaml: {', '.join(other)}.")
        if "test" not in self._lists:
            notes.append(
                "The best epoch was selected on the validation list, so its figures there are optimistic; the last "
                "epoch was not selected."
            )
        title = f"{phases['seg'].Dataset}: {phases['seg'].variant}, {len(done)} of {args.divisions} divisions"
        page = division_table.markdown(title, results, args.published, notes)
        settings = {name: vars(of_phase) for name, of_phase in phases.items()}
        record = {"published": args.published, "notes": notes, "settings": settings}
        division_table.write(self.folder, page, record, results)
        say(f"\n{page}\n\nwrote reproduce.md, reproduce.csv and reproduce.json to {self.folder}")

    def lines(self) -> Sequence[Mapping]:
        """No recorded lines: the folders of the runs contain everything."""
        return ()

    def _other_settings(self, phases: Mapping[str, argparse.Namespace]) -> list[str]:
        """The settings that differ from the configuration of the Dataset, such as "seg epochs 2 (300)"."""
        dataset = self._args.Dataset
        of_phases = {"recon": self._scripts.train_recon, "seg": self._scripts.train_seg} if dataset else {}
        return [
            f"{phase} {name} {value} ({configured[name]})"
            for phase, script in of_phases.items()
            if phase in phases and (configured := vars(script.parser().settings(["--Dataset", dataset])))
            for name, value in vars(phases[phase]).items()
            if value != configured[name] and name not in {*FREE_SETTINGS, "train_file_dir", "val_file_dir"}
        ]
