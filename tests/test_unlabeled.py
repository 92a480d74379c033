"""train_recon.py --unlabeled_dir: which images it adds, which it leaves out, and that a resumed run has the same."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

import train_recon
from datasets.load import load_lists
from datasets.prepare.sample import make_sample
from datasets.unlabeled import fingerprint, unlabeled_cases, unlabeled_files
from utils.common.errors import UserError
from utils.networks.checkpoints import load_checkpoint
from utils.settings.data_loaders import training_loaders
from utils.settings.provenance import list_hashes

SMALL = ["--img_size", "32", "--batch_size", "4", "--epochs", "1", "--workers", "0", "--variant", "srs_tiny"]


def picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8))
    return path


@pytest.fixture
def base(tmp_path):
    """Four cases for training and two for validation, and a folder of four images without masks."""
    make_sample(tmp_path / "set", count=6, size=32)
    for i, name in enumerate(("a.png", "b.jpg", "deep/a.png", "deep/c.tif")):
        picture(tmp_path / "more" / name, i)
    (tmp_path / "more" / "notes.txt").write_text("no image")
    return tmp_path / "set"


@pytest.fixture
def more(base):
    return base.parent / "more"


def cases(base, *folders, mask_suffix=None):
    lists = load_lists(base, {"training": "train.txt", "validation": "val.txt"}, need_masks=False)
    found, notes = unlabeled_cases(folders, lists["training"], lists["validation"], mask_suffix=mask_suffix)
    return lists, found, notes


def names(found, folder):
    return [case.image.relative_to(folder).as_posix() for case in found]


def test_all_images_below_the_folder_and_nothing_else(base, more):
    lists, found, notes = cases(base, more)
    assert names(found, more) == ["a.png", "b.jpg", "deep/a.png", "deep/c.tif"] and notes == []
    every = [case.name for case in (*lists["training"], *lists["validation"], *found)]
    assert len(set(every)) == 4 + 2 + 4


def test_names_never_collide_with_listed_ones(base, more):
    listed = (base / "train.txt").read_text().split()[0]
    picture(more / f"{listed}.png", 9)
    lists, found, _ = cases(base, more)
    assert not {case.name for case in lists["training"]} & {case.name for case in found}


def test_copies_of_listed_images_are_left_out_and_named(base, more):
    train, val = ((base / f"{part}.txt").read_text().split()[0] for part in ("train", "val"))
    shutil.copy(base / "images" / f"{train}.png", more / "x.png")
    pixels = cv2.imread(str(base / "images" / f"{val}.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(more / "other_format.bmp"), pixels)
    shutil.copy(more / "a.png", more / "twice.png")
    _, found, notes = cases(base, more)
    assert names(found, more) == ["a.png", "b.jpg", "deep/a.png", "deep/c.tif"]
    assert len(notes) == 3
    assert any("validation images" in note and "other_format.bmp" in note for note in notes)
    assert any("training images" in note and "x.png" in note for note in notes)
    assert any("other unlabeled images" in note and "twice.png" in note for note in notes)


def test_the_images_of_the_data_folder_add_those_in_no_list(base):
    picture(base / "images" / "unlisted.png", 5)
    _, found, _ = cases(base, base / "images")
    assert names(found, base / "images") == ["unlisted.png"]


def test_masks_are_no_images(base, more):
    for name in ("a_mask.png", "a_mask_1.png", "deep/c_pixels0.png", "set/images/i.png", "set/masks/i.png"):
        picture(more / name, len(name) + ord(name[4]))
    picture(more / "z_mask.png", 77)  # there is no z
    _, found, notes = cases(base, more)
    assert names(found, more) == ["a.png", "b.jpg", "deep/a.png", "deep/c.tif", "set/images/i.png", "z_mask.png"]
    assert notes == ["4 masks of images"]


@pytest.mark.parametrize(
    ("suffix", "mask"),
    [("_gt", "a_gt"), ("_gt", "a_GT_2"), ("{stem}-gt", "a-gt"), ("gt_{stem}", "gt_a"), ("", "a_mask")],
)
def test_masks_by_suffix_are_no_images(base, more, tmp_path, suffix, mask):
    before = fingerprint([more], suffix)
    for number, name in enumerate((f"{mask}.png", "deep/a_mask.png")):
        picture(more / name, 50 + number)
    _, found, notes = cases(base, more, mask_suffix=suffix)
    assert names(found, more) == ["a.png", "b.jpg", "deep/a.png", "deep/c.tif"]
    assert notes == ["2 masks of images"] and fingerprint([more], suffix) == before
    args = settings(base, tmp_path, "--unlabeled_dir", more, *(["--mask_suffix", suffix] if suffix else []))
    train, _ = training_loaders(args, False, 4, args.unlabeled_dir)
    assert len(train.dataset) == 4 + 4 and list_hashes(args)["unlabeled_dir"] == before


def test_a_folder_and_its_sub_folder_count_once(more):
    files, _ = unlabeled_files([more / "deep", more])
    assert [file.name for file in files] == ["a.png", "c.tif", "a.png", "b.jpg"]


def test_the_fingerprint_is_of_names_and_sizes_below_the_folder(more, tmp_path):
    before = fingerprint([more])
    shutil.copytree(more, tmp_path / "moved")
    assert fingerprint([tmp_path / "moved"]) == before
    picture(more / "d.png", 3)
    assert fingerprint([more]) != before
    (more / "d.png").unlink()
    assert fingerprint([str(more)]) == before
    (more / "a.png").write_bytes(b"other")
    assert fingerprint([more]) != before


def test_what_cannot_be_read_is_named_before_training(base, more):
    (more / "a.png").write_bytes(b"\x89PNG")
    (more / "deep" / "c.tif").write_bytes(b"")
    with pytest.raises(UserError, match="2 problems") as caught:
        cases(base, more)
    assert "a.png" in str(caught.value) and "c.tif" in str(caught.value)


def test_a_folder_that_is_missing_or_empty(base, tmp_path):
    with pytest.raises(UserError, match=r"--unlabeled_dir.*nowhere was not found"):
        cases(base, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--unlabeled_dir.*empty contains no images"):
        cases(base, base / "images", tmp_path / "empty")


def settings(base, out, *flags):
    argv = ["--base_dir", base, "--output_dir", out, *SMALL, *flags]
    return train_recon.parser().settings([str(word) for word in argv])


def test_they_are_trained_on_and_never_validated_on(base, more, tmp_path):
    args = settings(base, tmp_path, "--unlabeled_dir", more)
    train, val = training_loaders(args, False, 4, args.unlabeled_dir)
    drawn = [name for batch in train for name in batch["name"]]
    assert len(drawn) == len(set(drawn)) == 8 and sum(name.startswith("unlabeled: ") for name in drawn) == 4
    assert sorted(name for batch in val for name in batch["name"]) == sorted((base / "val.txt").read_text().split())


def test_a_run_resumes_with_the_same_images_only(base, more, tmp_path, capsys):
    out = tmp_path / "out"
    train_recon.main(settings(base, out, "--unlabeled_dir", more))
    assert "4 listed and 4 unlabeled training images" in capsys.readouterr().out
    recorded = load_checkpoint(out / "recon" / "last.pth", "recon")
    assert recorded["settings"]["unlabeled_dir"] == [str(more)]
    moved = more.rename(tmp_path / "moved")
    train_recon.main(settings(base, out, "--unlabeled_dir", moved, "--resume"))
    assert "1 of 1 epochs" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other lists.*unlabeled_dir"):
        train_recon.main(settings(base, out, "--resume"))
    picture(moved / "new.png", 8)
    with pytest.raises(UserError, match=r"other lists.*unlabeled_dir"):
        train_recon.main(settings(base, out, "--unlabeled_dir", moved, "--resume"))
