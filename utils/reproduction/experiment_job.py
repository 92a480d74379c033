"""`reproduce.py --experiment`: the runs of an experiment, their recorded lines, and the table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from utils.common.errors import UserError
from utils.common.processes import say
from utils.reproduction import plan
from utils.reproduction.experiment_file import Experiment
from utils.reproduction.plan import Run, Scripts, experiment_runs
from utils.reproduction.protocol_steps import Step, check_lists
from utils.reproduction.run_record import Records


class ExperimentJob:
    """The runs, and what follows when one is finished.

    Args:
        args: of reproduce.py.

    Raises:
        UserError: for lists that are missing, flags that do not fit, or lines of other settings.
    """

    keep_going = True

    def __init__(self, args: argparse.Namespace, scripts: Scripts) -> None:
        self._args, self._scripts = args, scripts
        self._experiment: Experiment = args.experiment
        self.folder = Path(args.output_dir)
        free = {**args.handed_on, "base_dir": args.base_dir}
        self.runs = experiment_runs(self._experiment, scripts, self.folder, free)
        self.chosen = self._choose(args.arms, args.only)
        self._records = Records(self._experiment.name, Path(args.results_dir), scripts, Path(args.base_dir))
        self.steps = lru_cache(None)(self._steps)

    def _choose(self, arms: Sequence[str] | None, divisions: Sequence[int] | None) -> list[Run]:
        experiment = self._experiment
        for flag, given, known in (("arms", arms, experiment.arms), ("only", divisions, experiment.divisions)):
            if unknown := [each for each in given or () if each not in known]:
                raise UserError(f"--{flag} {unknown[0]}: {experiment.path} has {', '.join(map(str, known))}")
        return [
            run for run in self.runs if (not arms or run.arm in arms) and (not divisions or run.division in divisions)
        ]

    def _steps(self, run: Run) -> list[Step]:
        return plan.steps(run, self._scripts)

    def recorded(self, run: Run) -> str | None:
        """The file that records a run as finished; None: its folder shows the progress."""
        return str(self._records.path) if self.is_finished(run) else None

    def check(self) -> None:
        """Raises UserError if lists of runs that are not finished are missing."""
        divisions = {run.division: None for run in self.chosen if not self.is_finished(run)}
        patterns = {f"data.{name}": value for name, value in self._experiment.data.items() if name != "base_dir"}
        check_lists(self._args.base_dir, {name: value for name, value in patterns.items() if value}, [*divisions])

    def is_finished(self, run: Run) -> bool:
        return self._records.line(run) is not None

    def finish(self, run: Run, steps: Sequence[Step], seconds: Mapping[str, float]) -> None:
        self._records.record(run, steps, seconds)
        say(f"{run.title}: done, its line is in {self._records.path}")
        self._tabulate(plots=False)

    def conclude(self, done: int) -> None:
        """Prints and writes the table of the finished runs, and draws the plots."""
        say(f"\n{self._tabulate(plots=True)}\n\nwrote {self._records.path.with_suffix('.md')} and .csv")

    def _tabulate(self, plots: bool) -> str:
        from utils.reproduction.experiment_table import tabulate  # here: it imports scipy

        name, lines, results = self._experiment.name, self.lines(), self._records.results
        return tabulate(name, lines, results, self._experiment.order(), plots=plots)

    def lines(self) -> Sequence[Mapping]:
        return self._records.lines()
