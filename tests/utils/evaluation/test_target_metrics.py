"""Pd and Fa: what is one component, and what is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from utils.evaluation.target_metrics import components, count_targets, match

EIGHT = np.ones((3, 3))


def mask(*pixels, size=16):
    """A mask of those pixels, (row, column)."""
    array = np.zeros((size, size), bool)
    for pixel in pixels:
        array[pixel] = True
    return array


def random_masks(count, seed=0):
    """Empty, full, one pixel, and random ones of any density and shape, touching the edge."""
    rng = np.random.default_rng(seed)
    yield np.zeros((9, 5), bool)
    yield np.ones((9, 5), bool)
    yield mask((0, 15))
    for _ in range(count):
        yield rng.random(rng.integers(1, 30, 2)) < rng.choice([0.02, 0.1, 0.3, 0.5])


def test_components_are_scipys_and_in_scan_order():
    for array in random_masks(300):
        labels, count = ndimage.label(array, EIGHT)
        numbers = np.arange(1, count + 1)
        ours = components(array)
        np.testing.assert_array_equal(ours.areas, ndimage.sum_labels(array, labels, numbers))
        expected = np.array(ndimage.center_of_mass(array, labels, numbers)).reshape(count, 2)[:, ::-1]
        np.testing.assert_allclose(ours.centroids, expected, atol=1e-9)


def test_counts_are_those_of_a_plain_loop():
    """The protocol written out, with scipy's components, pixel by pixel."""
    rng = np.random.default_rng(1)
    found = 0
    for target in random_masks(300, seed=2):
        shift = rng.integers(-3, 4, 2)
        predicted = np.roll(target, shift, (0, 1)) ^ (rng.random(target.shape) < 0.03)
        of_target, targets = ndimage.label(target, EIGHT)
        of_predicted, predictions = ndimage.label(predicted, EIGHT)
        free, hits = list(range(1, predictions + 1)), 0
        for i in range(1, targets + 1):
            here = np.argwhere(of_target == i).mean(0)
            for j in free:
                if np.hypot(*(np.argwhere(of_predicted == j).mean(0) - here)) < 3:
                    free.remove(j)
                    hits += 1
                    break
        false_alarms = np.isin(of_predicted, free).sum()
        ours = count_targets(predicted, target)
        assert ours == {"targets": targets, "found": hits, "false_alarm_pixels": false_alarms}
        found += hits
    assert found > 300


def test_pixels_that_touch_at_a_corner_are_one_target():
    assert count_targets(mask(), mask((4, 4), (5, 5)))["targets"] == 1


@pytest.mark.parametrize(("distance", "found"), [(2, 1), (3, 0)])
def test_less_than_three_pixels(distance, found):
    assert count_targets(mask((8, 8 + distance)), mask((8, 8)))["found"] == found
    # In between two pixels, where the centroid is: 2.5 is near, 3.5 is not.
    wide = mask((8, 8 + distance), (8, 9 + distance))
    assert count_targets(wide, mask((8, 8)))["found"] == found


def test_of_two_predictions_near_one_target_the_first_is_taken():
    """Not the nearer one: the field's tools go by scan order, and Fa would differ."""
    first, second = [(6, 8)], [(8, 8), (8, 9)]
    ours = count_targets(mask(*first, *second), mask((8, 8), (9, 8)))
    assert ours == {"targets": 1, "found": 1, "false_alarm_pixels": len(second)}


def test_one_prediction_near_two_targets_finds_the_first():
    targets = components(mask((8, 6), (8, 10)))
    assert match(targets, components(mask((8, 8)))) == {0: 0}
    ours = count_targets(mask((8, 8)), mask((8, 6), (8, 10)))
    assert ours == {"targets": 2, "found": 1, "false_alarm_pixels": 0}


def test_false_alarms_are_counted_by_component_not_by_area():
    """A false component as large as a taken one is a false alarm all the same."""
    ours = count_targets(mask((2, 2), (12, 12)), mask((2, 2)))
    assert ours == {"targets": 1, "found": 1, "false_alarm_pixels": 1}


def test_a_large_prediction_off_its_target_is_all_false_alarm():
    """Its pixels overlap the target, its centroid is elsewhere."""
    predicted = np.zeros((16, 16), bool)
    predicted[8, 2:14] = True
    ours = count_targets(predicted, mask((8, 2)))
    assert ours == {"targets": 1, "found": 0, "false_alarm_pixels": 12}


def test_nothing_there():
    assert count_targets(mask(), mask()) == {"targets": 0, "found": 0, "false_alarm_pixels": 0}
    assert count_targets(mask((1, 1), (1, 2)), mask())["false_alarm_pixels"] == 2
