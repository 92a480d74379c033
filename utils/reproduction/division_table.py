"""The table of reproduce.py: the figures of each division, their mean and standard deviation, and the paper's."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.common import tables
from utils.common.errors import UserError
from utils.common.files import replacing
from utils.evaluation.pixel_metrics import PAPER_FIGURES
from utils.settings.config import find_configuration
from utils.settings.yaml_files import read_yaml

FIGURES = (*PAPER_FIGURES, "pooled_iou", "nIoU", "Pd", "Fa")
HEADINGS = {"iou": "IoU", "dice": "Dice", "pooled_iou": "pooled IoU", "Fa": "Fa x 1e-6"}
ROWS = {
    ("val", "best"): "val, best epoch on val (as in the paper)",
    ("val", "last"): "val, last epoch",
    ("test", "best"): "test, best epoch on val",
    ("test", "last"): "test, last epoch",
}


@dataclass(frozen=True)
class Result:
    """The figures of one evaluation: `weights` ("best", "last") of a division `on` "val" or "test".

    In percent, except Fa, which is in millionths; None for an undefined figure (Pd without a target).
    `intervals`: the 95 % interval of each figure in the same unit; None if there is none.
    """

    division: int
    on: str
    weights: str
    epoch: int
    images: int
    figures: Mapping[str, float | None]
    intervals: Mapping[str, list[float] | None] = field(default_factory=dict)

    @classmethod
    def read(cls, division: int, on: str, weights: str, epoch: int, summary: Mapping[str, Any]) -> Result:
        """From the summary of evaluation.py."""
        shares = {**summary["infrared"], **summary["mean_over_images"], "pooled_iou": summary["pooled_iou"]}
        figures = {name: None if shares[name] is None else 100 * shares[name] for name in FIGURES if name != "Fa"}
        figures["Fa"] = shares["Fa_1e-6"]
        ends = summary.get("intervals", {})
        ends = {**ends.get("infrared", {}), **ends.get("mean_over_images", {}), "pooled_iou": ends.get("pooled_iou")}
        intervals = {name: ends[name] and [100 * end for end in ends[name]] for name in FIGURES if name in ends}
        intervals["Fa"] = ends.get("Fa_1e-6")
        return cls(division, on, weights, epoch, summary["images"], figures, intervals)


def spread(results: Sequence[Result]) -> dict[tuple[str, str], dict[str, tuple[float | None, float | None]]]:
    """For each (on, weights): the mean over the divisions of each figure, and the sample standard deviation.

    The standard deviation has n - 1 in its denominator and is None for a single division. Both are None if the figure
    is undefined in a division.
    """
    spreads = {}
    for key in ROWS:
        if chosen := [result.figures for result in results if (result.on, result.weights) == key]:
            spreads[key] = {name: _mean_and_deviation([figures[name] for figures in chosen]) for name in FIGURES}
    return spreads


def _mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    if None in values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def published(dataset: str | None, config: str | None) -> dict[str, float]:
    """The published figures, in percent, in the configuration of --Dataset or --config; empty if there are none.

        published: {iou: 88.29, F1: 93.44}

    Raises:
        UserError: for names outside `PAPER_FIGURES` and values that are not numbers.
    """
    path = find_configuration(dataset, config)
    quoted = (read_yaml(path).get("published") or {}) if path else {}
    if not isinstance(quoted, dict) or not all(
        name in PAPER_FIGURES and isinstance(value, int | float) for name, value in quoted.items()
    ):
        names = ", ".join(PAPER_FIGURES)
        raise UserError(f"{path}: published must contain numbers in percent for {names}, got {quoted}")
    return quoted


def markdown(title: str, results: Sequence[Result], published: Mapping[str, float], notes: Sequence[str]) -> str:
    """The page: means with standard deviations, the paper's row, the notes, and every division."""
    headings = [HEADINGS.get(name, name) for name in FIGURES]
    rows = [
        [ROWS[key], *(_with_deviation(*values[name]) for name in FIGURES)] for key, values in spread(results).items()
    ]
    if published:
        rows.insert(0, ["published", *(f"{published[name]:.2f}" if name in published else "" for name in FIGURES)])
    in_order = sorted(results, key=lambda result: (list(ROWS).index((result.on, result.weights)), result.division))
    each = [
        [str(result.division), result.on, f"{result.weights} ({result.epoch})", str(result.images)]
        + [_shown(result.figures[name]) + _interval(result.intervals.get(name)) for name in FIGURES]
        for result in in_order
    ]
    return "\n\n".join(
        [
            f"# {title}",
            tables.markdown(["%, mean ± standard deviation over the divisions", *headings], rows),
            "\n".join(f"- {note}" for note in notes),
            "Each division, with the 95 % interval in brackets (percentile bootstrap over the images; it does not "
            "include the variance of training):",
            tables.markdown(["division", "list", "epoch", "images", *headings], each),
        ]
    )


def write(folder: Path, page: str, record: dict[str, Any], results: Sequence[Result]) -> None:
    """`reproduce.md`; `reproduce.json`: the record, with every division and the spreads; `reproduce.csv`: a row each.

    Raises:
        UserError: if they cannot be written.
    """
    with replacing(folder / "reproduce.md") as beside:
        beside.write_text(page + "\n", encoding="utf-8")
    spreads = [
        {"list": on, "weights": weights, "mean": _part(values, 0), "standard_deviation": _part(values, 1)}
        for (on, weights), values in spread(results).items()
    ]
    divisions = [
        {**vars(result), "figures": dict(result.figures), "intervals": dict(result.intervals)} for result in results
    ]
    with replacing(folder / "reproduce.json") as beside:
        content = {**record, "unit": "percent, Fa in millionths", "over_divisions": spreads, "divisions": divisions}
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with replacing(folder / "reproduce.csv") as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["division", "list", "weights", "epoch", "images", *FIGURES])
        for result in results:
            figures = ["" if value is None else f"{value:.10g}" for value in result.figures.values()]
            writer.writerow([result.division, result.on, result.weights, result.epoch, result.images, *figures])
        for row in spreads:
            for name in ("mean", "standard_deviation"):
                figures = ["" if value is None else f"{value:.10g}" for value in row[name].values()]
                writer.writerow([name, row["list"], row["weights"], "", "", *figures])


def _part(values: Mapping[str, tuple[float, float | None]], part: int) -> dict[str, float | None]:
    return {name: value[part] for name, value in values.items()}


def _with_deviation(mean: float | None, deviation: float | None) -> str:
    return _shown(mean) if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _interval(ends: Sequence[float] | None) -> str:
    return f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
