from __future__ import annotations

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from datasets.transforms import Transform


def picture(height=12, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shapes_types_and_resize():
    image, mask = picture(40, 23), np.zeros((40, 23), np.uint8)
    mask[:20] = 1
    image_tensor, mask_tensor = Transform(16)(image, mask)
    assert image_tensor.shape == (3, 16, 16) and image_tensor.dtype == torch.float32
    assert mask_tensor.shape == (1, 16, 16) and set(mask_tensor.unique().tolist()) == {0.0, 1.0}
    resized = cv2.resize(image, (16, 16), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(Transform(None).picture(image_tensor), resized)
    np.testing.assert_array_equal(mask_tensor[0, :, 0].numpy(), np.arange(16) < 8)
    _, mask_tensor = Transform(16, mask_interpolation="nearest")(image, mask)
    nearest = cv2.resize(mask, (16, 16), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(mask_tensor[0].numpy(), nearest)


def test_the_authors_normalization_divides_once_more():
    ours, _ = Transform(12, "imagenet")(picture())
    theirs, _ = Transform(12, "authors")(picture())
    torch.testing.assert_close(theirs * 255, ours)
    np.testing.assert_array_equal(Transform(None, "authors").picture(theirs), picture())


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
        out = Transform(None).picture(image_tensor)
        seen.append(symmetry(image, out))
        np.testing.assert_array_equal(mask_tensor[0].numpy(), out[..., 0] > 127)
    counts = {one: seen.count(one) / len(seen) for one in set(seen)}
    assert len(counts) == 8
    # Untouched: no rotation (1/2, or a rotation by 0, 1/8) and no flip (1/2); or both axes flipped and turned back.
    assert counts[0, False] == pytest.approx(5 / 8 * 1 / 2 + 1 / 8 * 1 / 6, abs=0.07)
    assert sum(share for (_, flipped), share in counts.items() if flipped) == pytest.approx(1 / 3, abs=0.07)


def released(image, mask, turns, flips, size):
    """The released pipeline, out of albumentations' own parts: rotate, flip, then resize; image and mask."""
    flip = {"": [], "h": [A.HorizontalFlip(p=1)], "v": [A.VerticalFlip(p=1)]}
    flip["hv"] = flip["h"] + flip["v"]
    resize = A.Resize(size, size, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST)
    turned = {
        "image": np.rot90(image, turns).copy(),
        "mask": np.rot90(mask, turns).copy(),
    }  # RandomRotate90 is np.rot90
    out = A.Compose([*flip[flips], resize])(**turned)
    return out["image"], out["mask"]


@pytest.mark.parametrize("shape", [(37, 53), (53, 37), (41, 41), (64, 30), (24, 24)])
def test_the_released_order_pixel_by_pixel(shape):
    """Rotated and flipped at the image's own size, resized then: image and mask alike, by the same decisions."""
    image = picture(*shape)
    mask = (cv2.GaussianBlur(image[..., 0], (5, 5), 2) > 127).astype(np.uint8)
    transform = Transform(24, augment=True, mask_interpolation="nearest")
    ways = {(k, flips): released(image, mask, k, flips, 24) for k in range(4) for flips in ("", "h", "v", "hv")}
    seen = set()
    for seed in range(100):
        image_tensor, mask_tensor = transform(image, mask, seed)
        out = Transform(None).picture(image_tensor), mask_tensor[0].numpy()
        fitting = {way for way, pair in ways.items() if all(map(np.array_equal, out, pair))}
        assert fitting, f"seed {seed}: none of the released pipeline's results"
        seen |= fitting
    assert seen == set(ways)


def test_the_order_of_earlier_runs_pixel_by_pixel():
    """Resized first, and by the decisions that the same seed led to then: such a run resumes as if nothing had been."""
    image = picture(37, 53)
    mask = (image[..., 0] > 127).astype(np.uint8)
    both = A.Sequential([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], p=1)
    steps = [
        A.Resize(24, 24, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST),
        A.RandomRotate90(p=0.5),
        A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1), both], p=0.5),
    ]
    earlier = A.Compose(steps)
    transform = Transform(24, augment=True, mask_interpolation="nearest", augment_order="after_resize")
    for seed in range(50):
        for step, number in zip(earlier.transforms, np.random.SeedSequence(seed).generate_state(3), strict=True):
            step.set_random_seed(int(number))
        expected = earlier(image=image, mask=mask)
        image_tensor, mask_tensor = transform(image, mask, seed)
        np.testing.assert_array_equal(Transform(None).picture(image_tensor), expected["image"])
        np.testing.assert_array_equal(mask_tensor[0].numpy(), expected["mask"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_interpolation": "cubic"}, "exact, nearest"),
        ({"augment_order": "never"}, "before_resize, after_resize"),
        ({"crop": 8}, "crop excludes size"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Transform(8, **options)


def test_the_seed_fixes_the_augmentation():
    transform = Transform(12, augment=True)
    first = [transform(picture(), None, seed)[0] for seed in range(20)]
    again = [transform(picture(), None, seed)[0] for seed in reversed(range(20))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(first[0], other) for other in first)


def test_evaluation_does_not_augment():
    transform = Transform(12)
    assert all(torch.equal(transform(picture(), None, seed)[0], transform(picture())[0]) for seed in range(20))


def coded(height, width):
    """A picture whose every pixel tells its place: red the row, green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=2).astype(np.uint8)


def places(tensor):
    """(rows, columns) that a crop of a coded picture shows."""
    out = Transform(None).picture(tensor).astype(int)
    return out[..., 0], out[..., 1]


def test_crops_are_windows_of_the_image_and_its_mask():
    image = coded(60, 90)
    mask = (np.random.default_rng(0).random((60, 90)) < 0.1).astype(np.uint8)
    transform = Transform(None, augment=True, crop=16)
    seen = np.zeros((60, 90), bool)
    for seed in range(300):
        image_tensor, mask_tensor = transform(image, mask, seed)
        assert image_tensor.shape == (3, 16, 16) and mask_tensor.shape == (1, 16, 16)
        rows, columns = places(image_tensor)
        assert np.ptp(rows) == np.ptp(columns) == 15 and len(set(zip(rows.flat, columns.flat, strict=True))) == 256
        np.testing.assert_array_equal(mask_tensor[0].numpy(), mask[rows, columns])
        seen[rows, columns] = True
    assert seen.mean() > 0.97


def test_half_of_the_crops_hold_a_target():
    mask = np.zeros((100, 120), np.uint8)
    mask[70, 20] = 1
    transform = Transform(None, augment=True, crop=10)
    held = [transform(coded(100, 120), mask, seed)[1].sum().item() for seed in range(400)]
    assert np.mean(held) == pytest.approx(0.5, abs=0.08) and set(held) == {0, 1}
    spots = {
        tuple(np.argwhere(one)[0])
        for seed in range(400)
        if (one := transform(mask[..., None].repeat(3, 2), mask, seed)[1][0].numpy()).any()
    }
    assert len(spots) > 40  # anywhere in the crop, not in its middle


@pytest.mark.parametrize("shape", [(10, 30), (30, 10), (9, 11)])
def test_an_image_smaller_than_the_crop_is_filled_up(shape):
    """Its edge is repeated, and no target is made of it."""
    image, mask = coded(*shape), np.ones(shape, np.uint8)
    transform = Transform(None, crop=16)
    for seed in range(20):
        image_tensor, mask_tensor = transform(image, mask, seed)
        rows, columns = places(image_tensor)
        inside = min(shape[0], 16) * min(shape[1], 16)
        assert mask_tensor.sum() == inside
        filled = mask_tensor[0].numpy() == 0
        assert ((rows == shape[0] - 1) | (columns == shape[1] - 1))[filled].all()
        assert len(set(zip(rows.flat, columns.flat, strict=True))) == inside


def test_crops_without_a_mask_lie_anywhere_and_are_fixed_by_the_seed():
    transform, image = Transform(None, crop=16), coded(60, 90)
    first = [transform(image, None, seed)[0] for seed in range(60)]
    again = [transform(image, None, seed)[0] for seed in reversed(range(60))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    corners = {(places(one)[0].min(), places(one)[1].min()) for one in first}
    assert len(corners) > 50 and transform(image, None, 0)[1] is None


def test_the_size_may_be_kept():
    image, mask = coded(13, 21), np.eye(13, 21, dtype=np.uint8)
    image_tensor, mask_tensor = Transform(None)(image, mask)
    np.testing.assert_array_equal(Transform(None).picture(image_tensor), image)
    np.testing.assert_array_equal(mask_tensor[0].numpy(), mask)
    small, kept = Transform(8, mask_interpolation=None)(image, mask)
    assert torch.equal(small, Transform(8)(image)[0])
    np.testing.assert_array_equal(kept[0].numpy(), mask)
    with pytest.raises(ValueError, match="require a mask_interpolation"):
        Transform(8, augment=True, mask_interpolation=None)
