import unicodedata

import pytest

from datasets.load import load_lists
from datasets.pairing import LAYOUT, Case, find_cases, pair_folders
from utils.common.errors import UserError

NFC, NFD = "caf\u00e9", "cafe\u0301"  # one text in the forms of Linux and of macOS


def make(base, images=(), masks=()):
    """Empty files: pairing looks at names only."""
    for folder, names in (("images", images), ("masks", masks)):
        (base / folder).mkdir(exist_ok=True)
        for name in names:
            path = base / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return base


def masks_of(base, entry, **options):
    cases, problems = find_cases(base, [entry], **options)
    assert problems == []
    return [mask.relative_to(base / "masks").as_posix() for mask in cases[0].masks]


def problem_of(base, entry, **options):
    cases, problems = find_cases(base, [entry], **options)
    assert cases == []
    assert len(problems) == 1
    assert f'"{entry}"' in problems[0]
    return problems[0]


def test_case_has_name_image_and_masks(tmp_path):
    make(tmp_path, ["sub/a b.png"], ["sub/a b.bmp"])
    cases, problems = find_cases(tmp_path, ["sub/a b"])
    assert cases == [Case("sub/a b", tmp_path / "images/sub/a b.png", (tmp_path / "masks/sub/a b.bmp",))]
    assert problems == []


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("a.png", "a"),
        ("a.png", "a.png"),
        ("a.png", "a.jpg"),
        ("a.png", "./a.png"),
        ("a.JPG", "a"),
        ("a.JPG", "a.JPG"),
        ("a.jpeg", "a"),
        ("a.TiF", "a"),
        ("a.tiff", "a"),
        ("a.bmp", "a"),
        ("patient.01.png", "patient.01"),
        ("patient.01.png", "patient.01.png"),
        ("benign (4).png", "benign (4)"),
        ("s/t/a.png", "s/t/a"),
        ("s/t/a.png", "s/t/a.png"),
        ("s/t/a.png", "s\\t\\a.png"),
        ("s/t/a.png", "s\\t\\a"),
        ("s/t/a.png", "images/s/t/a.png"),
        ("s/t/a.png", "./images/s/t/a"),
        ("s/t/a.png", "images\\s\\t\\a.png"),
        ("images/a.png", "images/a.png"),
        ("a\\b.png", "a\\b"),
        (f"{NFC}.png", NFD),
        (f"{NFD}.png", NFC),
        (f"{NFD}/a.png", f"{NFC}/a.png"),
        (f"{NFD}/{NFC}.png", f"images\\{NFC}\\{NFD}"),
        ("각.png", "\u1100\u1161\u11a8"),
        ("a.tif.png", "a.tif"),
        ("a.tif.png", "images/a.tif"),
        ("a.tif.png", "a.tif.png"),
        (f"{NFD}.tif.png", f"{NFC}.tif"),
    ],
)
def test_entry_finds_its_image(tmp_path, file, entry):
    make(tmp_path, [file])
    cases, problems = find_cases(tmp_path, [entry], need_masks=False)
    assert [case.image for case in cases] == [tmp_path / "images" / file]
    assert problems == []


@pytest.mark.parametrize("entry", ["b", "A", "patient", "a.gif", "sub", "a/a", "."])
def test_entry_without_image(tmp_path, entry):
    make(tmp_path, ["a.png", "patient.01.png", "sub/b.png", "a.gif.txt"])
    assert "image not found" in problem_of(tmp_path, entry, need_masks=False)


def test_same_stem_twice_needs_the_extension(tmp_path):
    make(tmp_path, ["a.png", "a.jpg"])
    for entry in ("a", "a.bmp"):
        problem = problem_of(tmp_path, entry, need_masks=False)
        assert "ambiguous" in problem and "a.png" in problem and "a.jpg" in problem
    cases, problems = find_cases(tmp_path, ["a.jpg"], need_masks=False)
    assert (cases[0].image.name, problems) == ("a.jpg", [])


def test_a_name_that_is_a_file_and_the_stem_of_another_is_ambiguous(tmp_path):
    make(tmp_path, ["a.png", "a.png.png"])
    problem = problem_of(tmp_path, "a.png", need_masks=False)
    assert "ambiguous, a.png, a.png.png" in problem
    cases, problems = find_cases(tmp_path, ["a", "a.png.png"], need_masks=False)
    assert [case.image.name for case in cases] == ["a.png", "a.png.png"] and problems == []


