"""Masks that are aligned with their images, at the network's size and back at the image's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from datasets.resizing import mask_shift, resize_image, resize_mask, restore
from datasets.transforms import Transform

SIZES = [(64, 64), (128, 128), (100, 150), (131, 97), (57, 200), (40, 30), (32, 300)]


def disc(height, width, radius=0.21):
    """A mask with a round target, a little off the middle; its radius is that share of each side."""
    y, x = 0.45 * height + 0.3, 0.55 * width - 0.4
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (np.hypot((rows - y) / height, (columns - x) / width) < radius).astype(np.uint8)


def centroid(mask):
    return np.array([index.mean() + 0.5 for index in np.nonzero(mask)])


@pytest.mark.parametrize("new", [16, 64, 128, 255])
@pytest.mark.parametrize("old", [7, 32, 50, 97, 128, 256, 300, 501])
def test_the_shift_is_that_of_opencvs_nearest_grid(old, new):
    read = cv2.resize(np.arange(old, dtype=np.float32)[None], (new, 1), interpolation=cv2.INTER_NEAREST)[0]
    beside = np.mean((np.arange(new) + 0.5) - (read + 0.5) * new / old)
    assert mask_shift((old, old), (new, new), "nearest") == pytest.approx((beside, beside), abs=2e-3)
    assert mask_shift((old, old), (new, new), "exact") == (0, 0)


@pytest.mark.parametrize("size", SIZES)
def test_an_exact_mask_lies_on_its_image_and_a_nearest_one_beside_it(size):
    mask = disc(*size)
    scale = np.array(size) / 64
    offsets = {how: centroid(resize_mask(mask, (64, 64), how)) - centroid(mask) / scale for how in ("exact", "nearest")}
    assert np.abs(offsets["exact"]).max() < 0.15
    np.testing.assert_allclose(offsets["nearest"], mask_shift(size, (64, 64), "nearest"), atol=0.2)


def test_an_exact_pixel_is_target_if_more_than_half_of_it_is():
    mask = np.zeros((8, 8), np.uint8)
    mask[0:2, 0:2] = 1  # a whole pixel of 4 x 4
    mask[3, 4:6] = mask[2, 4] = 1  # three quarters
    mask[0:2, 4] = 1  # half of one, beside them
    mask[4:6, 1] = mask[4:6, 0] = mask[6, 0] = 1  # one whole, a quarter of the next
    np.testing.assert_array_equal(np.argwhere(resize_mask(mask, (4, 4), "exact")), [[0, 0], [1, 2], [2, 0]])


@pytest.mark.parametrize("size", [(100, 100), (100, 101), (100, 250), (100, 50)])
def test_an_exact_side_shrinks_by_area_whether_or_not_the_other_grows(size):
    mask = np.ones((400, 100), np.uint8)
    mask[2::4] = 0
    assert resize_mask(mask, size, "exact").all() and resize_mask(mask.T, size[::-1], "exact").all()


@pytest.mark.parametrize("side", [256, 300, 384, 512, 700, 1024])
def test_exact_keeps_every_target_of_four_pixels(side):
    """In its place; at 512 pixels, averages alone lose three of four, and at 1024 nearest does, too."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        y, x = rng.integers(0, side - 2, 2)
        mask = np.zeros((side, side), np.uint8)
        mask[y : y + 2, x : x + 2] = 1
        (place,) = np.argwhere(resize_mask(mask, (256, 256), "exact"))[:1]
        assert np.abs((place + 0.5) * side / 256 - (y + 1, x + 1)).max() <= 0.5 * side / 256 + 0.5


def test_a_small_target_beside_a_large_one_is_kept():
    mask = np.zeros((200, 200), np.uint8)
    mask[100:180, 100:180] = mask[10, 10] = mask[95, 95] = 1
    resized = resize_mask(mask, (50, 50), "exact")
    assert cv2.connectedComponents(resized, connectivity=8)[0] - 1 >= 2
    assert resized[2, 2] == 1 and resized[23, 23] == 1 and resized[25:45, 25:45].all() and resized.sum() == 402


@pytest.mark.parametrize("size", SIZES)
def test_without_a_shift_the_way_back_is_plain_bilinear(size):
    logits = torch.randn(2, 1, 64, 64)
    expected = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(restore(logits, size), expected)
    torch.testing.assert_close(restore(logits, size, (1e-9, 1e-9)), expected, atol=1e-4, rtol=0)  # the other branch


def smooth_disc(height, width):
    """The disc as a picture with soft edges, (H, W, 3) float32 in 0..255, and its mask."""
    mask = disc(height, width)
    soft = cv2.GaussianBlur(mask * np.float32(255), (0, 0), 2, borderType=cv2.BORDER_REPLICATE)
    return np.repeat(soft[..., None], 3, axis=2), mask


@pytest.mark.parametrize("interpolation", ["exact", "nearest"])
@pytest.mark.parametrize("size", SIZES)
def test_a_copied_disc_comes_back_to_its_place(size, interpolation):
    """What a network predicts that copies the disc, beside its place as far as the masks of its training lay."""
    picture, mask = smooth_disc(*size)
    copied = resize_image(picture, (64, 64))[..., 0] / 255 - 0.5
    shift = mask_shift(size, (64, 64), interpolation)
    learned = torch.from_numpy(ndimage.shift(copied, shift, order=3, mode="nearest"))[None, None]
    found = restore(learned, size, shift)[0, 0].numpy() > 0
    assert np.abs(centroid(found) - centroid(mask)).max() < 0.1


@pytest.mark.parametrize("interpolation", ["exact", "nearest"])
@pytest.mark.parametrize("size", [(128, 128), (100, 150), (131, 97)])
def test_a_trained_network_finds_the_target_in_its_place(size, interpolation):
    """One convolution, trained as the scripts train: rotated and flipped, then resized. It learns the shift."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 1, 5, padding=2)
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    picture, mask = smooth_disc(*size)
    transform = Transform(64, augment=True, mask_interpolation=interpolation)
    for step in range(150):
        pairs = [transform(picture, mask, 4 * step + i) for i in range(4)]
        images, masks = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(images), masks).backward()
        optimizer.step()
    with torch.no_grad():
        logits = network(Transform(64)(picture)[0][None])
    shift = mask_shift(size, (64, 64), interpolation)
    off = np.abs(centroid(restore(logits, size, shift)[0, 0].numpy() > 0) - centroid(mask))
    assert (off < 0.1 * np.maximum(1, np.array(size) / 64)).all()
    if interpolation == "nearest":
        off = np.abs(centroid(restore(logits, size)[0, 0].numpy() > 0) - centroid(mask))
        assert (off > 0.3).all(), "without the correction it is shifted"
