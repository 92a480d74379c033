"""`evaluation.py --compare`: from folders on the command line to a table in the terminal and a page."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.common.printable import one_line
from utils.common.processes import say
from utils.evaluation.paired_tests import Paired, align, compare_figures, remarks
from utils.evaluation.protocol_card import unlike
from utils.evaluation.read_results import Evaluation, flat, is_percent, read_evaluation, shown, title
from utils.evaluation.result_files import holds_code_test, holds_evaluation
from utils.report.charts import Axis, Chart, histogram, scatter
from utils.report.html_page import write_page

LARGEST = 5  # gains and losses that the page lists
# Settings that do not affect the results: places, devices and speed. `departures` only names others.
PLACES = ("base_dir", "config", "device", "output_dir", "report", "threads", "verbose", "weights", "workers")
PLACES += ("departures",)


def main(args: argparse.Namespace) -> list[Paired]:
    """Compares, prints the table, and writes the page with --report."""
    folders = [find_evaluation(Path(run)) for run in args.compare]
    runs = list(map(read_evaluation, folders, labels(folders)))
    if of_codes := [run.folder for run in runs if run.summary.get("code")]:
        raise UserError(
            f"{of_codes[0]} contains a test of --code, which compares with the images' own codes itself (summary.json, "
            "per_image-own.csv and the file beside it). To compare the run with others, evaluate it without --code"
        )
    runs = align(runs)
    differing, unknown = unlike([(run.label, run.summary.get("protocol")) for run in runs])
    if differing and "unlike_protocols" not in args:
        raise UserError(
            "the protocols differ, so the figures are not comparable:",
            *(f"  {line}" for line in differing),
            "Pass --unlike_protocols to compare them nevertheless",
        )
    notes = [f"the protocols differ: {line}" for line in differing] + [f"warning: {line}" for line in unknown]
    notes += remarks(runs)
    found = compare_figures(runs)
    say(as_text(runs, found, notes))
    if "report" in args:
        say(f"wrote {write_comparison(Path(args.report), runs, found, notes)}")
    return found


def find_evaluation(run: Path) -> Path:
    """The folder with per_image.csv: `run` itself, or the only evaluation of the experiment `run` without --code.

    Raises:
        UserError: if there is none, or more than one.
    """
    if not run.is_dir():
        raise UserError(f"--compare must be given folders of evaluation.py or of experiments; {run} was not found")
    if holds_evaluation(run):
        return run
    found = sorted(filter(holds_evaluation, (run / "evaluation").glob("*")))
    if not found:
        raise UserError(
            f"{run} contains no evaluation (per_image.csv or evaluation/*/per_image.csv): run evaluation.py first"
        )
    found = [folder for folder in found if not holds_code_test(folder)] or found
    if len(found) > 1:
        raise UserError(f"{run} contains {len(found)} evaluations; choose one of them: {', '.join(map(str, found))}")
    return found[0]


def labels(folders: Sequence[Path]) -> list[str]:
    """Short distinct names of the folders: their paths without the parts that all of them share.

    Raises:
        UserError: if a folder is given twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UserError("--compare must be given different evaluations, but one is given twice")
    start = _shared(parts)
    end = _shared([path[start:][::-1] for path in parts])
    short = [one_line("/".join(path[start : len(path) - end]) or path[-1]) for path in parts]
    return short if len(set(short)) == len(short) else [str(Path(*path)) for path in parts]


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """How many leading parts all paths have in common."""
    levels = zip(*paths, strict=False)  # ends with the shortest path
    return next((i for i, level in enumerate(levels) if len(set(level)) > 1), min(map(len, paths)))


