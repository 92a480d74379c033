from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from datasets.folder import EpochBatches, SegmentationFolder, make_loader
from datasets.load import load_lists
from datasets.transforms import Transform
from utils.common.errors import UserError


@pytest.fixture
def base(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(10):
        mask = np.zeros((16, 16), np.uint8)
        mask[i : i + 4] = 255
        cv2.imwrite(str(tmp_path / "images" / f"c{i}.png"), rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"c{i}.png"), mask)
    (tmp_path / "train.txt").write_text("".join(f"c{i}\n" for i in range(7)))
    (tmp_path / "val.txt").write_text("".join(f"c{i}\n" for i in range(7, 10)))
    return tmp_path


LISTS = {"training": "train.txt", "validation": "val.txt"}


def dataset(base, **options):
    return SegmentationFolder(load_lists(base, LISTS)["training"], Transform(16, augment=True), **options)


def test_samples(base):
    sample = dataset(base)[2]
    assert sample["name"] == "c2"
    assert sample["image"].shape == (3, 16, 16)
    assert sample["mask"].sum() == 4 * 16


def test_without_masks(base):
    cases = load_lists(base, LISTS, need_masks=False)["training"]
    assert set(SegmentationFolder(cases, Transform(16))[0]) == {"image", "name"}


def epochs(base, workers, count=2):
    loader = make_loader(dataset(base), 3, workers, shuffle_seed=5)
    drawn = []
    for epoch in range(count):
        loader.batch_sampler.start(epoch)
        drawn.append(
            [(name, image) for batch in loader for name, image in zip(batch["name"], batch["image"], strict=True)]
        )
    return drawn


def test_every_case_once_an_epoch_in_another_order(base):
    first, second = epochs(base, workers=0)
    assert sorted(name for name, _ in first) == sorted(name for name, _ in second) == [f"c{i}" for i in range(7)]
    assert [name for name, _ in first] != [name for name, _ in second]


@pytest.mark.parametrize("workers", [0, 2])
def test_decoded_images_that_are_kept_change_nothing(base, workers):
    plain, kept = dataset(base), dataset(base)
    one = 16 * 16 * 4  # bytes of an image and its mask
    assert kept.keep_decoded(3 * one + 10) == dataset(base).keep_decoded(3 * one) == 3 * one  # three of seven
    draws = [(i, seed) for seed in (1, 2) for i in range(7)]
    expected = [plain[draw] for draw in draws]
    for name in ("c0", "c1", "c2"):
        (base / "images" / f"{name}.png").unlink()
    loader = torch.utils.data.DataLoader(kept, batch_size=None, sampler=draws, num_workers=workers)
    for ours, theirs in zip(loader, expected, strict=True):
        assert ours["name"] == theirs["name"]
        assert torch.equal(ours["image"], theirs["image"]) and torch.equal(ours["mask"], theirs["mask"])


def test_the_number_of_workers_changes_nothing(base):
    for ours, theirs in zip(epochs(base, 0), epochs(base, 2), strict=True):
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


def test_order_and_augmentation_depend_on_seed_and_epoch_alone():
    batches = EpochBatches(50, 8, seed=3)
    batches.start(4)
    drawn = list(batches)
    assert drawn == list(batches)
    assert drawn != list(EpochBatches(50, 8, seed=3))
    other = EpochBatches(50, 8, seed=4)
    other.start(4)
    assert drawn != list(other)


def test_an_interrupted_epoch_draws_the_rest():
    batches = EpochBatches(50, 8, seed=3)
    batches.start(4)
    drawn = list(batches)
    batches.start(4, step=2)
    assert list(batches) == drawn[2:]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_batches_of_one(processes):
    whole = list(EpochBatches(50, 8, seed=3))
    shares = [list(EpochBatches(50, 8, seed=3, share=(rank, processes))) for rank in range(processes)]
    assert {len(share) for share in shares} == {7}
    for step, batch in enumerate(whole[:-1]):
        assert sorted(batch) == sorted(draw for share in shares for draw in share[step])
        assert EpochBatches(50, 8, seed=3, share=(0, processes)).size(step) == 8
    last = [draw for share in shares for draw in share[-1]]
    # Two cases are left: a process that has none of them gets one of the epoch's first.
    assert set(whole[-1]) <= set(last) and len(last) == max(2, processes) and all(share[-1] for share in shares)
    assert set(last) - set(whole[-1]) == set(whole[0][: processes - 2])


