from __future__ import annotations

import cv2
import numpy as np
import pytest

from datasets.decode import read_mask
from datasets.lists import read_list
from datasets.prepare.busi import convert_busi
from utils.common.errors import UserError


def mask(*rows):
    array = np.zeros((20, 30), np.uint8)
    array[list(rows)] = 255
    return array


@pytest.fixture
def raw(tmp_path):
    source = tmp_path / "raw"
    for name, count in (("benign", 12), ("malignant", 8), ("normal", 3)):
        (source / name).mkdir(parents=True)
        for i in range(1, count + 1):
            cv2.imwrite(str(source / name / f"{name} ({i}).png"), np.full((20, 30, 3), i, np.uint8))
            cv2.imwrite(str(source / name / f"{name} ({i})_mask.png"), mask() if name == "normal" else mask(1))
    cv2.imwrite(str(source / "benign" / "benign (4)_mask_1.png"), mask(7))
    return source


def test_conversion(raw, tmp_path):
    out = tmp_path / "BUSI"
    converted = convert_busi(raw, out)
    assert (converted.cases, converted.merged) == (20, 1)
    assert len(list((out / "images").iterdir())) == len(list((out / "masks").iterdir())) == 20
    source = raw / "benign" / "benign (2).png"
    assert (out / "images" / "benign (2).png").read_bytes() == source.read_bytes()
    np.testing.assert_array_equal(read_mask([out / "masks" / "benign (4).png"]) * 255, mask(1, 7))


def test_division_is_whole_stratified_and_repeatable(raw, tmp_path):
    lists = []
    for name in ("a", "b"):
        convert_busi(raw, tmp_path / name)
        lists.append([read_list(tmp_path / name / file) for file in ("train.txt", "val.txt")])
    train, val = lists[0]
    assert lists[0] == lists[1]
    assert len(set(train) | set(val)) == 20 and len(val) == 6
    assert sum(name.startswith("malignant") for name in val) in (2, 3)


def test_normals_have_empty_masks(raw, tmp_path):
    assert convert_busi(raw, tmp_path / "out", normals=True).cases == 23
    assert read_mask([tmp_path / "out" / "masks" / "normal (1).png"]).sum() == 0


def test_never_overwrites(raw, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        convert_busi(raw, tmp_path / "out")


@pytest.mark.parametrize("fault", ["no mask", "other size", "broken", "no folder"])
def test_faults_name_the_file_and_leave_nothing(raw, tmp_path, fault):
    victim = raw / "malignant" / "malignant (3)_mask.png"
    if fault == "no mask":
        victim.unlink()
        named = r"malignant \(3\)\.png"
    elif fault == "other size":
        cv2.imwrite(str(victim), np.zeros((20, 31), np.uint8))
        named = r"malignant \(3\)_mask\.png: the mask has 31x20 pixels.*30x20"
    elif fault == "broken":
        victim.write_bytes(b"\x89PNG")
        named = r"malignant \(3\)_mask\.png"
    else:
        for path in (raw / "malignant").iterdir():
            path.unlink()
        (raw / "malignant").rmdir()
        named = "malignant was not found"
    with pytest.raises(UserError, match=named):
        convert_busi(raw, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "out").exists()
    assert not list((tmp_path / "deep").glob("*")) if (tmp_path / "deep").exists() else True
