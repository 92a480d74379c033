"""Statistics over the runs of an experiment: means, components of variance, t intervals, numbers of images.

A run is of one division and one seed, and its key is that pair. Seeds are nested in divisions: the same seed draws the
same initial weights in every division, but what a seed does to one training list says nothing of another list.

Sources: Searle, Casella, McCulloch, Variance Components (1992), chapter 3 (components by the method of moments);
Cohen, Statistical Power Analysis (1988), chapter 2 (the power of a paired t test).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from utils.evaluation.intervals import LEVEL

POWER = 0.8
ALPHA = 1 - LEVEL

Run = tuple[int, int]  # division, seed


@dataclass(frozen=True)
class Spread:
    """The figures of several runs.

    Attributes:
        runs, divisions: how many there are.
        seeds: of each division; None where divisions have different numbers.
        mean: of the divisions' means, so that a division with more seeds weighs no more than another.
        deviation: the standard deviation of all runs, n - 1 in the denominator; None for a single run.
        of_divisions, of_seeds: its two components, see `components`; None where they cannot be told apart.
        low, high: the 95 % t interval of the mean; None for a single run.
        over: what the interval is over: "divisions", whose means are its n, or "seeds" of a single division.
    """

    runs: int
    divisions: int
    seeds: int | None
    mean: float
    deviation: float | None
    of_divisions: float | None
    of_seeds: float | None
    low: float | None
    high: float | None
    over: str | None


def spread(values: Mapping[Run, float]) -> Spread:
    """Mean, deviation, components and interval of at least one run."""
    groups = by_division(values)
    means = [float(np.mean(group)) for group in groups]
    over, sample = ("divisions", means) if len(groups) > 1 else ("seeds", groups[0])
    low, high = t_interval(sample)
    everything = list(values.values())
    return Spread(
        len(everything),
        len(groups),
        len(groups[0]) if len({len(group) for group in groups}) == 1 else None,
        float(np.mean(means)),
        float(np.std(everything, ddof=1)) if len(everything) > 1 else None,
        *components(groups),
        low,
        high,
        None if low is None else over,
    )


def by_division(values: Mapping[Run, float]) -> list[list[float]]:
    """The figures of each division's seeds, divisions and seeds in ascending order."""
    groups: dict[int, list[float]] = {}
    for run in sorted(values):
        groups.setdefault(run[0], []).append(values[run])
    return list(groups.values())


def components(groups: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """The standard deviations that divisions and seeds contribute: those of D and S in y = mean + D + S.

    Nested random effects by the method of moments (analysis of variance). With n_d seeds in division d, D divisions and
    N runs, MS_within = sum of (y - mean of d)^2 / (N - D) estimates the variance of S, and MS_between = sum of
    n_d (mean of d - mean)^2 / (D - 1) that of S plus n_0 times that of D, where n_0 = (N - sum of n_d^2 / N) / (D - 1).
    A negative estimate is shown as 0. S holds what the seed does in one division alone (the interaction), too.

    Returns:
        None twice, where there are not two divisions, or no division has two seeds.
    """
    sizes = np.array([len(group) for group in groups])
    runs, divisions = int(sizes.sum()), len(groups)
    if divisions < 2 or runs == divisions:
        return None, None
    means = np.array([np.mean(group) for group in groups])
    within = sum(float(((np.array(group) - mean) ** 2).sum()) for group, mean in zip(groups, means, strict=True))
    within /= runs - divisions
    between = float((sizes * (means - (sizes * means).sum() / runs) ** 2).sum()) / (divisions - 1)
    each = (runs - float((sizes**2).sum()) / runs) / (divisions - 1)
    return math.sqrt(max(0.0, (between - within) / each)), math.sqrt(within)


def t_interval(sample: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean of independent, normal values; None twice for a single value."""
    count = len(sample)
    if count < 2:
        return None, None
    mean = float(np.mean(sample))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, count - 1)) * float(np.std(sample, ddof=1)) / math.sqrt(count)
    return mean - half, mean + half


def paired(first: Mapping[Run, float], other: Mapping[Run, float]) -> dict[Run, float]:
    """Other minus first, of the runs that both have."""
    return {run: other[run] - first[run] for run in sorted(first.keys() & other.keys())}


def images_needed(difference: float, deviation: float) -> int | None:
    """How many images a paired t test needs to see this mean difference, at a power of 80 % and a level of 5 %.

    Two-sided, from the noncentral t distribution; both far tails count.

    Args:
        deviation: the standard deviation of the differences, image by image.

    Returns:
        at least 2; None where the difference is 0 or a rounding error, which no number of images would show.
    """
    if abs(difference) <= 1e-8 * deviation:
        return None
    effect = abs(difference) / deviation if deviation else math.inf
    low, high = 1, 2
    while power(effect, high) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle) >= POWER else (middle, high)
    return high


def power(effect: float, pairs: int) -> float:
    """The power of a two-sided paired t test at the level of 5 %; `effect` is mean / standard deviation."""
    if math.isinf(effect):
        return 1.0
    freedom, shift = pairs - 1, effect * math.sqrt(pairs)
    critical = float(stats.t.ppf(1 - ALPHA / 2, freedom))
    # The other tail is below 1e-7 there, and SciPy has NaN for some of it.
    other = float(stats.nct.cdf(-critical, freedom, shift)) if shift < 5 else 0.0
    return float(stats.nct.sf(critical, freedom, shift)) + other
