"""The statistics of runs: against SciPy, by hand, and on simulated runs whose components of variance are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from utils.evaluation.paired_tests import holm, wilcoxon
from utils.reproduction.run_statistics import (
    by_division,
    components,
    images_needed,
    paired,
    power,
    spread,
    t_interval,
)


def simulated(rng, divisions, seeds, of_divisions, of_seeds):
    levels = rng.normal(70, of_divisions, divisions)
    return {(d, s): levels[d] + rng.normal(0, of_seeds) for d in range(divisions) for s in range(seeds)}


def test_components_of_a_simulation_are_found():
    found = spread(simulated(np.random.default_rng(0), 3000, 3, of_divisions=2.0, of_seeds=1.0))
    assert found.of_divisions == pytest.approx(2.0, rel=0.05) and found.of_seeds == pytest.approx(1.0, rel=0.05)
    assert found.mean == pytest.approx(70, abs=0.2)
    none = spread(simulated(np.random.default_rng(1), 3000, 3, of_divisions=0.0, of_seeds=1.0))
    assert none.of_divisions < 0.2 and none.of_seeds == pytest.approx(1.0, rel=0.05)


def test_components_of_divisions_with_different_numbers_of_seeds():
    runs = simulated(np.random.default_rng(2), 4000, 4, of_divisions=1.5, of_seeds=0.5)
    uneven = {run: value for run, value in runs.items() if run[1] <= run[0] % 4}
    assert components(by_division(uneven)) == pytest.approx((1.5, 0.5), rel=0.06)


def test_components_are_those_of_the_analysis_of_variance():
    groups = [[70.0, 72.0], [75.0, 74.0], [68.0, 71.0]]
    of_divisions, of_seeds = components(groups)
    within = np.mean([np.var(group, ddof=1) for group in groups])
    ratio = stats.f_oneway(*groups).statistic  # MS_between / MS_within
    assert of_seeds == pytest.approx(math.sqrt(within))
    assert of_divisions == pytest.approx(math.sqrt(within * (ratio - 1) / 2))


def test_a_negative_estimate_is_shown_as_zero_and_too_few_runs_have_no_components():
    assert components([[70.0, 80.0], [70.0, 80.0]]) == pytest.approx((0.0, math.sqrt(50)))
    assert components([[70.0], [71.0], [72.0]]) == (None, None)
    assert components([[70.0, 71.0]]) == (None, None)


def test_t_interval_is_scipy_s_over_the_means_of_divisions():
    runs = {(1, 41): 70.0, (1, 42): 72.0, (2, 41): 75.0, (3, 41): 68.0}
    found = spread(runs)
    expected = stats.ttest_1samp([71.0, 75.0, 68.0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.over, found.runs, found.divisions) == ("divisions", 4, 3)
    assert found.mean == pytest.approx(np.mean([71.0, 75.0, 68.0]))
    assert found.deviation == pytest.approx(np.std([70, 72, 75, 68], ddof=1))
    seeds = spread({(2, 41): 70.0, (2, 42): 72.0})
    assert (seeds.low, seeds.high) == pytest.approx(t_interval([70.0, 72.0])) and seeds.over == "seeds"
    single = spread({(1, 41): 70.0})
    assert (single.deviation, single.low, single.over) == (None, None, None) and single.mean == 70.0


def test_t_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    runs = [simulated(rng, 3, 2, of_divisions=1.0, of_seeds=1.0) for _ in range(1000)]
    held = [found.low <= 70 <= found.high for found in map(spread, runs)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_wilcoxon_is_exact_for_few_pairs():
    differences = [0.4, 1.1, -0.2, 0.9, 0.7, 1.3]
    assert wilcoxon(differences) == stats.wilcoxon(differences, method="exact").pvalue
    assert wilcoxon([1.0, 2.0, 3.0]) == pytest.approx(2 / 2**3)  # all signs alike: the lowest that three pairs give
    assert wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2 / 2**6)
    assert wilcoxon([0.0, 0.0]) == 1.0 and wilcoxon([]) is None


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04; times 4, 3, 2, 1; none below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_runs_are_paired_by_division_and_seed():
    first, other = {(1, 41): 70.0, (1, 42): 60.0, (2, 41): 50.0}, {(2, 41): 53.0, (1, 41): 71.0, (3, 41): 9.0}
    assert paired(first, other) == {(1, 41): 1.0, (2, 41): 3.0}


@pytest.mark.parametrize(("effect", "images"), [(0.2, 199), (0.3, 90), (0.5, 34), (0.8, 15)])
def test_images_needed_are_those_of_the_tables(effect, images):
    """Two-sided, 5 %, 80 %, paired: the sample sizes that G*Power gives."""
    assert images_needed(effect, 1.0) == images_needed(-2 * effect, 2.0) == images


def test_images_needed_have_the_power_in_a_simulation():
    images = images_needed(0.4, 1.0)
    draws = np.random.default_rng(4).normal(0.4, 1.0, (4000, images))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.025)


def test_images_needed_at_the_edges():
    assert images_needed(0.0, 1.0) is None and images_needed(1.0, 0.0) == 2
    assert images_needed(-1e-17, 0.1) is None, "a rounding error"
    assert images_needed(1e-7, 1.0) > 10**14
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2
    assert images_needed(0.001, 1.0) == pytest.approx(normal * 1e6, rel=1e-3)
    for effect in (0.01, 0.5, 30.0):
        powers = [power(effect, count) for count in (2, 3, 5, 10, 100, 1000, 10_000, 400_000)]
        assert powers == sorted(powers) and powers[-1] == pytest.approx(1.0, abs=1e-4)
