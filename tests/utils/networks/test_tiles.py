from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from utils.networks.tiles import cut, strips


@pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (16, 8), (32, 8), (64, 16), (64, 32)])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 64, 65, 100, 333])
def test_tiles_cover_each_pixel_with_weights_that_add_up_to_one(length, tile, overlap):
    parts = strips(length, tile, overlap)
    total = np.zeros(length)
    for part in parts:
        assert part.start % 8 == 0 and len(part.weights) <= tile
        total[part.inside] += part.weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for part, following in pairwise(parts):
        assert part.start + tile - following.start >= overlap
        margin = part.weights[tile - overlap // 4 :], following.weights[: overlap // 4]
        assert not np.any(margin), "pixels whose surroundings the network has not seen count nothing"
    padded = -(-length // 8) * 8
    assert len(parts) == max(1, -(-(padded - overlap) // (tile - overlap))), "no more tiles than needed"


def test_the_weights_change_smoothly():
    for part in strips(200, 64, 32):
        assert np.abs(np.diff(part.weights)).max() < 0.11


@pytest.mark.parametrize("shape", [(45, 37), (45, 37, 3), (45, 10)])
def test_a_tile_over_the_edge_repeats_it(shape):
    pixels = np.arange(np.prod(shape)).reshape(shape)
    rows, columns = (strips(side, 16, 8) for side in shape[:2])
    tile = cut(pixels, rows[-1], columns[-1], 16)
    padded = np.pad(pixels, [(0, 3), (0, 3 if shape[1] > 16 else 0)] + [(0, 0)] * (len(shape) - 2), mode="edge")
    np.testing.assert_array_equal(tile, padded[-16:, -16:])
