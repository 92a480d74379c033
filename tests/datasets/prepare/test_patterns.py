"""prepare_data.py folder on sets whose masks are named after a part of the image's name, or are in a folder a case.

The folders are made as DRIVE, CHASE_DB1, DSB2018 and a set of instance labels are; the pixels are ours.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from raw_sets import picture, target, write

import prepare_data
from datasets.decode import read_image, read_mask
from datasets.lists import read_list
from datasets.load import load_lists
from utils.common.errors import UserError


def run(*argv):
    prepare_data.main(prepare_data.parser().parse_args([str(word) for word in argv]))


def write_gif(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def mask_of(out, name):
    return read_mask([out / "masks" / f"{name}.png"]) * 255


@pytest.fixture
def drive(tmp_path):
    """DRIVE: TIFF images, GIF masks of another stem, GIF fields of view, two graders of the test images."""
    source = tmp_path / "DRIVE"
    for part, numbers, word in (("training", range(21, 25), "training"), ("test", range(1, 4), "test")):
        for i in numbers:
            (source / part / "images").mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(source / part / "images" / f"{i:02d}_{word}.tif", picture(i), photometric="rgb")
            write_gif(source / part / "1st_manual" / f"{i:02d}_manual1.gif", target(i % 20))
            write_gif(source / part / "mask" / f"{i:02d}_{word}_mask.gif", target(*range(20)))
            if part == "test":
                write_gif(source / part / "2nd_manual" / f"{i:02d}_manual2.gif", target(i % 20, 15))
    return source


def test_drive(drive, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--images", "images", "--masks", "1st_manual"]
    patterns = ["--image_pattern", r"(\d+)_training", "--mask_pattern", "{1}_manual1"]
    run("folder", drive / "training", out, *flags, *patterns)
    assert names(out / "images") == [f"{i}_training.tif" for i in range(21, 25)]
    for i in range(21, 25):
        np.testing.assert_array_equal(mask_of(out, f"{i}_training"), target(i % 20))
        np.testing.assert_array_equal(read_image(out / "images" / f"{i}_training.tif"), picture(i))
    assert "4 cases" in capsys.readouterr().out


@pytest.mark.parametrize(("grader", "rows"), [("1st_manual/{2}_manual1", ()), ("2nd_manual/{2}_manual2", (15,))])
def test_drive_test_images_by_either_grader(drive, tmp_path, grader, rows):
    patterns = ["--image_pattern", r"(test)/images/(\d+)_test", "--mask_pattern", f"{{1}}/{grader}"]
    run("folder", drive, tmp_path / "out", "--images", ".", "--masks", ".", *patterns)
    for i in (1, 2, 3):
        np.testing.assert_array_equal(mask_of(tmp_path / "out", f"test/images/{i:02d}_test"), target(i, *rows))


def test_drive_both_parts_at_once_with_names(drive, tmp_path, capsys):
    images = r"(?P<part>training|test)/images/(?P<name>(?P<number>\d+)_\w+)"
    patterns = ["--image_pattern", images, "--mask_pattern", "{part}/1st_manual/{number}_manual1"]
    run("folder", drive, tmp_path / "out", "--images", ".", "--masks", ".", *patterns)
    assert names(tmp_path / "out" / "masks") == [f"0{i}_test.png" for i in (1, 2, 3)] + [
        f"{i}_training.png" for i in range(21, 25)
    ]
    assert "10 files match no pattern" in capsys.readouterr().out


@pytest.fixture
def chase(tmp_path):
    """CHASE_DB1: JPEG images and the PNG masks of two graders in one folder."""
    source = tmp_path / "CHASEDB1"
    for i in range(1, 5):
        for side in "LR":
            write(source / f"Image_{i:02d}{side}.jpg", picture(10 * i))
            write(source / f"Image_{i:02d}{side}_1stHO.png", target(i))
            write(source / f"Image_{i:02d}{side}_2ndHO.png", target(i, i + 8))
    return source


@pytest.mark.parametrize("patterns", [[], ["--image_pattern", r"Image_\d+[LR]"]])
@pytest.mark.parametrize(("grader", "more"), [("_1stHO", 0), ("_2ndHO", 8)])
def test_two_graders_in_one_folder_with_the_images(chase, tmp_path, capsys, patterns, grader, more):
    flags = ["--images", ".", "--masks", ".", "--mask_pattern", "{stem}" + grader, *patterns]
    run("folder", chase, tmp_path / "out", *flags)
    assert len(names(tmp_path / "out" / "images")) == 8
    np.testing.assert_array_equal(mask_of(tmp_path / "out", "Image_03L"), target(3, 3 + more))
    assert "8 files match no pattern and were skipped: Image_01L_" in capsys.readouterr().out


@pytest.mark.parametrize(("grader", "more"), [("_1stHO", 0), ("_2ndHO", 8)])
def test_two_graders_in_one_folder_of_masks(tmp_path, capsys, grader, more):
    base = tmp_path / "base"
    for i in range(1, 6):
        write(base / "images" / f"a{i}.png", picture(i))
        write(base / "masks" / f"a{i}_1stHO.png", target(i))
        write(base / "masks" / f"a{i}_2ndHO.png", target(i, i + 8))
    run("folder", base, tmp_path / "out", "--mask_pattern", "{stem}" + grader)
    np.testing.assert_array_equal(mask_of(tmp_path / "out", "a4"), target(4, 4 + more))
    assert "5 files match no pattern" in capsys.readouterr().out
    # Without a conversion, in training:
    (base / "train.txt").write_text("a1\na2\n")
    case = load_lists(base, {"training": "train.txt"}, mask_suffix=grader)["training"][1]
    np.testing.assert_array_equal(read_mask(case.masks) * 255, target(2, 2 + more))
    with pytest.raises(UserError, match=r"Found a1_1stHO\.png, a1_2ndHO\.png; pass .*--mask_suffix"):
        load_lists(base, {"training": "train.txt"})


def test_a_mask_that_is_missing_is_no_other_grader(chase, tmp_path):
    """case_1 beside case, and one odd file: errors, as before."""
    (chase / "Image_01L_1stHO.png").unlink()
    flags = ["--images", ".", "--masks", ".", "--mask_pattern", "{stem}_1stHO"]
    with pytest.raises(UserError, match=r'"Image_01L\.jpg": no mask'):
        run("folder", chase, tmp_path / "out", *flags)
    write(chase / "Image_01L_1stHO.png", target(1))
    write(chase / "Image_02R_left.png", picture(3))
    write(chase / "Image_02R_7.png", picture(4))
    with pytest.raises(UserError, match=r'2 problems[^"]*"Image_02R_7\.png": no mask[^"]*"Image_02R_left\.png"'):
        run("folder", chase, tmp_path / "out", *flags)


@pytest.fixture
def nuclei(tmp_path):
    """DSB2018: a folder a case, with one RGBA image and a mask for each nucleus."""
    source = tmp_path / "stage1_train"
    for i in range(1, 6):
        name = f"{i:02d}ab" * 3
        write(source / name / "images" / f"{name}.png", np.dstack([picture(i), np.full((20, 30), 255, np.uint8)]))
        for nucleus in range(i):
            write(source / name / "masks" / f"{nucleus * 7:x}cd.png", target(2 * nucleus))
    return source


def test_a_folder_a_case(nuclei, tmp_path, capsys):
    out = tmp_path / "out"
    run("folder", nuclei, out)
    assert names(out / "images") == [f"{f'{i:02d}ab' * 3}.png" for i in range(1, 6)]
    for i in range(1, 6):
        np.testing.assert_array_equal(mask_of(out, f"{i:02d}ab" * 3), target(*range(0, 2 * i, 2)))
        np.testing.assert_array_equal(read_image(out / "images" / f"{f'{i:02d}ab' * 3}.png"), picture(i))
    assert "4 with several masks, merged" in capsys.readouterr().out
    train, val = (read_list(out / f"{part}.txt") for part in ("train", "val"))
    assert sorted(train + val) == [f"{i:02d}ab" * 3 for i in range(1, 6)]


def test_a_folder_a_case_with_lists(nuclei, tmp_path):
    ids = sorted(path.name for path in nuclei.iterdir())
    (nuclei / "train.txt").write_text("\n".join(ids[:3]))
    (nuclei / "val.txt").write_text("\n".join(f"{name}.png" for name in ids[3:]))
    run("folder", nuclei, tmp_path / "out")
    assert read_list(tmp_path / "out" / "train.txt") == ids[:3] and read_list(tmp_path / "out" / "val.txt") == ids[3:]
    (nuclei / "val.txt").write_text("nobody\n" + ids[4] + "\n" + ids[4])
    with pytest.raises(UserError, match=rf'2 problems[^"]*"nobody": case not found[^"]*"{ids[4]}": listed twice'):
        run("folder", nuclei, tmp_path / "other")


def test_an_entry_that_fits_two_cases_is_not_guessed(tmp_path):
    source = tmp_path / "raw"
    for part in ("p1", "p2"):
        for i in range(3):
            write(source / "im" / part / f"{i}_x.png", picture(i))
            write(source / "ma" / part / f"{i}_y.png", target(i))
    flags = ["--images", "im", "--masks", "ma", "--image_pattern", r"(\d)_x", "--mask_pattern", "{1}_y"]
    (source / "train.txt").write_text("p1/0_x\n1_x\n")
    (source / "val.txt").write_text("p2/2_x.png\n")
    with pytest.raises(UserError, match=r'1 problem[^"]*train\.txt: "1_x": ambiguous \(p1/1_x, p2/1_x\)'):
        run("folder", source, tmp_path / "out", *flags)
    (source / "train.txt").write_text("p1/0_x\np2/1_x\n")
    run("folder", source, tmp_path / "out", *flags)
    assert read_list(tmp_path / "out" / "train.txt") == ["p1/0_x", "p2/1_x"]
    assert read_list(tmp_path / "out" / "val.txt") == ["p2/2_x"]


def test_case_names_that_end_in_an_extension(tmp_path):
    source, flags = tmp_path / "raw", ["--image_pattern", "(.+)", "--mask_pattern", "{1}"]
    for i in range(4):
        write(source / "images" / f"a{i}.tif.png", picture(i))
        write(source / "masks" / f"a{i}.tif.png", target(i))
    (source / "train.txt").write_text("a0.tif\na1.tif.png\n")
    (source / "val.txt").write_text("a2.tif\n")
    run("folder", source, tmp_path / "out", *flags)
    assert read_list(tmp_path / "out" / "train.txt") == ["a0.tif", "a1.tif"]
    cases = load_lists(tmp_path / "out", {"training": "train.txt", "validation": "val.txt"})
    assert [case.name for case in cases["training"]] == ["a0.tif", "a1.tif"]
    write(source / "images" / "a0.tif", picture(9))
    write(source / "masks" / "a0.png", target(9))
    with pytest.raises(UserError, match=r'"a0\.tif": the name of a case and of the file of another'):
        run("folder", source, tmp_path / "other", *flags)


NUCLEI_FAULTS = {
    "no masks": (lambda case: [path.unlink() for path in (case / "masks").iterdir()], "images/[^:]*: no mask in"),
    "no image": (lambda case: [path.unlink() for path in (case / "images").iterdir()], "a mask without an image"),
    "two images": (lambda case: write(case / "images" / "b.png", picture(9)), "also belongs to"),
    "another size": (lambda case: write(case / "masks" / "0cd.png", target(1, width=31)), "all masks of a case must"),
}


@pytest.mark.parametrize("fault", NUCLEI_FAULTS)
def test_faults_of_a_folder_a_case(nuclei, tmp_path, fault):
    spoil, message = NUCLEI_FAULTS[fault]
    spoil(sorted(nuclei.iterdir())[2])
    with pytest.raises(UserError, match=message):
        run("folder", nuclei, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_instance_labels_of_16_bits_name_the_threshold_that_fits(tmp_path):
    source = tmp_path / "raw"
    for i in range(1, 6):
        write(source / "images" / f"a{i}.png", picture(i))
        labels = np.zeros((20, 30), np.uint16)
        labels[i], labels[i + 3], labels[i + 6] = 1, 300, 1000 + i
        write(source / "masks" / f"a{i}.png", labels)
    with pytest.raises(UserError, match=r"perhaps instance labels.*--mask_threshold 0 makes all values above 0"):
        run("folder", source, tmp_path / "out")
    run("folder", source, tmp_path / "out", "--mask_threshold", 0)
    np.testing.assert_array_equal(mask_of(tmp_path / "out", "a2"), target(2, 5, 8))


@pytest.mark.parametrize(
    ("values", "full", "message"),
    [
        ([0, 1, 2, 3], 255, "perhaps instance labels, one value per object; .*--mask_threshold 0 makes all"),
        ([0, 90, 180], 255, "several classes or instances; .*--mask_threshold 0 makes all"),
        ([0, 100, 255], 255, "soft edges or several classes; .*--mask_threshold 127 splits.*--mask_threshold 0 makes"),
        ([10, 100, 200], 255, "none of them 0; .*--mask_threshold 127 splits"),
        ([0, 5, 900], 65535, "perhaps instance labels"),
        ([0, 30000, 65535], 65535, "soft edges or several classes; .*--mask_threshold 32767 splits"),
    ],
)
def test_the_threshold_in_the_message_is_one_for_the_file(tmp_path, values, full, message):
    mask = np.resize(np.array(values, np.uint8 if full == 255 else np.uint16), (8, 9))
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    with pytest.raises(UserError, match=message):
        read_mask([tmp_path / "m.png"])
    np.testing.assert_array_equal(read_mask([tmp_path / "m.png"], threshold=0), mask > 0)
    np.testing.assert_array_equal(read_mask([tmp_path / "m.png"], threshold=full // 2), mask > full // 2)


def test_folders_of_other_names_are_listed_with_the_flags(tmp_path):
    source = tmp_path / "raw"
    write(source / "jpg" / "a.jpg", picture(1))
    write(source / "labels" / "a.png", target(1))
    (source / "readme.txt").touch()
    with pytest.raises(UserError, match=r"images was not found.*contains jpg/, labels/, readme.txt.*--images"):
        run("folder", source, tmp_path / "out")
    (source / "jpg").rename(source / "images")
    with pytest.raises(UserError, match=r"masks was not found. .*contains images/, labels/.*--masks") as error:
        run("folder", source, tmp_path / "out")
    assert "\n" not in str(error.value)
    (source / "train.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"masks: the folder was not found. .*contains images/, labels/") as error:
        load_lists(source, {"training": "train.txt"})
    assert "prepare_data.py folder" in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image_pattern", "(.)"], "--image_pattern requires --mask_pattern"),
        (["--image_pattern", "(.)", "--mask_pattern", "mask"], r"at least one of \{1\}, \{stem\}, and no other"),
        (["--image_pattern", "(.)", "--mask_pattern", "{1}{2}"], r"at least one of \{1\}, \{stem\}"),
        (["--mask_pattern", "{1}_manual1"], r"must contain \{stem\} exactly once.*--image_pattern"),
        (["--image_pattern", "(b)", "--mask_pattern", "{1}"], r"no image matches .*found a\.png, a1\.png"),
        (["--image_pattern", "(a)1?", "--mask_pattern", "{1}1"], "no such|also belongs to|no mask"),
    ],
)
def test_patterns_that_do_not_fit(tmp_path, flags, message):
    for name in ("a", "a1"):
        write(tmp_path / "raw" / "images" / f"{name}.png", picture(3))
        write(tmp_path / "raw" / "masks" / f"{name}.png", target(3))
    with pytest.raises(UserError, match=message):
        run("folder", tmp_path / "raw", tmp_path / "out", *flags)


def test_case_and_numbers_in_patterns(tmp_path):
    """Upper and lower case of the pattern's own text are one, those of groups differ; _1, _2 are merged."""
    for name, row in (("P1-A", 1), ("p1-A", 2)):
        write(tmp_path / "raw" / "images" / f"img {name}.png", picture(row))
        write(tmp_path / "raw" / "masks" / f"MASK {name}_gt_1.png", target(row))
        write(tmp_path / "raw" / "masks" / f"mask {name}_GT_2.png", target(row + 5))
    for i in range(2, 6):
        write(tmp_path / "raw" / "images" / f"img q{i}-B.png", picture(9))
        write(tmp_path / "raw" / "masks" / f"mask q{i}-B_gt.png", target(9))
    flags = ["--image_pattern", r"img (\w+-\w)", "--mask_pattern", "mask {1}_gt"]
    run("folder", tmp_path / "raw", tmp_path / "out", *flags)
    np.testing.assert_array_equal(mask_of(tmp_path / "out", "img P1-A"), target(1, 6))
    np.testing.assert_array_equal(mask_of(tmp_path / "out", "img p1-A"), target(2, 7))
