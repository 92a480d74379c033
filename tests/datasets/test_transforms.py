from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from datasets.transforms import Transform, denormalize


def picture(height=12, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shapes_types_and_resize():
    image, mask = picture(40, 23), np.zeros((40, 23), np.uint8)
    mask[:20] = 1
    image_tensor, mask_tensor = Transform(16)(image, mask)
    assert image_tensor.shape == (3, 16, 16) and image_tensor.dtype == torch.float32
    assert mask_tensor.shape == (1, 16, 16) and set(mask_tensor.unique().tolist()) == {0.0, 1.0}
    resized = cv2.resize(image, (16, 16), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(denormalize(image_tensor, "imagenet"), resized)
    nearest = cv2.resize(mask, (16, 16), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(mask_tensor[0].numpy(), nearest)


def test_the_authors_normalization_divides_once_more():
    ours, _ = Transform(12, "imagenet")(picture())
    theirs, _ = Transform(12, "authors")(picture())
    torch.testing.assert_close(theirs * 255, ours)
    np.testing.assert_array_equal(denormalize(theirs, "authors"), picture())


def test_unknown_normalization():
    with pytest.raises(ValueError, match="imagenet, authors"):
        Transform(8, "unit")


def test_sixteen_bit_images_keep_their_precision():
    image = np.full((8, 8, 3), 100.25, np.float32)
    tensor, _ = Transform(8)(image)
    assert tensor[0, 0, 0].item() == pytest.approx((100.25 / 255 - 0.485) / 0.229, rel=1e-5)


def symmetry(image, out):
    """Which of the eight symmetries of the square made `out` of `image`: (quarter turns, flipped)."""
    for turns in range(4):
        for flipped in (False, True):
            candidate = np.rot90(image, turns)
            if np.array_equal(candidate[:, ::-1] if flipped else candidate, out):
                return turns, flipped
    raise AssertionError("not a symmetry of the input")


def test_augmentation_rotates_and_flips_image_and_mask_alike():
    image, transform = picture(), Transform(12, augment=True)
    mask = (image[..., 0] > 127).astype(np.uint8)
    seen = []
    for seed in range(400):
        image_tensor, mask_tensor = transform(image, mask, seed)
        out = denormalize(image_tensor, "imagenet")
        seen.append(symmetry(image, out))
        np.testing.assert_array_equal(mask_tensor[0].numpy(), out[..., 0] > 127)
    counts = {one: seen.count(one) / len(seen) for one in set(seen)}
    assert len(counts) == 8
    # Untouched: no rotation (1/2, or a rotation by 0, 1/8) and no flip (1/2); or both axes flipped and turned back.
    assert counts[0, False] == pytest.approx(5 / 8 * 1 / 2 + 1 / 8 * 1 / 6, abs=0.07)
    assert sum(share for (_, flipped), share in counts.items() if flipped) == pytest.approx(1 / 3, abs=0.07)


def test_the_seed_fixes_the_augmentation():
    transform = Transform(12, augment=True)
    first = [transform(picture(), None, seed)[0] for seed in range(20)]
    again = [transform(picture(), None, seed)[0] for seed in reversed(range(20))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(first[0], other) for other in first)


def test_evaluation_does_not_augment():
    transform = Transform(12)
    assert all(torch.equal(transform(picture(), None, seed)[0], transform(picture())[0]) for seed in range(20))
