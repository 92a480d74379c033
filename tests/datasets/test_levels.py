from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import evaluation
import train_recon
import train_seg
from datasets.decode import read_image, to_rgb
from datasets.folder import SegmentationFolder
from datasets.levels import bits_in_use, common_white_level, unfit_white_level
from datasets.pairing import Case
from datasets.prepare.sample import make_sample
from datasets.transforms import Transform
from utils.common.errors import UserError
from utils.common.pictures import as_rgb8
from utils.networks.checkpoints import load_checkpoint, save_checkpoint
from utils.prediction.predictor import Predictor
from utils.settings.data_loaders import evaluation_loader, training_loaders


@pytest.mark.parametrize(
    ("largest", "bits"), [(1, 8), (255, 8), (1000, 10), (1023, 10), (1024, 11), (4095, 12), (65535, 16)]
)
def test_bits_in_use(largest, bits):
    pixels = np.zeros((4, 4), np.uint16)
    pixels[1, 2] = largest
    assert bits_in_use(pixels) == bits
    assert bits_in_use(pixels.astype(np.uint8)) == 0


def test_the_white_level_becomes_255_and_what_is_above_too(tmp_path):
    pixels = np.array([[0, 4095, 2047, 5000]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    expected = [0, 255, np.float32(2047) / np.float32(4095 / 255), 255]
    np.testing.assert_allclose(read_image(tmp_path / "a.png", 4095)[0, :, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), to_rgb(pixels, 65535))
    assert as_rgb8(pixels, 4095)[0, :, 1].tolist() == [0, 255, 127, 255]
    eight = np.array([[7, 255]], np.uint8)
    np.testing.assert_array_equal(to_rgb(eight, 4095)[..., 0], eight)


def deep(base: Path, factor: int, dtype=np.uint16) -> Path:
    """A sample set whose images are 16-bit files of 8-bit values times a factor."""
    make_sample(base, count=8, size=32)
    for path in (base / "images").iterdir():
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert cv2.imwrite(str(path), pixels.astype(dtype) * dtype(factor))
    return base


def test_auto_is_of_the_bits_that_the_list_uses(tmp_path):
    for value, expected in ((900, 1023), (4000, 4095), (65535, 65535)):
        cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8), value, np.uint16))
        cv2.imwrite(str(tmp_path / "b.png"), np.full((8, 8), 3, np.uint16))
        cases = [Case(name, tmp_path / f"{name}.png", ()) for name in "ab"]
        assert common_white_level(cases, progress=False) == expected
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8), 3, np.uint8))
    assert common_white_level(cases, progress=False) == 65535


@pytest.mark.parametrize(
    ("factor", "level", "warned"), [(16, None, True), (16, 4095, False), (16, "auto", False), (257, None, False)]
)
def test_training_warns_of_dark_images(tmp_path, capsys, factor, level, warned):
    base = deep(tmp_path / "set", factor)
    flags = ["--base_dir", str(base), "--img_size", "32", "--workers", "0"]
    args = train_seg.parser().settings([*flags, *(["--white_level", str(level)] if level else [])])
    training_loaders(args, True, 1)
    shown = capsys.readouterr().out
    assert shown.count("images use 12 of 16 bits") == warned
    assert ("warning: 8 images use 12 of 16 bits and are read as nearly black (0 to 15.9 of 255)" in shown) == warned
    assert ("--white_level 4095 fits them (auto in training)" in shown) == warned


def test_the_white_level_fits_most_images_or_not():
    assert unfit_white_level([0, 0, 12], None) is None and unfit_white_level([16, 16, 12], None) is None
    assert unfit_white_level([10, 10, 0], None).startswith("2 images use 10 of 16 bits and are read as nearly black")
    assert unfit_white_level([11, 12], 4095) is None, "a dark scene may use a bit less"
    clipped = "1 image uses 16 of 16 bits and is clipped at the white level 4095. --white_level 65535 fits it"
    assert unfit_white_level([16], 4095).startswith(clipped)


@pytest.mark.slow
def test_from_auto_to_evaluation_and_prediction(tmp_path, capsys):
    """Phase 1 finds the level, phase 2, evaluation and prediction take it, each image's tensor being the same."""
    base = deep(tmp_path / "set", 16)
    flags = [
        "--base_dir",
        str(base),
        "--output_dir",
        str(tmp_path / "out"),
        "--img_size",
        "32",
        "--variant",
        "srs_tiny",
    ]
    flags += ["--epochs", "1", "--batch_size", "4", "--workers", "0", "--threads", "1", "--white_level"]
    train_recon.main(train_recon.settings([*flags, "auto"]))
    with pytest.raises(UserError, match="--white_level 4095, but this run uses no --white_level"):
        train_seg.main(train_seg.settings(flags[:-1]))
    train_seg.main(train_seg.settings([*flags, "auto"]))
    weights = tmp_path / "out" / "seg" / "last.pth"
    assert load_checkpoint(weights, "seg")["settings"]["white_level"] == 4095
    resumed = train_seg.settings([*flags, "auto", "--resume"])
    train_seg.main(resumed)
    assert resumed.white_level == 4095
    args = evaluation.settings(["--weights", str(weights), "--workers", "0"])
    assert args.white_level == 4095
    image = base / "images" / f"{(base / 'val.txt').read_text().split()[0]}.png"
    case = Case("a", image, ())
    predictor = Predictor(weights)
    (batch,) = evaluation_loader(args, [case], 1)
    assert torch.equal(predictor.read(image).tensor, batch["image"][0])
    assert not torch.equal(Predictor(weights, white_level=65535).read(image).tensor, batch["image"][0])
    assert predictor.settings["white_level"] == 4095 and predictor.read(image).tensor.max() > 0
    for level, warned in (("4095", False), ("65535", True)):
        capsys.readouterr()
        flags = ["--weights", str(weights), "--workers", "0", "--threads", "1", "--white_level", level]
        evaluation.main(evaluation.settings([*flags, "--output_dir", str(tmp_path / level)]))
        assert ("images use 12 of 16 bits and are read as nearly black" in capsys.readouterr().out) == warned


def test_checkpoints_of_before_have_the_full_range(tmp_path):
    save_checkpoint(tmp_path / "a.pth", {"phase": "seg", "model": {}, "settings": {"normalization": "imagenet"}})
    assert load_checkpoint(tmp_path / "a.pth", "seg")["settings"]["white_level"] is None


@pytest.mark.parametrize("value", ["0", "65536", "-5", "most", "4095.5"])
def test_what_is_no_white_level(value):
    with pytest.raises(UserError, match="white_level"):
        train_recon.parser().settings(["--base_dir", "x", "--white_level", value])


def test_the_folder_reads_with_its_white_level(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8), 4095, np.uint16))
    case = Case("a", tmp_path / "a.png", ())
    white = SegmentationFolder([case], Transform(None), white_level=4095)[0]["image"]
    torch.testing.assert_close(white, Transform(None)(np.full((8, 8, 3), 255, np.float32))[0])
