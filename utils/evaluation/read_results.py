"""What evaluation.py has left in a folder, read back: `per_image.csv` and `summary.json`, whatever they hold."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.evaluation.mask_figures import every_figure

TITLES = {"pooled_iou": "pooled IoU"}  # of figures of the whole list; those of images have their own
PERCENT = {"pooled_iou", "mIoU", "nIoU", "Pd"}  # of the same: in 0..1, and shown times 100
PARTS = ("settings", "provenance")  # of a summary; all else in it is figures
FILES = ("per_image.csv", "summary.json")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, the images in the order of its file.

    label: what tells it from others that it is compared with.
    columns: of numbers, one for each image; NaN where a figure has no value.
    texts: the columns that hold other things than numbers.
    """

    folder: Path
    label: str
    names: list[str]
    columns: dict[str, list[float]]
    texts: dict[str, list[str]]
    summary: dict[str, Any]


def read_evaluation(folder: Path, label: str = "") -> Evaluation:
    """Reads the two files; the label is the folder's name if not given.

    Raises:
        UserError: if one is missing, cannot be read, or holds something else.
    """
    table, summary = (folder / name for name in FILES)
    try:
        with table.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, strict=True)
        content = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{folder} holds no evaluation that can be read ({error}): run evaluation.py again") from error
    names = [row[0] for row in rows if row]
    if header[:1] != ["name"] or "iou" not in header or any(len(row) != len(header) for row in rows) or not rows:
        raise UserError(f"{table} is not a table of evaluation.py (a row an image, with its name first, and iou)")
    if len(set(header)) < len(header) or len(set(names)) < len(names):
        raise UserError(f"{table} names a column or an image twice")
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
        raise UserError(f"{table} holds an iou that is not a number")
    return Evaluation(folder, label or folder.name, names, columns, texts, content)


def title(column: str) -> str:
    """A figure's name as readers know it, with its unit where that is percent."""
    *within, last = column.split(" / ")
    figure = every_figure().get(last)
    name = " / ".join([*within, figure.title if figure else TITLES.get(last, last)]).replace("_", " ")
    return f"{name} (%)" if is_percent(column) else name


def is_percent(column: str) -> bool:
    """Whether a figure, which may be a nested one of `flat`, is shown in percent."""
    last, figures = column.split(" / ")[-1], every_figure()
    if last in figures:
        return figures[last].unit == "%"
    return last in PERCENT or any(figure.title == last and figure.unit == "%" for figure in figures.values())


def shown(value: float, column: str) -> str:
    """A figure's value in the unit of its `title`; a dash for one that is not there."""
    if math.isnan(value):
        return "–"
    if is_percent(column):
        return f"{100 * value:.2f}"
    return f"{value:.0f}" if float(value).is_integer() or 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def sort_key(value: float) -> str:
    """A number as page.js reads it back; nothing for one that is not there."""
    if math.isnan(value):
        return ""
    return repr(value) if math.isfinite(value) else "-Infinity" if value < 0 else "Infinity"


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested figures side by side: {"a": {"b": 1}} as {"a / b": 1}; a list of more than ten things is left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{before}{name} / "))
        elif not isinstance(value, list) or len(value) <= 10:
            found[before + name] = value
    return found


def _number(text: str) -> float:
    return float(text) if text.strip() else math.nan
