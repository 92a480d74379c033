"""Intervals over the images of several divisions and seeds, and differences image by image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from utils.reproduction.image_statistics import (
    deviation_within_divisions,
    differences,
    mean_over_seeds,
    over_images,
)


def images(rng, count=60, prefix="", mean=0.7):
    return {f"{prefix}{i}": value for i, value in enumerate(rng.normal(mean, 0.1, count))}


def test_the_interval_of_one_run_is_scipy_s():
    values = images(np.random.default_rng(0))
    low, high = over_images({"arm": {(1, 41): values}})["arm"]
    expected = stats.bootstrap(
        (list(values.values()),), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_an_image_of_several_runs_is_drawn_as_a_whole():
    """The same images in three divisions and two seeds say no more than once; other images do."""
    rng = np.random.default_rng(2)
    values = images(rng)
    widths = [
        np.ptp(over_images({"": runs})[""])
        for runs in (
            {(1, 41): values},
            {(division, seed): values for division in (1, 2, 3) for seed in (41, 42)},
            {(division, 41): images(rng, prefix=f"{division} ") for division in (1, 2, 3)},
        )
    ]
    assert widths[1] == pytest.approx(widths[0]) and widths[2] == pytest.approx(widths[0] / math.sqrt(3), rel=0.2)


def test_the_mean_weighs_divisions_alike():
    runs = {(1, 41): {"a": 0.0, "b": 0.0}, (1, 42): {"a": 0.0, "b": 0.0}, (2, 41): {"c": 1.0, "d": 1.0, "e": math.nan}}
    low, high = over_images({"": runs})[""]
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.1)
    assert over_images({"": {}}) == {"": None}
    assert over_images({"": {(1, 41): {"a": math.nan, "b": math.nan}}}) == {"": None}
    assert over_images({"": {(1, 41): {"a": 1.0}, (2, 41): {"a": 2.0}}}) == {"": None}


def test_the_level_of_a_division_is_not_drawn():
    """Each division's mean weighs the same in every sample, however many of its images are drawn."""
    rng = np.random.default_rng(3)
    apart = {(d, 41): images(rng, count, f"{d} ", level) for d, count, level in ((1, 20, 0.2), (2, 80, 0.8))}
    of_divisions = [np.var([*values.values()], ddof=1) / len(values) for values in apart.values()]
    expected = 2 * 1.96 * math.sqrt(sum(of_divisions)) / 2
    assert np.ptp(over_images({"": apart})[""]) == pytest.approx(expected, rel=0.1)


def test_differences_are_of_shared_runs_and_images_that_both_define():
    first = {(1, 41): {"a": 0.5, "b": 0.6, "c": math.nan}, (1, 42): {"a": 0.5}}
    other = {(1, 41): {"a": 0.7, "b": 0.5, "c": 0.4, "d": 1.0}, (2, 41): {"a": 0.9}}
    assert differences(first, other) == {(1, 41): {"a": pytest.approx(0.2), "b": pytest.approx(-0.1)}}


def test_deviation_is_pooled_over_divisions_without_their_levels():
    values = {(1, 41): {"a": 0.1, "b": 0.3}, (1, 42): {"a": 0.3, "b": 0.5}, (2, 41): {"c": 5.0, "d": 5.2, "e": 5.4}}
    assert mean_over_seeds(values, 1) == pytest.approx({"a": 0.2, "b": 0.4})
    assert deviation_within_divisions(values) == pytest.approx(math.sqrt((0.02 + 0.08) / 3))
    assert deviation_within_divisions({(1, 41): {"a": 1.0}}) is None and deviation_within_divisions({}) is None