def test_more_processes_than_cases():
    shares = [list(EpochBatches(1, 4, seed=3, share=(rank, 4))) for rank in range(4)]
    assert all(share == shares[0] and len(share[0]) == 1 for share in shares)


@pytest.mark.parametrize("processes", [2, 3, 10])
def test_evaluation_loaders_share_the_list(base, processes):
    loaders = [make_loader(dataset(base), 2, 0, share=(rank, processes)) for rank in range(processes)]
    names = [[name for batch in loader for name in batch["name"]] for loader in loaders]
    assert [names[i % processes][i // processes] for i in range(7)] == [f"c{i}" for i in range(7)]
    assert sum(map(len, names)) == 7


def test_evaluation_loader_keeps_the_order(base):
    loader = make_loader(dataset(base), 4, 0)
    assert [name for batch in loader for name in batch["name"]] == [f"c{i}" for i in range(7)]


def test_masks_of_another_size(base):
    cv2.imwrite(str(base / "masks" / "c1.png"), np.full((32, 32), 255, np.uint8))
    with pytest.raises(UserError, match=r"c1\.png.*32x32.*16x16.*--fit_masks"):
        load_lists(base, LISTS)
    cases = load_lists(base, LISTS, fit_masks=True)["training"]
    sample = SegmentationFolder(cases, Transform(16), fit_masks="nearest")[1]
    assert sample["mask"].shape == (1, 16, 16) and sample["mask"].min() == 1


def test_the_shift_of_a_list_is_the_mean_of_its_masks(base):
    """16x16 images and one of 20x16, resized to 8: 0.25 for twice the size, else nearly 0.5; decoded already or not."""
    for folder in ("images", "masks"):
        cv2.imwrite(str(base / folder / "c2.png"), np.full((20, 16), 255, np.uint8))
    cases = load_lists(base, LISTS)["training"]
    nearest = SegmentationFolder(cases, Transform(8, mask_interpolation="nearest"))
    expected = (6 * 0.25 + 0.4) / 7, 0.25
    assert nearest.mask_shift() == pytest.approx(expected)
    nearest.keep_decoded(4 * 16 * 16 * 4)
    assert nearest.mask_shift() == pytest.approx(expected)
    assert SegmentationFolder(cases, Transform(8)).mask_shift() == (0, 0)
    earlier = Transform(8, mask_interpolation="nearest", augment_order="after_resize")
    assert SegmentationFolder(cases, earlier).mask_shift() == (0, 0)


def test_a_case_in_both_lists_is_named(base):
    (base / "val.txt").write_text("c6\nc8\n")
    with pytest.raises(UserError, match=r'"c6".*training list.*validation list'):
        load_lists(base, LISTS)


def test_problems_of_all_lists_are_reported_together(base):
    (base / "images" / "c0.png").unlink()
    (base / "masks" / "c8.png").write_bytes(b"not a picture")
    with pytest.raises(UserError) as caught:
        load_lists(base, LISTS)
    assert "2 problems" in str(caught.value) and "c0" in str(caught.value) and "c8.png" in str(caught.value)


def test_a_list_may_be_a_path_of_its_own(base, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists") / "mine.txt"
    elsewhere.write_text("c9.png\n")
    assert [case.name for case in load_lists(base, {"test": str(elsewhere)})["test"]] == ["c9"]


def test_a_missing_folder_shows_the_layout_and_the_sample(tmp_path):
    with pytest.raises(UserError, match=r"(?s)images/case0001\.png.*prepare_data\.py sample"):
        load_lists(tmp_path / "nowhere", LISTS)