def as_text(runs: Sequence[Evaluation], found: Sequence[Paired], notes: Sequence[str] = ()) -> str:
    """The comparison as the terminal shows it."""
    first, *others = runs
    width = max(len(title(row.column)) for row in found)
    lines = []
    for run in others:
        rows = [test for test in found if test.run == run.label]
        lines.append(f"first: {first.label}; second: {run.label}; difference: second minus first, image by image")
        head = ("n", "first", "second", "difference", "95 % interval", "p")
        lines.append("  {:<{}} {:>5} {:>9} {:>9} {:>11}   {:<20} {:>7}".format("", width, *head))
        for row in rows:
            difference, low, high = (change(value, row.column) for value in (row.difference, row.low, row.high))
            means = " ".join(f"{shown(mean, row.column):>9}" for mean in row.means)
            name, interval = f"{title(row.column):<{width}}", f"{low} .. {high}"
            lines.append(f"  {name} {row.n:>5} {means} {difference:>11}   {interval:<20} {p_value(row.p):>7}")
    lines.append(f"p: Wilcoxon signed-rank, two-sided{holm_note(runs)}; interval of the mean difference: BCa bootstrap")
    lines += [note if note.startswith("warning: ") else f"note: {note}" for note in notes]
    return "\n".join(lines)


def holm_note(runs: Sequence[Evaluation]) -> str:
    count = len(runs) - 1
    return f", corrected (Holm) for {count} comparisons" if count > 1 else ""


def change(value: float, column: str) -> str:
    """A difference in the unit of its figure, always with its sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return f"{100 * value:+.2f}" if is_percent(column) else f"{value:+.4g}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def write_comparison(
    folder: Path, runs: Sequence[Evaluation], found: Sequence[Paired], notes: Sequence[str] = ()
) -> Path:
    """Writes `comparison.html` and returns its path.

    Raises:
        UserError: if it cannot be written.
    """
    return write_page(
        folder / "comparison.html",
        "comparison.html",
        runs=runs,
        found=found,
        notes=notes,
        holm=holm_note(runs),
        pairs=[_pair(runs[0], run) for run in runs[1:]],
        rows=_rows(runs),
        differing=differing_settings(runs),
        change=change,
        p_value=p_value,
    )


def differing_settings(runs: Sequence[Evaluation]) -> dict[str, list[str]]:
    """The settings in which the runs differ, with one value per run; `PLACES` are left out."""
    recorded = [flat(run.summary.get("settings", {})) for run in runs]
    names = dict.fromkeys(name for one in recorded for name in one if name not in PLACES)
    values = {name: [str(one.get(name, "–")) for one in recorded] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def _rows(runs: Sequence[Evaluation]) -> list[tuple[str, list[float], list[float]]]:
    """For each image its name, the IoU of each run, and the differences from the first; the largest loss first."""
    ious = [run.columns["iou"] for run in runs]
    rows = [
        (name, list(values), [value - values[0] for value in values[1:]])
        for name, *values in zip(runs[0].names, *ious, strict=True)
    ]
    return sorted(rows, key=lambda row: row[2][0])


def _pair(first: Evaluation, other: Evaluation) -> dict[str, Any]:
    """The charts and the extremes of one comparison; IoU in percent."""
    ranked = _ranked(first, other)
    return {
        "other": other,
        "charts": paired_charts(first, other),
        "gains": [row for row in reversed(ranked[-LARGEST:]) if row[2] > row[1]],
        "losses": [row for row in ranked[:LARGEST] if row[2] < row[1]],
    }


def _ranked(first: Evaluation, other: Evaluation) -> list[tuple[str, float, float]]:
    """Each image with the IoU of both runs in percent, the largest loss first."""
    a, b = ([100 * value for value in run.columns["iou"]] for run in (first, other))
    return sorted(zip(first.names, a, b, strict=True), key=lambda row: row[2] - row[1])


def paired_charts(first: Evaluation, other: Evaluation) -> list[Chart]:
    """The IoU of each image in both runs, and the differences."""
    ranked = _ranked(first, other)
    differences = [two - one for _, one, two in ranked]
    widest = max(1.0, *map(abs, differences))
    points = [(one, two, f"{name}: {one:.1f} and {two:.1f} ({two - one:+.1f})") for name, one, two in ranked]
    axes = (Axis(f"IoU (%) of {run.label}", 0, 100) for run in (first, other))
    above = sum(difference > 0 for difference in differences)
    text = f"above the line, {other.label} is better: {above} of {len(points)} images"
    return [
        scatter("IoU of each image", text, *axes, points, diagonal=True),
        histogram("Differences of the images", "difference of IoU (points)", differences, -widest, widest),
    ]
