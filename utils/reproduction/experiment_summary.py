"""The statistics of an experiment's lines: each figure of each arm, and its difference from the first arm's.

Tables, plots and the page of results are made of what `summarise` returns; it reads the lines and the per-image files
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from utils.evaluation.intervals import Interval
from utils.evaluation.paired_tests import holm, wilcoxon
from utils.reproduction.comparable_runs import Runs, comparable, differing_protocols
from utils.reproduction.image_statistics import (
    Figures,
    deviation_within_divisions,
    differences,
    mean_over_seeds,
    of_division,
    over_images,
)
from utils.reproduction.per_image_files import OF_IMAGES, Tables, images_of
from utils.reproduction.result_lines import EPOCH_RULES, LISTS, Line, run_of
from utils.reproduction.run_statistics import Run, Spread, images_needed, paired, spread

FIGURES = ("iou", "F1", "benchmark_iou", "benchmark_F1", "pooled_iou", "nIoU", "Pd", "Fa_1e-6")

Files = Mapping[str, Mapping[Run, Tables]]  # of each arm and run, its per-image file
Plan = Sequence[tuple[str, int, int]]  # arm, division, seed


@dataclass(frozen=True)
class Cell:
    """One figure of one arm, on one list, at one epoch rule.

    Attributes:
        spread: of the arm's runs; None where no run defines the figure.
        images: the 95 % interval of the mean over the images; None for a figure that is not of images.
        difference: of the runs that the first arm has, too, arm minus first; None for the first arm, or without one.
        difference_images: the 95 % interval of the difference over the images.
        p: of Wilcoxon's test over the runs, with Holm's correction for the number of arms.
        needed: how many images this difference needs to be seen, see `images_needed`.
    """

    spread: Spread | None
    images: Interval = None
    difference: Spread | None = None
    difference_images: Interval = None
    p: float | None = None
    needed: int | None = None


@dataclass(frozen=True)
class DivisionCell:
    """The IoU's difference from the first arm on the images of one division, each image's the mean over its seeds."""

    images: int
    seeds: int
    difference: float
    interval: Interval
    p: float | None


@dataclass(frozen=True)
class Summary:
    """The statistics of an experiment.

    Attributes:
        arms: in their order; the first is what the others are compared with.
        runs, files: by arm and run; the lines, and the per-image files.
        lists: of `LISTS`, those that the lines have.
        cells: by list, figure, arm and epoch rule.
        divisions: by list, arm, division and epoch rule.
        missing: the planned runs that no line is of.
        notes: what a reader must know before comparing.
    """

    name: str
    arms: list[str]
    runs: Runs
    files: Files
    lists: list[str]
    cells: dict[tuple[str, str, str, str], Cell]
    divisions: dict[tuple[str, str, int, str], DivisionCell]
    missing: list[tuple[str, int, int]]
    notes: list[str] = field(default_factory=list)

    @property
    def arms_with_runs(self) -> list[str]:
        return [arm for arm in self.arms if self.runs[arm]]

    @property
    def not_run_yet(self) -> str:
        """A sentence about the arms without a run, for the end of a table; "" if all have one."""
        arms = [arm for arm in self.arms if not self.runs[arm]]
        return f"Not run yet: {', '.join(arms)}." if arms else ""

    @property
    def uneven_divisions(self) -> str:
        """A warning for tables of means, where arms have runs of different divisions; "" otherwise."""
        divisions = {arm: sorted({division for division, _ in self.runs[arm]}) for arm in self.arms_with_runs}
        if len(set(map(tuple, divisions.values()))) < 2:
            return ""
        named = "; ".join(f"{arm} {', '.join(map(str, of))}" for arm, of in divisions.items())
        return (
            f"These means are of different divisions ({named}), so the rows are not comparable. The differences are of "
            "the same divisions."
        )


def summarise(name: str, lines: Sequence[Line], results: Path, planned: Plan = ()) -> Summary:
    """Everything that tables and plots show.

    Args:
        lines: of `utils.reproduction.result_lines.read`.
        results: the folder that their per-image files are named from.
        planned: all runs of the experiment, in its order; without them, those of the lines.

    Raises:
        UserError: for a per-image file that cannot be read or is not of its line.
    """
    arms = list(dict.fromkeys([arm for arm, _, _ in planned] + [line["arm"] for line in lines]))
    runs = {arm: {run_of(line)[1:]: line for line in sorted(lines, key=run_of) if line["arm"] == arm} for arm in arms}
    lists = [on for on in LISTS if any(on in line["figures"] for line in lines)]
    files = {arm: {run: images_of(line, results) for run, line in of.items()} for arm, of in runs.items()}
    done = set(map(run_of, lines))
    cells: dict[tuple[str, str, str, str], Cell] = {}
    divisions: dict[tuple[str, str, int, str], DivisionCell] = {}
    notes: list[str] = []
    for on in lists:
        notes += [note for note in differing_protocols(runs, on) if note not in notes]
        for figure in FIGURES:
            found = _cells(runs, files, on, figure)
            cells |= {(on, figure, arm, rule): cell for (arm, rule), cell in found.items()}
        found_divisions = _divisions(runs, files, on)
        divisions |= {(on, *key): cell for key, cell in found_divisions.items()}
    missing = [run for run in planned if run not in done]
    return Summary(name, arms, runs, files, lists, cells, divisions, missing, notes)


def _figures(runs: Mapping[Run, Line], on: str, rule: str, figure: str) -> dict[Run, float]:
    found = {run: line["figures"].get(on, {}).get(rule, {}).get(figure) for run, line in runs.items()}
    return {run: value for run, value in found.items() if value is not None}


def of_images(files: Mapping[Run, Tables], on: str, rule: str, column: str) -> Figures:
    """A column of the per-image files of an arm's runs."""
    tables = {run: of[on, rule] for run, of in files.items() if (on, rule) in of}
    return {run: dict(zip(table.names, table.columns[column], strict=True)) for run, table in tables.items()}


