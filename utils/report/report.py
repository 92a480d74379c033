"""The report of an evaluation: figures, curves, distributions, example cases, the table of images, the layer at work.

The page is made from the files of evaluation.py (`per_image.csv` and `summary.json`, with any columns and figures),
from the run's `log.jsonl` if it is beside the weights, and from a few images that are predicted once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from models import VARIANTS
from utils.common.errors import UserError
from utils.common.run_log import read_log
from utils.evaluation.code_swap import CodeTest
from utils.evaluation.published import ReleasedLog, released_log
from utils.evaluation.read_results import PARTS, Evaluation, flat, read_evaluation, shown, title
from utils.evaluation.thresholds import as_text, best_threshold
from utils.report.charts import Axis, Chart, histogram, line_chart, scatter, unit_chart
from utils.report.code_section import charts
from utils.report.compare import change, p_value
from utils.report.example_cases import CaseView
from utils.report.html_page import write_page
from utils.report.layer_words import LayerWords

# Settings at the top of the page; the others are at its end.
ABOUT = ("val_file_dir", "weights", "recon_weights", "seg_weights", "variant", "dynamic", "kernel_source", "img_size")
CURVES = ("loss", "iou")  # of the log; the other figures follow these


class SweepCurves(Protocol):
    """Figures at rising thresholds of the probability, arrays of equal length, and the areas under two curves.

    precision, recall, fpr, tpr: over all pixels; iou, f1: of each image, then averaged.
    """

    thresholds: Sequence[float]
    precision: Sequence[float]
    recall: Sequence[float]
    fpr: Sequence[float]
    tpr: Sequence[float]
    iou: Sequence[float]
    f1: Sequence[float]
    average_precision: float
    roc_auc: float


def write_report(
    folder: Path,
    evaluation: Path,
    cases: Sequence[CaseView],
    weights: Path | None = None,
    sweep: SweepCurves | None = None,
    code: CodeTest | None = None,
    layer: LayerWords | None = None,
) -> Path:
    """Writes `report.html` and returns its path.

    Args:
        folder: output folder; created if missing.
        evaluation: results folder of evaluation.py.
        cases: what `utils.report.example_cases.look_at_cases` returns.
        weights: checkpoint; the logs of its two phases are searched where training writes them.
        sweep: figures over thresholds.
        code: the result of --code, if it was run.
        layer: words for the layer that makes codes, if the network has one.

    Raises:
        UserError: if the evaluation cannot be read or the page cannot be written.
    """
    table = read_evaluation(evaluation)
    settings = table.summary.get("settings", {})
    return write_page(
        folder / "report.html",
        "report.html",
        network="SRS" if settings.get("variant", "srs") in VARIANTS else settings["variant"],
        data_set=settings.get("Dataset") or evaluation.name,
        about={name: settings[name] for name in ABOUT if settings.get(name) is not None},
        figures=_figures(table.summary),
        compared_at=table.summary.get("compared_at"),
        training=[] if weights is None else training_charts(weights),
        thresholds=[] if sweep is None else sweep_charts(sweep),
        distributions=[_distribution(table, name) for name in ("iou", "F1") if name in table.columns],
        sizes=_sizes(table),
        layer=layer,
        code=code,
        code_charts=[] if code is None else charts(code),
        change=change,
        p_value=p_value,
        table=table,
        cases=cases,
        case_of={case.name: number for number, case in enumerate(cases)},
        details={name: flat(table.summary[name]) for name in PARTS if name in table.summary},
    )


def training_charts(weights: Path) -> list[Chart]:
    """The curves of the run that wrote these weights, from those of its log.jsonl files that can be read."""
    charts = []
    for phase, path in (
        ("phase 2, segmentation", weights.parent / "log.jsonl"),
        ("phase 1, reconstruction", weights.parent.parent / "recon" / "log.jsonl"),
    ):
        try:
            entries = read_log(path)
            released = released_log(_trained_on(path.parent)) if path.parent == weights.parent else None
            charts += [chart for name in CURVES if (chart := _training_chart(phase, name, entries, released))]
        except (UserError, OSError, ValueError, KeyError, TypeError):
            continue  # edited by hand, or another file of that name: the report does not need it
    return charts


def _trained_on(run: Path) -> str:
    """The --Dataset of a run from its settings.txt; empty if unknown."""
    path = run / "settings.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return next((line.split(None, 1)[1].strip() for line in lines if line.split()[:1] == ["Dataset"]), "")


def sweep_charts(sweep: SweepCurves) -> list[Chart]:
    """Precision over recall, ROC, and IoU and F1 over the threshold."""
    half = int(np.argmin(np.abs(np.asarray(sweep.thresholds, float) - 0.5)))
    text = f"all pixels; average precision {sweep.average_precision:.4f}; dot: threshold 0.5"
    precision = unit_chart("Precision over recall", text, "recall", "precision")
    precision.line("", sweep.recall, sweep.precision)
    text = f"all pixels; area under the curve {sweep.roc_auc:.4f}; dot: threshold 0.5"
    roc = unit_chart("ROC", text, "false positive rate", "true positive rate")
    roc.diagonal()
    roc.line("", sweep.fpr, sweep.tpr)
    for chart, x, y in ((precision, sweep.recall, sweep.precision), (roc, sweep.fpr, sweep.tpr)):
        if math.isfinite(x[half]) and math.isfinite(y[half]):  # undefined for a list without a target
            chart.dot(x[half], y[half], "threshold 0.5")
    best = best_threshold(np.asarray(sweep.thresholds, float), np.asarray(sweep.iou, float))
    text = f"mean over the images; IoU is highest at {as_text(sweep.thresholds[best])}: {100 * sweep.iou[best]:.2f} %"
    figures = unit_chart("IoU and F1 over the threshold", text, "probability threshold", "IoU, F1")
    figures.line("IoU", sweep.thresholds, sweep.iou)
    figures.line("F1", sweep.thresholds, sweep.f1)
    figures.rule("0.5", x=0.5)
    return [precision, roc, figures]


def _figures(summary: Mapping[str, Any]) -> dict[str, dict[str, tuple[str, str]]]:
    """The figures of the summary and their 95 % intervals, as shown, in groups: nested parts first, then the others."""
    groups: dict[str, dict[str, tuple[str, str]]] = {}
    alone: dict[str, tuple[str, str]] = {}
    intervals = flat(summary.get("intervals", {}))
    for name, value in summary.items():
        if name in PARTS or name in ("code", "compared_at"):  # elsewhere on the page
            continue
        if isinstance(value, Mapping):
            groups[name.replace("_", " ")] = {
                title(key): (_as_text(key, one), _interval(key, intervals.get(f"{name} / {key}")))
                for key, one in flat(value).items()
            }
        elif not isinstance(value, list):
            alone[title(name)] = _as_text(name, value), _interval(name, intervals.get(name))
    return {group: values for group, values in {**groups, "whole list": alone}.items() if values}


def _as_text(name: str, value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return shown(value, name) if is_number else "–" if value is None else str(value)


def _interval(name: str, ends: Any) -> str:
    """A 95 % interval in the unit of its figure; empty for a figure without one."""
    if not isinstance(ends, list) or len(ends) != 2:
        return ""
    return f"{_as_text(name, ends[0])} to {_as_text(name, ends[1])}"


def _training_chart(
    phase: str, name: str, entries: Sequence[Mapping[str, Any]], released: ReleasedLog | None = None
) -> Chart | None:
    if not entries or name not in entries[0]["train"]:
        return None
    epochs = [float(entry["epoch"]) for entry in entries]
    unit = 100 if name == "iou" else 1
    lines = {
        label: [unit * float(entry[part].get(name, math.nan)) for entry in entries]
        for part, label in (("train", "training"), ("val", "validation"))
    }
    best = max if name == "iou" else min
    found = [(value, epoch) for value, epoch in zip(lines["validation"], epochs, strict=True) if math.isfinite(value)]
    text = f"{len(entries)} epochs"
    if found:
        value, epoch = best(found, key=lambda point: point[0])
        text += f"; {'highest' if name == 'iou' else 'lowest'} validation value {value:.4g} in epoch {epoch:.0f}"
    if released:
        lines["released log, validation"] = [unit * value for value in released.columns[f"val_{name}"]]
        longest = max(len(epochs), len(released))
        epochs += [epochs[-1] + n for n in range(1, 1 + longest - len(epochs))]
        lines = {label: [*line, *[math.nan] * (longest - len(line))] for label, line in lines.items()}
        text += f"; released log: {unit * released.at(released.best())[f'val_{name}']:.4g} in its best epoch by IoU"
        text += f" ({released.best() + 1})"
    label = "IoU (%)" if name == "iou" else f"{name} (log scale)"
    heading = f"{'IoU' if name == 'iou' else 'Loss'}, {phase}"
    return line_chart(heading, text, "epoch", label, epochs, lines, log=name == "loss")


def _distribution(table: Evaluation, name: str) -> Chart:
    values = [100 * value for value in table.columns[name]]
    return histogram(f"{title(name)[:-4]} of each image", title(name), values, 0, 100)


def _sizes(table: Evaluation) -> Chart | None:
    """IoU over target size; None if no image has a target."""
    if not {"TP", "FN"} <= table.columns.keys():
        return None
    sizes = [tp + fn for tp, fn in zip(table.columns["TP"], table.columns["FN"], strict=True)]
    points = [
        (size, 100 * iou, f"{name}: {size:.0f} pixels, IoU {100 * iou:.1f}")
        for name, size, iou in zip(table.names, sizes, table.columns["iou"], strict=True)
        if size > 0 and math.isfinite(iou)
    ]
    if not points:
        return None
    empty = len(sizes) - len(points)
    text = f"{len(points)} images" + (f"; {empty} without a target are left out" if empty else "")
    low, high = min(size for size, *_ in points), max(size for size, *_ in points)
    across = Axis("target size (pixels)", low / 1.2, high * 1.2, log=True)
    return scatter("IoU over target size", text, across, Axis("IoU (%)", 0, 100), points)
