"""Runs evaluated on the same images: paired differences, their interval, and a paired test.

The first run is what the others are compared with; every difference is another run minus the first. Images differ far
more from one another than two runs do on one image: only the differences image by image tell two runs apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from utils.common.errors import UserError
from utils.evaluation.pixel_metrics import COUNTS
from utils.evaluation.read_results import Evaluation

RESAMPLES = 9999
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """One figure of one run against the first run.

    Attributes:
        column: of per_image.csv.
        run: the other run's name.
        n: images on which both have the figure.
        means: of the first run and of the other, over these images.
        difference: the mean of other minus first.
        low, high: its 95 % interval, by a BCa bootstrap over the images; NaN for a single image.
        p: of Wilcoxon's signed-rank test, two-sided, after Holm's correction for the number of runs compared.
        higher, lower: images with a positive and with a negative difference.
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
    """The runs with their images in one order.

    Raises:
        UserError: if their lists of images differ; the message says in what.
    """
    first, *others = runs
    aligned = [first]
    for run in others:
        missing = sorted(set(first.names) - set(run.names))
        extra = sorted(set(run.names) - set(first.names))
        if missing or extra:
            parts = [f"{_some(missing)} only in {first.label}"] * bool(missing)
            parts += [f"{_some(extra)} only in {run.label}"] * bool(extra)
            raise UserError(
                f"the lists of images differ: {'; '.join(parts)}. A paired comparison needs the same images in every "
                "run: evaluate all of them with the same --val_file_dir"
            )
        place = {image: i for i, image in enumerate(run.names)}
        order = [place[image] for image in first.names]
        columns, texts = (
            {key: [values[i] for i in order] for key, values in part.items()} for part in (run.columns, run.texts)
        )
        aligned.append(replace(run, names=first.names, columns=columns, texts=texts))
    return aligned


def compare_figures(runs: Sequence[Evaluation]) -> list[Paired]:
    """A row for each figure that all aligned runs have (counts of pixels apart) and each run but the first."""
    first = runs[0].columns
    shared = [c for c in first if c not in COUNTS and all(c in run.columns for run in runs)]
    rows = []
    for column in shared:
        tests = [_paired(column, run.label, first[column], run.columns[column]) for run in runs[1:]]
        found = [test for test in tests if test is not None]
        corrected = holm([test.p for test in found])
        rows += [replace(test, p=p) for test, p in zip(found, corrected, strict=True)]
    return rows


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction for several tests: the chance of one false alarm among all stays at the level tested.

    https://www.jstor.org/stable/4615733
    """
    adjusted = [0.0] * len(p)
    highest = 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def remarks(runs: Sequence[Evaluation]) -> list[str]:
    """What a reader must know of the runs before believing a difference: another image size, other targets."""
    said = []
    sizes = {run.label: run.summary.get("settings", {}).get("img_size") for run in runs}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} at {size}" for name, size in sizes.items())
        said.append(f"the figures are of other image sizes ({told}): they are not of the same pixels")
        return said
    first = runs[0].columns
    for run in runs[1:]:
        now = run.columns
        if not {"TP", "FN"} <= first.keys() & now.keys():
            continue
        targets = (np.add(columns["TP"], columns["FN"]) for columns in (first, now))
        if differing := int(np.not_equal(*targets).sum()):
            said.append(f"{differing} images have targets of another size in {run.label}: the masks are not the same")
    return said


def _paired(column: str, name: str, first: Sequence[float], other: Sequence[float]) -> Paired | None:
    """None if no image has the figure in both runs."""
    a, b = np.asarray(first, float), np.asarray(other, float)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return None
    a, b = a[both], b[both]
    differences = b - a
    # Equal everywhere is no evidence of anything, and SciPy has no figure for it.
    p = float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
    means, counts = (float(a.mean()), float(b.mean())), (int((differences > 0).sum()), int((differences < 0).sum()))
    return Paired(column, name, len(a), means, float(differences.mean()), *_interval(differences), p, *counts)


def _interval(differences: np.ndarray) -> tuple[float, float]:
    if len(differences) == 1:
        return math.nan, math.nan
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        batch=max(1, 10_000_000 // len(differences)),
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