@pytest.mark.parametrize("entry", ["../secret", "sub/../../secret.png", "/etc/a.png", "C:\\a.png"])
def test_entry_that_leaves_the_folder(tmp_path, entry):
    make(tmp_path, ["a.png"])
    (tmp_path / "secret.png").touch()
    assert "must be below" in problem_of(tmp_path, entry, need_masks=False)


def test_links_may_not_lead_out(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    make(base, ["a.png"], ["a.png"])
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.png").touch()
    (base / "raw").mkdir()
    (base / "raw" / "d.png").touch()
    (base / "images/b.png").symlink_to(outside / "b.png")
    (base / "images/sub").symlink_to(outside)
    (base / "images/d.png").symlink_to(base / "raw/d.png")
    (base / "images/loop.png").symlink_to(base / "images/loop.png")
    for entry in ("b", "sub/b"):
        assert "outside the data folder" in problem_of(base, entry, need_masks=False)
    cases, problems = find_cases(base, ["a", "d", "loop"], need_masks=False)
    assert ([case.name for case in cases], problems) == (["a", "d", "loop"], [])

    (base / "masks/a.png").unlink()
    (base / "masks/a.png").symlink_to(outside / "b.png")
    assert "outside the data folder" in problem_of(base, "a")


def test_folders_themselves_may_be_links(tmp_path):
    make(tmp_path, ["a.png"], ["a.png"])
    base = tmp_path / "base"
    base.mkdir()
    for folder in ("images", "masks"):
        (base / folder).symlink_to(tmp_path / folder)
    assert masks_of(base, "a") == ["a.png"]


@pytest.mark.parametrize("entries", [["a", "a"], ["a", "a.png"], ["a.png", "b", "./a.png"], ["a.png", "a.jpg"]])
def test_case_listed_twice(tmp_path, entries):
    make(tmp_path, ["a.png", "b.png"])
    cases, problems = find_cases(tmp_path, entries, need_masks=False)
    assert len(cases) == len(entries) - 1
    assert len(problems) == 1 and "listed twice" in problems[0] and f'"{entries[-1]}"' in problems[0]


def test_two_files_of_one_stem_are_one_case(tmp_path):
    make(tmp_path, ["a.png", "a.jpg"])
    cases, problems = find_cases(tmp_path, ["a.png", "a.jpg"], need_masks=False)
    assert len(cases) == 1 and "same stem" in problems[0]


@pytest.mark.parametrize(
    ("image", "masks"),
    [
        ("a.png", ["a.png"]),
        ("a.jpg", ["a.bmp"]),
        ("a.png", ["a_mask.png"]),
        ("a.png", ["a_mask.png", "a_mask_1.png", "a_mask_12.png"]),
        ("a.png", ["a_mask_1.png", "a_mask_2.png"]),
        ("a.png", ["a_Mask.PNG"]),
        ("a.png", ["a_pixels0.png"]),
        ("a.jpg", ["a_Segmentation.png"]),
        ("patient.01.png", ["patient.01_mask.png"]),
        ("s/a.png", ["s/a_mask.png"]),
        ("a_mask.png", ["a_mask_mask_1.png"]),
        ("a (b+).png", ["a (b+)_mask_1.png"]),
    ],
)
def test_masks_by_rule(tmp_path, image, masks):
    others = ["ab.png", "b.png", "b_mask.png", "t/a.png", "a_gt.png", "a_1.png", "xa_mask.png", "a_pixels01.png"]
    make(tmp_path, [image], masks + others)
    assert masks_of(tmp_path, image) == masks


@pytest.mark.parametrize(
    ("suffix", "masks"),
    [
        ("_gt", ["a_gt.png"]),
        ("_gt", ["a_GT.png", "a_gt_1.png", "a_gt_2.png"]),
        ("", ["a.png"]),
        ("_mask", ["a_mask.png", "a_mask_1.png"]),
        (".x", ["a.x.png"]),
    ],
)
def test_mask_suffix_means_only_that(tmp_path, suffix, masks):
    others = {"a.png", "a_1.png", "a_pixels0.png", "a-x.png"} | ({"a_mask.png"} if suffix != "_mask" else set())
    make(tmp_path, ["a.png"], [*others, *masks])
    assert masks_of(tmp_path, "a", mask_suffix=suffix) == masks


@pytest.mark.parametrize("masks", [["a.png", "a_mask.png"], ["a_mask_1.png", "a_pixels0.png"]])
def test_masks_by_two_rules(tmp_path, masks):
    make(tmp_path, ["a.png"], masks)
    problem = problem_of(tmp_path, "a")
    assert all(mask in problem for mask in masks) and "choose {stem}" in problem
    assert "prepare_data.py folder: --mask_pattern; other scripts: --mask_suffix" in problem


def test_a_mask_belongs_to_one_case(tmp_path):
    """Masks that were copied into images/, too: each would be an image, and its own target."""
    make(tmp_path, ["a.png", "a_mask.png", "b.png"], ["a_mask.png", "b.png"])
    cases, problems = find_cases(tmp_path, ["a", "a_mask", "b"])
    assert [case.name for case in cases] == ["a", "b"] and len(problems) == 1
    assert f'"a_mask": mask {tmp_path}/masks/a_mask.png also belongs to "a"' in problems[0]
    cases, problems, _ = pair_folders(tmp_path)
    assert [case.name for case in cases] == ["a", "b"]
    assert len(problems) == 1 and problems[0].startswith('"a_mask.png": mask ') and 'belongs to "a"' in problems[0]
    for list_name, entry in (("train", "a"), ("val", "a_mask")):
        (tmp_path / f"{list_name}.txt").write_text(entry)
    with pytest.raises(
        UserError, match=r"a_mask\.png: a mask of two cases, one in the training list and one in the val"
    ):
        load_lists(tmp_path, {"training": "train.txt", "val": "val.txt"})


def test_masks_that_differ_in_extension_only(tmp_path):
    make(tmp_path, ["a.png"], ["a.png", "a.jpg"])
    problem = problem_of(tmp_path, "a")
    assert "ambiguous" in problem and "a.png" in problem and "a.jpg" in problem


@pytest.mark.parametrize(("image", "mask"), [(NFC, NFD), (NFD, NFC)])
@pytest.mark.parametrize("suffix", ["", "_mask", "_mask_2", "_segmentation"])
def test_an_accent_in_another_form_is_the_same_name(tmp_path, image, mask, suffix):
    make(tmp_path, [f"{image}.png"], [f"{mask}{suffix}.png"])
    for entry in (NFC, NFD):
        assert masks_of(tmp_path, entry) == [f"{mask}{suffix}.png"]
    cases, problems, orphans = pair_folders(tmp_path)
    assert len(cases) == 1 and not problems and not orphans


def test_one_name_in_both_forms_is_never_guessed(tmp_path):
    make(tmp_path, [f"{NFC}.png", f"{NFD}.png"], [f"{NFC}.png", f"{NFD}.png"])
    assert masks_of(tmp_path, NFC) == [f"{NFC}.png"] and masks_of(tmp_path, NFD) == [f"{NFD}.png"]
    third = unicodedata.normalize("NFC", "ṩ"), "s\u0323\u0307", "s\u0307\u0323"  # three ways to write one sign
    make(tmp_path, [f"{third[0]}.png"], [f"{third[1]}.png", f"{third[2]}.png"])
    assert "ambiguous" in problem_of(tmp_path, third[0])
    make(tmp_path, [f"{third[1]}.png"])
    assert "ambiguous" in problem_of(tmp_path, third[2])


def test_no_mask_lists_what_was_tried(tmp_path):
    make(tmp_path, ["s/a.png"], ["a.png", "t/a.png", "s/a.txt"])
    problem = problem_of(tmp_path, "s/a")
    assert "no mask" in problem and str(tmp_path / "masks" / "s") in problem
    assert all(name in problem for name in ("a,", "a_mask,", "a_mask_1", "a_pixels0", "a_segmentation"))
    problem = problem_of(tmp_path, "s/a", mask_suffix="_gt")
    assert "a_gt, a_gt_1" in problem and "pixels0" not in problem
    assert "a_1" not in problem_of(tmp_path, "s/a", mask_suffix="")


def test_problems_do_not_stop_the_search_and_order_is_kept(tmp_path):
    make(tmp_path, ["a.png", "b.png", "c.png"], ["a.png", "c.png"])
    cases, problems = find_cases(tmp_path, ["c", "none", "b", "a"])
    assert [case.name for case in cases] == ["c", "a"]
    assert len(problems) == 2


def test_missing_folder_shows_the_layout(tmp_path):
    for missing in ("images", "masks"):
        with pytest.raises(UserError) as caught:
            find_cases(tmp_path, ["a"])
        assert str(tmp_path / missing) in str(caught.value) and LAYOUT in str(caught.value)
        (tmp_path / missing).mkdir()


def test_masks_folder_is_not_needed_for_prediction(tmp_path):
    make(tmp_path, ["a.png"])
    (tmp_path / "masks").rmdir()
    cases, problems = find_cases(tmp_path, ["a"], need_masks=False)
    assert (cases, problems) == ([Case("a", tmp_path / "images/a.png", ())], [])
