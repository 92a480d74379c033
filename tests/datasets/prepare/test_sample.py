from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.lists import read_list
from datasets.prepare import sample
from utils.common.errors import UserError


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """One set of 40 cases of each look."""
    root = tmp_path_factory.mktemp("sets")
    for look in sample.LOOKS:
        sample.make_sample(root / look, look, count=40)
    return root


def masks_of(folder: Path) -> list[np.ndarray]:
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / "masks").iterdir())]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("look", "prefix"), [("ultrasound", "us"), ("infrared", "ir")])
def test_layout_and_lists(sets, look, prefix):
    folder, names = sets / look, [f"{prefix}{i:04d}" for i in range(1, 41)]
    assert sorted(path.name for path in folder.iterdir()) == ["images", "masks", "train.txt", "val.txt"]
    for sub in ("images", "masks"):
        assert sorted(path.name for path in (folder / sub).iterdir()) == [f"{name}.png" for name in names]
        for path in (folder / sub).iterdir():
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert picture.shape[:2] == (128, 128)
            assert picture.dtype == np.uint8
    train, val = read_list(folder / "train.txt"), read_list(folder / "val.txt")
    assert (len(train), len(val)) == (28, 12)
    assert sorted(train + val) == names
    assert val != names[:12]
    assert val != names[-12:]
    assert sorted(path.name for path in sets.iterdir()) == sorted(sample.LOOKS)  # no temporary folder is left


def test_ultrasound_masks(sets):
    for mask in masks_of(sets / "ultrasound"):
        assert set(np.unique(mask)) == {0, 255}
        assert 0.015 <= (mask > 0).mean() <= 0.20
        assert cv2.connectedComponents(mask)[0] == 2  # one lesion
        assert not np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()


@pytest.mark.parametrize("size", [32, 50, 128])
def test_infrared_targets_are_small_few_and_visible(size):
    for index in range(30):
        image, mask = sample.infrared_image(np.random.default_rng([5, index]), size)
        assert set(np.unique(mask)) == {0, 1}
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        assert 1 <= count - 1 <= 3
        assert all(2 <= area <= 30 for area in stats[1:, cv2.CC_STAT_AREA])
        others = cv2.dilate(mask, np.ones((7, 7), np.uint8)) > 0
        for label in range(1, count):
            target = (labels == label).astype(np.uint8)
            around = image[(cv2.dilate(target, np.ones((13, 13), np.uint8)) > 0) & ~others].astype(float)
            assert image[target > 0].max() - around.mean() > 2 * around.std()  # as measured here, with a hot pixel near


@pytest.mark.parametrize("size", [32, 75])
def test_other_sizes_keep_the_ultrasound_share(size):
    for index in range(30):
        image, mask = sample.ultrasound_image(np.random.default_rng([6, index]), size)
        assert image.shape == mask.shape == (size, size)
        assert image.dtype == mask.dtype == np.uint8
        assert 0.012 <= mask.mean() <= 0.20  # 32 pixels a side count an outline coarsely


@pytest.mark.parametrize("look", sample.LOOKS)
def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, look):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        sample.make_sample(tmp_path / name, look, count=5, size=48, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[path] != c[path] for path in a if path.endswith(".png"))


def test_a_case_does_not_depend_on_the_count(tmp_path):
    sample.make_sample(tmp_path / "few", count=4, size=48)
    sample.make_sample(tmp_path / "many", count=9, size=48)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert all(many[path] == data for path, data in few.items() if path.endswith(".png"))


def test_refuses_to_overwrite(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    with pytest.raises(UserError, match=r"mine already exists.*another folder"):
        sample.make_sample(tmp_path / "mine", count=4, size=32)
    assert contents(tmp_path) == {str(Path("mine", "note.txt")): b"keep"}


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(path, names):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "write_list", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample.make_sample(tmp_path / "set", count=4, size=32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"look": "radar"}, "ultrasound, infrared"),
        ({"count": 3}, "count >= 4"),
        ({"size": 31}, "size >= 32"),
        ({"seed": -1}, "seed >= 0"),
        ({"val_share": 0.0}, "val_share"),
        ({"val_share": 1.0}, "val_share"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        sample.make_sample(tmp_path / "set", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_parent_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        sample.make_sample(tmp_path / "file" / "set", count=4, size=32)


@pytest.mark.parametrize("smooth", [False, True])
def test_a_threshold_does_not_solve_the_ultrasound_set(sets, smooth):
    """Otsu's threshold, either polarity, and the largest dark region: were they enough, no network would be needed."""
    scores = []
    for path in sorted((sets / "ultrasound" / "images").iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        lesion = cv2.imread(str(path.parent.parent / "masks" / path.name), cv2.IMREAD_GRAYSCALE) > 0
        image = cv2.GaussianBlur(image, (0, 0), 2) if smooth else image
        dark = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)[1] > 0
        _, labels, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8))
        largest = labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
        scores.append([(guess & lesion).sum() / (guess | lesion).sum() for guess in (dark, ~dark, largest)])
    assert np.mean(scores, axis=0).max() < 0.5


def test_lesions_are_darker_than_what_surrounds_them(sets):
    """Every lesion can be seen: hard to threshold must not mean hidden."""
    for mask_path in sorted((sets / "ultrasound" / "masks").iterdir()):
        image = cv2.imread(str(mask_path.parent.parent / "images" / mask_path.name), cv2.IMREAD_GRAYSCALE)
        lesion = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)
        ring = cv2.dilate(lesion, np.ones((13, 13), np.uint8)) > lesion
        assert image[ring].mean() - image[lesion > 0].mean() > 0.5 * image[ring].std()
