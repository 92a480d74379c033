"""Reading the results of evaluation.py, `per_image.csv` and `summary.json`, without trusting their content."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.evaluation.csv_names import unescaped
from utils.evaluation.mask_figures import every_figure
from utils.evaluation.result_files import SUMMARY, read_together
from utils.evaluation.thresholds import as_text

TITLES = {"pooled_iou": "pooled IoU"}  # for figures of the whole list; see `Figure.title` for those of images
PERCENT = {"pooled_iou", "mIoU", "nIoU", "Pd"}  # figures of the whole list in 0..1, which are shown times 100
PARTS = ("settings", "provenance", "protocol", "intervals", "files")  # parts of a summary that are not figures
FILES = ("per_image.csv", SUMMARY)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, with the images in the order of its file.

    label: its name in a comparison.
    columns: the numeric columns, a value for each image; NaN where a figure is undefined.
    texts: the other columns.
    """

    folder: Path
    label: str
    names: list[str]
    columns: dict[str, list[float]]
    texts: dict[str, list[str]]
    summary: dict[str, Any]


def read_evaluation(folder: Path, label: str = "") -> Evaluation:
    """Reads the two files; the label is the name of the folder by default.

    Raises:
        UserError: if a file is missing, unreadable or invalid, or if the files belong to two evaluations.
    """
    table, summary = (folder / name for name in FILES)

    def read(where: Callable[[str], Path]) -> tuple[list[list[str]], Any]:
        with where(table.name).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            lines = list(csv.reader(file, strict=True))
        return lines, json.loads(where(summary.name).read_text(encoding="utf-8"))

    try:
        (header, *rows), content = read_together(folder, read)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{folder} contains no readable evaluation ({error}): run evaluation.py again") from error
    names = [unescaped(row[0]) for row in rows if row]
    if header[:1] != ["name"] or "iou" not in header or any(len(row) != len(header) for row in rows) or not rows:
        raise UserError(f"{table} is not a table of evaluation.py (columns name, iou, ..., one row per image)")
    if len(set(header)) < len(header) or len(set(names)) < len(names):
        raise UserError(f"{table} contains a column or an image twice")
    if not isinstance(content, dict) or not all(isinstance(content.get(part, {}), dict) for part in PARTS):
        raise UserError(f"{summary} is not a summary of evaluation.py")
    columns, texts = {}, {}
    for title, *values in zip(*([header, *rows]), strict=True):
        if title == "name":
            continue
        try:
            columns[title] = [_number(value) for value in values]
        except ValueError:
            texts[title] = list(values)
    if not all(map(math.isfinite, columns.get("iou", [math.nan]))):
        raise UserError(f"{table} contains an iou that is not a number")
    return Evaluation(folder, label or folder.name, names, columns, texts, content)


def title(column: str) -> str:
    """The usual name of a figure, with "(%)" if it is a percentage."""
    *within, last = column.split(" / ")
    figure = every_figure().get(last)
    name = " / ".join([*within, figure.title if figure else TITLES.get(last, last)]).replace("_", " ")
    return f"{name} (%)" if is_percent(column) else name


def is_percent(column: str) -> bool:
    """Whether a figure, which may be nested as in `flat`, is shown in percent."""
    last, figures = column.split(" / ")[-1], every_figure()
    if last in figures:
        return figures[last].unit == "%"
    return last in PERCENT or any(figure.title == last and figure.unit == "%" for figure in figures.values())


def shown(value: float, column: str) -> str:
    """The value of a figure in the unit of its `title`; a dash for NaN."""
    if math.isnan(value):
        return "–"
    if is_percent(column):
        return f"{100 * value:.2f}"
    if column.split(" / ")[-1] == "threshold":
        return as_text(value)
    return f"{value:.0f}" if float(value).is_integer() or 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def sort_key(value: float) -> str:
    """A number in the form that page.js parses; empty for NaN."""
    if math.isnan(value):
        return ""
    return repr(value) if math.isfinite(value) else "-Infinity" if value < 0 else "Infinity"


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested figures as a flat dict: {"a": {"b": 1}} as {"a / b": 1}; lists of more than ten items are skipped."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{before}{name} / "))
        elif not isinstance(value, list) or len(value) <= 10:
            found[before + name] = value
    return found


def _number(text: str) -> float:
    return float(text) if text.strip() else math.nan
