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

from utils.evaluation.intervals import Interval, bootstrap
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
    """The 95 % interval of each sample's mean over the images, all of the same draws (percentile bootstrap).

    The mean is that of the runs, as in `utils.reproduction.run_statistics.Spread`: of divisions, then of their seeds,
    then of their images.
    """
    names = sorted({name for of in samples.values() for images in of.values() for name in images})
    if not names:
        return dict.fromkeys(samples)
    place = {name: i for i, name in enumerate(names)}
    return bootstrap({key: _terms(of, place) for key, of in samples.items()})


def mean_of_runs(values: Figures) -> float:
    """The mean of divisions, then of their seeds, then of their images, as `over_images` draws it."""
    divisions = sorted({division for division, _ in values})
    of_runs = {run: np.nanmean(list(images.values())) for run, images in values.items()}
    return float(np.mean([np.mean([mean for run, mean in of_runs.items() if run[0] == d]) for d in divisions]))


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


def _terms(values: Figures, place: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of each image, the weighted sum of its figures, and of their weights: every division weighs the same."""
    above, below = np.zeros(len(place)), np.zeros(len(place))
    divisions = [division for division, _ in values]
    for (division, _), images in values.items():
        defined = {name: value for name, value in images.items() if not math.isnan(value)}
        if not defined:
            continue
        weight = 1 / (divisions.count(division) * len(defined))
        at = [place[name] for name in defined]
        above[at] += weight * np.array(list(defined.values()))
        below[at] += weight
    return above, below
