"""Paired comparison of runs on the same images: differences, their intervals, and a paired test.

Every difference is another run minus the first run. The figures differ far more between images than between two runs on
one image, so only the differences image by image can separate two runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from utils.common.errors import UserError
from utils.common.printable import some
from utils.evaluation.intervals import LEVEL, RESAMPLES
from utils.evaluation.pixel_metrics import COUNTS
from utils.evaluation.read_results import Evaluation


@dataclass(frozen=True)
class Paired:
    """One figure of one run against the first run.

    Attributes:
        column: the column of per_image.csv.
        run: the name of the other run.
        n: number of images that have the figure in both runs.
        means: the means of the first and of the other run over these images.
        difference: the mean of other minus first.
        low, high: its 95 % interval, by a BCa bootstrap over the images; NaN for a single image.
        p: p-value of the two-sided Wilcoxon signed-rank test, after Holm's correction for the number of runs.
        higher, lower: numbers of images with a positive and with a negative difference.
    """

    column: str
    run: str
    n: int
    means: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    higher: int
    lower: int


def align(runs: Sequence[Evaluation]) -> list[Evaluation]:
    """The runs with their images in the same order.

    Raises:
        UserError: if their lists of images differ, with the differences.
    """
    first, *others = runs
    aligned = [first]
    for run in others:
        missing = sorted(set(first.names) - set(run.names))
        extra = sorted(set(run.names) - set(first.names))
        if missing or extra:
            parts = [f"{some(missing)} only in {first.label}"] * bool(missing)
            parts += [f"{some(extra)} only in {run.label}"] * bool(extra)
            raise UserError(
                f"the lists of images differ: {'; '.join(parts)}. A paired comparison requires the same images in "
                "every run: evaluate all runs with the same --val_file_dir"
            )
        place = {image: i for i, image in enumerate(run.names)}
        order = [place[image] for image in first.names]
        columns, texts = (
            {key: [values[i] for i in order] for key, values in part.items()} for part in (run.columns, run.texts)
        )
        aligned.append(replace(run, names=first.names, columns=columns, texts=texts))
    return aligned


def compare_figures(runs: Sequence[Evaluation]) -> list[Paired]:
    """A row for each figure that all aligned runs have (except pixel counts) and for each run after the first."""
    first = runs[0].columns
    shared = [c for c in first if c not in COUNTS and all(c in run.columns for run in runs)]
    rows = []
    for column in shared:
        tests = [_paired(column, run.label, first[column], run.columns[column]) for run in runs[1:]]
        found = [test for test in tests if test is not None]
        corrected = holm([test.p for test in found])
        rows += [replace(test, p=p) for test, p in zip(found, corrected, strict=True)]
    return rows


def wilcoxon(differences: Sequence[float] | np.ndarray) -> float | None:
    """The p of Wilcoxon's signed-rank test, two-sided; exact for up to 50 pairs without ties. None without a pair.

    Its lowest value for n pairs is 2 / 2^n: 0.25 for three, and below 0.05 from six pairs on.
    https://doi.org/10.2307/3001968
    """
    if not len(differences):
        return None
    # Equal everywhere is no evidence of anything, and SciPy has no figure for it.
    return float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction of p-values, which controls the probability of at least one false positive.

    https://www.jstor.org/stable/4615733
    """
    adjusted = [0.0] * len(p)
    highest = 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def remarks(runs: Sequence[Evaluation]) -> list[str]:
    """Notes on differences between the runs that affect the comparison: image sizes and targets."""
    said = []
    sizes = {run.label: _size(run.summary.get("settings", {})) for run in runs}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} at {size}" for name, size in sizes.items())
        said.append(f"the image sizes differ ({told}), so the figures do not count the same pixels")
        return said
    first = runs[0].columns
    for run in runs[1:]:
        now = run.columns
        if not {"TP", "FN"} <= first.keys() & now.keys():
            continue
        targets = (np.add(columns["TP"], columns["FN"]) for columns in (first, now))
        if differing := int(np.not_equal(*targets).sum()):
            said.append(f"{differing} images have targets of another size in {run.label}, so the masks differ")
    return said


def _size(settings: Mapping[str, Any]) -> object:
    """The size at which predictions were compared with masks."""
    return settings.get("img_size") if settings.get("resize", "img_size") == "img_size" else "the images' own size"


def _paired(column: str, name: str, first: Sequence[float], other: Sequence[float]) -> Paired | None:
    """None if no image has the figure in both runs."""
    a, b = np.asarray(first, float), np.asarray(other, float)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return None
    a, b = a[both], b[both]
    differences = b - a
    means, counts = (float(a.mean()), float(b.mean())), (int((differences > 0).sum()), int((differences < 0).sum()))
    return Paired(
        column, name, len(a), means, float(differences.mean()), *_interval(differences), wilcoxon(differences), *counts
    )


def _interval(differences: np.ndarray) -> tuple[float, float]:
    if len(differences) == 1:
        return math.nan, math.nan
    if np.ptp(differences) < 1e-12:  # equal but for rounding, of which BCa makes NaN
        return float(differences[0]), float(differences[0])
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        batch=max(1, 10_000_000 // len(differences)),
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