def _cells(runs: Runs, files: Files, on: str, figure: str) -> dict[tuple[str, str], Cell]:
    """By arm and epoch rule."""
    first, *others = runs
    keys = [(arm, rule) for arm in runs for rule in EPOCH_RULES]
    values = {(arm, rule): _figures(runs[arm], on, rule, figure) for arm, rule in keys}
    found = {key: Cell(spread(of) if of else None) for key, of in values.items()}
    images: dict[tuple[str, str, str], Figures] = {}
    for arm, rule in keys if figure in OF_IMAGES else []:
        images[arm, rule, "mean"] = of_images(files[arm], on, rule, figure)
    for arm in others:
        pairs = comparable(runs[first], runs[arm], on)
        for rule in EPOCH_RULES:
            both = [{run: values[of, rule][run] for run in pairs if run in values[of, rule]} for of in (first, arm)]
            if not (between := paired(*both)):
                continue
            found[arm, rule] = replace(found[arm, rule], difference=spread(between), p=wilcoxon(list(between.values())))
            if (arm, rule, "mean") in images:
                of_runs = [{run: images[of, rule, "mean"][run] for run in between} for of in (first, arm)]
                images[arm, rule, "difference"] = differences(*of_runs)
    intervals = over_images({key: of for key, of in images.items() if of})
    for arm, rule in keys:
        between = images.get((arm, rule, "difference"), {})
        deviation = deviation_within_divisions(between)
        cell = found[arm, rule]
        found[arm, rule] = replace(
            cell,
            images=intervals.get((arm, rule, "mean")),
            difference_images=intervals.get((arm, rule, "difference")),
            needed=None if deviation is None else images_needed(cell.difference.mean, deviation),
        )
    return _corrected(found)


def _corrected(found: Mapping[tuple[str, str], Cell]) -> dict[tuple[str, str], Cell]:
    """The cells with Holm's correction for the number of arms, each epoch rule by itself."""
    corrected = dict(found)
    for rule in EPOCH_RULES:
        tested = [key for key, cell in found.items() if key[1] == rule and cell.p is not None]
        for key, p in zip(tested, holm([found[key].p for key in tested]), strict=True):
            corrected[key] = replace(found[key], p=p)
    return corrected


def _divisions(runs: Runs, files: Files, on: str) -> dict[tuple[str, int, str], DivisionCell]:
    """By arm, division and epoch rule: the IoU's differences on the images of one division."""
    first, *others = runs
    between = {}
    for arm in others:
        pairs = comparable(runs[first], runs[arm], on)
        for rule in EPOCH_RULES:
            of_arms = [of_images(files[of], on, rule, "iou") for of in (first, arm)]
            between[arm, rule] = differences(*({run: of[run] for run in pairs} for of in of_arms))
    found = {}
    for division in sorted({run[0] for of in between.values() for run in of}):
        samples = {key: of_division(of, division) for key, of in between.items()}
        samples = {key: of for key, of in samples.items() if of}
        intervals = over_images(samples)
        for rule in EPOCH_RULES:
            arms = [arm for arm, of in samples if of == rule]
            means = [list(mean_over_seeds(samples[arm, rule], division).values()) for arm in arms]
            corrected = holm([wilcoxon(each) for each in means])
            for arm, each, p in zip(arms, means, corrected, strict=True):
                mean, seeds = sum(each) / len(each), len(samples[arm, rule])
                found[arm, division, rule] = DivisionCell(len(each), seeds, mean, intervals[arm, rule], p)
    return found
