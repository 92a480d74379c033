"""The results of an evaluation: its means, the table for the terminal, and the CSV files.

The formulas are documented with their functions (pixel_metrics.py, target_metrics.py, hausdorff.py, threshold_sweep.py)
and in docs/reference/metrics.md.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.common.files import replacing
from utils.evaluation.benchmark_pooling import benchmark
from utils.evaluation.csv_names import escaped
from utils.evaluation.intervals import intervals
from utils.evaluation.intervals import words as interval
from utils.evaluation.mask_figures import MASK_FIGURES, every_figure
from utils.evaluation.pixel_metrics import Figure, pooled_iou
from utils.evaluation.threshold_sweep import Sweep, sweep
from utils.evaluation.thresholds import as_text


@dataclass(frozen=True)
class Results:
    """Counts and figures of each image, on the CPU, in the order of the list, and the scores of all pixels.

    Attributes:
        counts: "TP", "FP", "FN", "TN" pixels, (N,) int64.
        figures: `utils.evaluation.pixel_metrics.COUNT_FIGURES`, (N,) float64.
        targets: "targets", "found", "false_alarm_pixels", (N,) int64, see `utils.evaluation.target_metrics`.
        of_masks: `utils.evaluation.mask_figures.MASK_FIGURES`, (N,) float64; NaN where one is undefined.
        scores, above: see `utils.evaluation.threshold_sweep.sweep`.
    """

    names: list[str]
    counts: dict[str, Tensor]
    figures: dict[str, Tensor]
    targets: dict[str, Tensor]
    of_masks: dict[str, Tensor]
    scores: np.ndarray
    above: np.ndarray

    @cached_property
    def sweep(self) -> Sweep:
        """The figures at every threshold."""
        return sweep(self.scores, self.above)

    def summary(self) -> dict[str, Any]:
        """The means over the images and the figures over the data set; None for an undefined figure."""
        target_pixels = self.counts["TP"] + self.counts["FN"]
        return {
            "images": len(self.names),
            "images_without_target": int((target_pixels == 0).sum()),
            "mean_over_images": self._means(),
            "pooled_iou": pooled_iou(self.counts),
            "benchmark": benchmark(self.counts),
            "medical": self._medical(target_pixels),
            "infrared": self._infrared(),
            "sweep": self._sweep(),
            "intervals": intervals(self.figures, self.counts, self.targets, self.of_masks),
        }

    def ranked(self) -> list[int]:
        """The indices of the images, from the lowest IoU to the highest."""
        return torch.argsort(self.figures["iou"], stable=True).tolist()

    def _means(self) -> dict[str, Any]:
        """The means of all figures from counts, and of those from masks that belong to no field."""
        of_masks = {name: values for name, values in self.of_masks.items() if not MASK_FIGURES[name].field}
        return {
            key: value
            for name, values in {**self.figures, **of_masks}.items()
            for key, value in _mean(name, values, can_be_undefined=name in of_masks).items()
        }

    def _medical(self, target_pixels: Tensor) -> dict[str, Any]:
        figures = {
            key: value
            for name, values in {**self.figures, **self.of_masks}.items()
            if (figure := every_figure()[name]).field == "medical"
            for key, value in _mean(figure.title, values, can_be_undefined=name in self.of_masks).items()
        }
        return {
            **figures,
            "nothing_predicted": int((self.counts["TP"] + self.counts["FP"] == 0)[target_pixels > 0].sum()),
        }

    def _infrared(self) -> dict[str, Any]:
        union = self.counts["TP"] + self.counts["FP"] + self.counts["FN"]
        ious = torch.where(union > 0, self.counts["TP"].double() / union, 1.0)
        targets, found, false_alarms = (int(values.sum()) for values in self.targets.values())
        pixels = sum(int(values.sum()) for values in self.counts.values())
        return {
            "mIoU": pooled_iou(self.counts),
            "nIoU": ious.mean().item(),
            "Pd": found / targets if targets else None,
            "Fa_1e-6": 1e6 * false_alarms / pixels,
            "targets": targets,
            "found": found,
            "false_alarm_pixels": false_alarms,
        }

    def _sweep(self) -> dict[str, Any]:
        best = self.sweep.best()
        return {
            "average_precision": _number(self.sweep.average_precision),
            "roc_auc": _number(self.sweep.roc_auc),
            "best_threshold": {
                "threshold": self.sweep.thresholds[best].item(),
                "iou": self.sweep.iou[best].item(),
                "F1": self.sweep.f1[best].item(),
            },
        }


def _mean(name: str, values: Tensor, can_be_undefined: bool) -> dict[str, float | int | None]:
    """The mean over the images for which the figure is defined, and the number of the others if there can be any."""
    mean, undefined = {name: _number(values.nanmean().item())}, int(values.isnan().sum())
    return {**mean, f"{name}_undefined": undefined} if undefined or can_be_undefined else mean


def _number(value: float) -> float | None:
    """None for NaN, which JSON does not support."""
    return None if math.isnan(value) else value


def table(summary: dict[str, Any], field: str = "both") -> str:
    """The summary for the terminal: every figure with its name and the kind of averaging.

    Args:
        summary: from `Results.summary`, with the size of the comparison in "compared_at".
        field: the field whose figures are shown beside the paper's, one of `utils.settings.inference_arguments.FIELDS`.
    """
    means = summary["mean_over_images"]
    lines = [f"compared at {summary['compared_at']}"]
    lines += [f"figures of the paper, per image, averaged over {summary['images']} images (%):"]
    figures = every_figure()
    lines += [
        f"  {one.title:<5} {100 * means[name]:6.2f}{interval(summary, 'mean_over_images', name, scale=100)}"
        for name, one in figures.items()
        if one.field == "paper"
    ]
    if field == "medical":  # the infrared figures contain it
        lines += [
            "pooled over the pixels of all images (%):",
            f"  IoU   {100 * summary['pooled_iou']:6.2f}{interval(summary, 'pooled_iou', scale=100)}",
        ]
    if field != "infrared":
        lines += _medical_lines(summary)
    if field != "medical":
        lines += _infrared_lines(summary)
    if others := [
        _figure_line(one, name, "mean_over_images", summary) for name, one in figures.items() if not one.field
    ]:
        lines += ["other figures, per image, averaged:", *others]
    lines += _benchmark_lines(summary)
    lines += _sweep_lines(summary["sweep"])
    if empty := summary["images_without_target"]:
        lines.append(
            f"{empty} of the images have no target. Their IoU, nIoU and Dice are 1 if nothing is predicted, otherwise "
            "0; SE, PC and F1 are 0; HD95 is undefined; all predicted pixels are false alarms"
        )
    if summary.get("intervals"):
        lines.append("[low, high]: 95 % bootstrap interval over the images, without the variance of training")
    return "\n".join(lines)


def _benchmark_lines(summary: dict[str, Any]) -> list[str]:
    figures = summary["benchmark"]
    return [
        f"figures of the BUSI benchmark, pooled over {figures['batch']} consecutive images, averaged (%):",
        *(
            f"  {title:<5} {100 * figures[name]:6.2f}{interval(summary, 'benchmark', name, scale=100)}"
            for name, title in (("iou", "IoU"), ("F1", "F1"))
        ),
    ]


def _medical_lines(summary: dict[str, Any]) -> list[str]:
    figures = [figure for figure in every_figure().values() if figure.field == "medical"]
    return [
        "figures of medical segmentation, per image, averaged:",
        *(_figure_line(figure, figure.title, "medical", summary) for figure in figures),
    ]


def _figure_line(figure: Figure, name: str, group: str, summary: dict[str, Any]) -> str:
    """The line of a figure, `name` in `group` of the summary, with the number of images if it can be undefined."""
    means, scale = summary[group], 100 if figure.unit == "%" else 1
    value = _shown(means[name] and scale * means[name], "6.2f", f" {figure.unit}".rstrip())
    line = f"  {figure.title:<5} {value}{interval(summary, group, name, scale=scale)}"
    undefined = means.get(f"{name}_undefined")
    if undefined is None:
        return line
    line += f", over {summary['images'] - undefined} images"
    empty, nothing = summary["images_without_target"], summary["medical"]["nothing_predicted"]
    if undefined and undefined == empty + nothing:
        return f"{line}; {undefined} skipped, without target ({empty}) or without prediction ({nothing})"
    return f"{line}; {undefined} skipped, where it is undefined" if undefined else line


def _infrared_lines(summary: dict[str, Any]) -> list[str]:
    figures = summary["infrared"]

    def within(name: str, scale: float) -> str:
        return interval(summary, "infrared", name, scale=scale)

    pd = _shown(figures["Pd"] and 100 * figures["Pd"], "6.2f", " %").ljust(13)
    return [
        "figures of infrared small target detection:",
        f"  mIoU  {100 * figures['mIoU']:6.2f} %      IoU over the data set{within('mIoU', 100)}",
        f"  nIoU  {100 * figures['nIoU']:6.2f} %      mean of the images' IoU{within('nIoU', 100)}",
        f"  Pd    {pd} {figures['found']} of {figures['targets']} targets found{within('Pd', 100)}",
        f"  Fa    {figures['Fa_1e-6']:6.2f} x 1e-6 {figures['false_alarm_pixels']} false-alarm pixels"
        f"{within('Fa_1e-6', 1)}",
    ]


def _sweep_lines(figures: dict[str, Any]) -> list[str]:
    best = figures["best_threshold"]
    return [
        "figures over all thresholds, pooled over the pixels of all images:",
        f"  area under precision-recall (AP) {_shown(figures['average_precision'], '.4f')}, under ROC "
        f"{_shown(figures['roc_auc'], '.4f')}",
        f"  best threshold {as_text(best['threshold'])}: mean IoU {100 * best['iou']:.2f} % (above: threshold 0.5); "
        "optimistic, because it was selected on these images",
    ]


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "undefined" if value is None else format(value, form) + unit


def write_results(results: Results, folder: Path) -> None:
    """Writes `per_image.csv`, a row per image, from the lowest IoU to the highest, and `sweep.csv`, a row per
    threshold."""
    columns = {
        **results.figures,
        **results.of_masks,
        **results.counts,
        "target_pixels": results.counts["TP"] + results.counts["FN"],
        **results.targets,
    }
    lists = {name: values.tolist() for name, values in columns.items()}
    write_images(folder / "per_image.csv", results.names, lists, results.ranked())
    names = ("thresholds", "precision", "recall", "fpr", "tpr", "iou", "f1")
    curves = [getattr(results.sweep, name).tolist() for name in names]
    _write_csv(folder / "sweep.csv", ["threshold", *names[1:]], zip(*curves, strict=True))


def write_images(
    path: Path, names: Sequence[str], columns: Mapping[str, Sequence[float]], order: Iterable[int]
) -> None:
    """Writes a row per image, with its name and its value in each column, in that order of their indices."""
    rows = ([escaped(names[i]), *(values[i] for values in columns.values())] for i in order)
    _write_csv(path, ["name", *columns], rows)


def _write_csv(path: Path, header: list[str], rows: Any) -> None:
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow([cell if isinstance(cell, str) else f"{cell:.10g}" for cell in row])
