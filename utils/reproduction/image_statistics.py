"""Statistics over the images of an experiment: bootstrap intervals, and differences image by image.

An image is in the lists of several divisions, and each run evaluates it once. It is drawn as a whole, with all its
figures of all runs (a cluster bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section
3.8): figures of one image are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from utils.evaluation.intervals import Interval, Terms, ends, resampled
from utils.reproduction.run_statistics import Run

Figures = Mapping[Run, Mapping[str, float]]  # of each run, of each image, one figure; NaN where it is undefined
Key = TypeVar("Key", bound=Hashable)


def differences(first: Figures, other: Figures) -> dict[Run, dict[str, float]]:
    """Other minus first, of the runs and images that both have and define."""
    found = {}
    for run in sorted(first.keys() & other.keys()):
        both = {name: other[run][name] - first[run][name] for name in sorted(first[run].keys() & other[run].keys())}
        if defined := {name: value for name, value in both.items() if not math.isnan(value)}:
            found[run] = defined
    return found


def over_images(samples: Mapping[Key, Figures]) -> dict[Key, Interval]:
    """The 95 % interval of each sample's `mean_of_runs` over the images, all of the same draws (percentile bootstrap).

    None for a sample of fewer than two images.
    """
    names = sorted({name for of in samples.values() for images in of.values() for name in images})
    if not names:
        return dict.fromkeys(samples)
    place = {name: i for i, name in enumerate(names)}
    terms = {(key, run): _terms(images, place) for key, of in samples.items() for run, images in of.items()}
    terms = {at: (values, defined) for at, (values, defined) in terms.items() if defined.any()}
    drawn, found = resampled(terms) if terms else {}, {}
    for key in samples:
        runs = [run for of, run in terms if of == key]
        images = np.count_nonzero(sum((terms[key, run][1] for run in runs), np.zeros(len(names))))
        found[key] = ends(_mean({run: drawn[key, run] for run in runs})) if images > 1 else None
    return found


def _mean(of_runs: Mapping[Run, np.ndarray]) -> np.ndarray:
    """The mean of divisions, then of their seeds, as in `utils.reproduction.run_statistics.Spread`."""
    divisions = sorted({division for division, _ in of_runs})
    return np.mean(
        [np.mean([value for run, value in of_runs.items() if run[0] == d], axis=0) for d in divisions], axis=0
    )


def mean_of_runs(values: Figures) -> float:
    """The mean of divisions, then of their seeds, then of their images."""
    return float(_mean({run: np.nanmean(list(images.values())) for run, images in values.items()}))


def of_division(values: Figures, division: int) -> dict[Run, Mapping[str, float]]:
    return {run: images for run, images in values.items() if run[0] == division}


def mean_over_seeds(values: Figures, division: int) -> dict[str, float]:
    """Of each image of a division, the mean of its seeds."""
    runs = list(of_division(values, division).values())
    names = sorted(set().union(*runs))
    return {name: float(np.mean([run[name] for run in runs if name in run])) for name in names}


def deviation_within_divisions(values: Figures) -> float | None:
    """The standard deviation of an image's figure (the mean of its seeds), pooled over the divisions.

    None where no division has two images.
    """
    squares, freedom = 0.0, 0
    for division in sorted({division for division, _ in values}):
        of = np.array(list(mean_over_seeds(values, division).values()))
        squares += float(((of - of.mean()) ** 2).sum())
        freedom += len(of) - 1
    return math.sqrt(squares / freedom) if freedom else None


def _terms(images: Mapping[str, float], place: Mapping[str, int]) -> Terms:
    """The terms of a run's mean over the images that have the figure."""
    values, defined = np.zeros(len(place)), np.zeros(len(place))
    for name, value in images.items():
        if not math.isnan(value):
            values[place[name]], defined[place[name]] = value, 1
    return values, defined
