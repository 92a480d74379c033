from __future__ import annotations

import json
import time

import cv2
import numpy as np
import pytest

import prepare_data
from datasets.prepare.sample import ultrasound_image
from datasets.prepare.survey import perceptual_hash, survey, table
from utils.common.errors import UserError


def write(base, name, image=None, mask=None):
    rng = np.random.default_rng(int.from_bytes(name.encode(), "big"))
    drawn, target = ultrasound_image(rng, 64)
    cv2.imwrite(str(base / "images" / f"{name}.png"), drawn if image is None else image)
    cv2.imwrite(str(base / "masks" / f"{name}.png"), target * 255 if mask is None else mask)


@pytest.fixture
def base(tmp_path):
    base = tmp_path / "set"
    for folder in ("images", "masks"):
        (base / folder).mkdir(parents=True)
    for name in ("t1", "t2", "t3", "v1", "v2"):
        write(base, name)
    (base / "train.txt").write_text("t1\nt2\nt3\n")
    (base / "val.txt").write_text("v1\nv2\n")
    return base


def look(base, **options):
    return survey(base, ["train.txt", "val.txt"], **{"img_size": 64, **options})


def test_a_clean_set_has_no_findings(base):
    result = look(base)
    assert result.errors == result.warnings == []
    assert result.lists["train.txt"]["cases"] == 3 and result.lists["val.txt"]["targets"] == 2
    assert result.lists["train.txt"]["formats"] == "3 PNG L"
    shown = table(result)
    assert "64x64 to 64x64" in shown and "0 warnings" in shown


@pytest.mark.parametrize("again", ["train.txt", "./train.txt", "link.txt"])
def test_a_list_that_is_passed_twice(base, again):
    (base / "link.txt").symlink_to("train.txt")
    result = survey(base, ["train.txt", again, "val.txt"], 64)
    assert result.errors == [f"--lists: train.txt and {again} are the same file. Pass it once."]
    assert list(result.lists) == ["train.txt", "val.txt"]


def test_components_and_share(base):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:12, 10:12] = mask[12, 12] = 255  # joined over a corner: one target of 5 pixels
    mask[40, 40:43] = 255
    for name in ("v1", "v2"):
        write(base, name, mask=mask)
    figures = look(base).lists["val.txt"]
    assert figures["targets"] == 4 and figures["target area px"] == "3 / 4 / 5"
    assert figures["target share %"].startswith(f"{100 * 8 / 4096:.3g}")


@pytest.mark.parametrize(
    ("interpolation", "consequence"), [("nearest", "they are lost"), ("exact", "they are kept as one pixel")]
)
def test_targets_too_small_for_img_size(base, interpolation, consequence):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = mask[3, 3] = 255
    write(base, "t2", mask=mask)
    result = look(base, img_size=16, mask_interpolation=interpolation)
    expected = f"train.txt: 1 images have targets that are too small for --img_size 16 ({consequence}): t2"
    assert expected in result.warnings
    assert result.lists["train.txt"]["too small targets"] == 1
    assert not look(base).warnings


def test_empty_masks(base):
    write(base, "v2", mask=np.zeros((64, 64), np.uint8))
    assert look(base).warnings == ["val.txt: 1 masks are empty: v2"]


def test_errors_are_those_of_training(base):
    write(base, "t1", mask=np.full((32, 64), 255, np.uint8))
    write(base, "t2", mask=np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    (base / "masks" / "t3.png").unlink()
    (base / "val.txt").write_text("v1\nv2\nv9\n")
    errors = look(base).errors
    assert len(errors) == 4
    for name, message in (
        ("t1", "--fit_masks"),
        ("t2", "--mask_threshold"),
        ("t3", "no mask"),
        ("v9", "image not found"),
    ):
        assert any(name in error and message in error for error in errors)
    assert len(look(base, fit_masks=True, mask_threshold=127).errors) == 2


def test_the_same_case_in_both_lists(base):
    (base / "val.txt").write_text("v1\nt2\n")
    result = look(base)
    assert result.errors == ["1 cases are in both train.txt and val.txt: t2"]
    assert result.warnings == ["1 images are in no list: v2.png"]


def test_a_mask_of_cases_in_both_lists(base):
    (base / "masks" / "v1.png").rename(base / "masks" / "v1_mask.png")
    write(base, "v1_mask", mask=cv2.imread(str(base / "masks" / "v1_mask.png"), cv2.IMREAD_UNCHANGED))
    (base / "train.txt").write_text("t1\nt2\nt3\nv1_mask\n")
    assert look(base).errors == ["1 masks belong to two cases, in train.txt and in val.txt: v1_mask.png"]


def test_duplicates_under_another_name(base):
    image = cv2.imread(str(base / "images" / "t1.png"), cv2.IMREAD_GRAYSCALE)
    write(base, "v1", image=image)
    brighter = cv2.convertScaleAbs(cv2.resize(image, (80, 72)), alpha=0.9, beta=10)
    write(base, "v2", image=brighter, mask=np.full((72, 80), 255, np.uint8))
    warnings = look(base).warnings
    assert '"t1" in train.txt and "v1" in val.txt are the same picture' in warnings
    assert any('"t1" in train.txt and "v2" in val.txt are nearly the same' in warning for warning in warnings)


def test_different_pictures_have_different_hashes():
    hashes = [
        perceptual_hash(np.repeat(ultrasound_image(np.random.default_rng(i), 64)[0][..., None], 3, 2))
        for i in range(30)
    ]
    distances = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 4


def test_a_missing_list_is_a_finding_and_a_missing_folder_an_error(base, tmp_path):
    (base / "val.txt").unlink()
    assert any("val.txt" in error for error in look(base).errors)
    with pytest.raises(UserError, match=r"prepare_data\.py sample"):
        look(tmp_path / "nowhere")


def test_the_verb(base, tmp_path, capsys):
    argv = ["check", str(base), "--img_size", "64", "--json", str(tmp_path / "found.json")]
    prepare_data.main(prepare_data.parser().parse_args(argv))
    assert json.loads((tmp_path / "found.json").read_text())["lists"]["train.txt"]["cases"] == 3
    (base / "images" / "t1.png").write_bytes(b"")
    with pytest.raises(SystemExit) as caught:
        prepare_data.main(prepare_data.parser().parse_args(argv))
    assert caught.value.code == 1
    assert "1 error, which training will reject" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["errors"]


@pytest.mark.long  # on a busy machine: processor time is counted, caches are shared
def test_two_thousand_tiny_images_a_second_of_processor_time(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((32, 32), np.uint8)
    mask[3:9, 4:9] = 255
    for i in range(400):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), rng.integers(0, 256, (32, 32), np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), mask)
    (tmp_path / "train.txt").write_text("".join(f"{i}\n" for i in range(400)))
    seconds = []
    for _ in range(6):
        start = time.process_time()
        assert survey(tmp_path, ["train.txt"], 256).lists["train.txt"]["readable"] == 400
        seconds.append(time.process_time() - start)
    assert 400 / min(seconds) > 2000
