"""How often each file is decoded: once for a check, and once for the check, the cache and all else before training."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

import train_recon
import train_seg
from datasets import decode as decoding
from datasets.kept import Kept
from datasets.load import load_lists
from datasets.prepare.survey import survey
from utils.settings.data_loaders import training_loaders

NAMES = [f"c{i}" for i in range(9)]


def picture(path, number, deep=False):
    pixels = np.random.default_rng(number).integers(0, 4095 if deep else 255, (24, 32, 3), np.uint16)
    pixels = pixels if deep else pixels.astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        cv2.imwrite(str(path), pixels if number % 2 else pixels[..., 0])


@pytest.fixture
def base(tmp_path):
    """Gray and RGB, 8 and 16 bits, PNG and TIFF; an empty mask in the validation list; more images, one a copy."""
    for i, name in enumerate(NAMES):
        picture(tmp_path / "set" / "images" / f"{name}{'.tif' if i % 4 == 3 else '.png'}", i, deep=i % 3 == 1)
        mask = np.zeros((24, 32), np.uint8)
        mask[3:9, 4 : 4 + 2 * (i % 7)] = 255
        (tmp_path / "set" / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "set" / "masks" / f"{name}.png"), mask)
        picture(tmp_path / "more" / f"{name}.png", i if i == 2 else i + 100)
    (tmp_path / "set" / "train.txt").write_text("\n".join(NAMES[:5]))
    (tmp_path / "set" / "val.txt").write_text("\n".join(NAMES[5:]))
    return tmp_path / "set"


@pytest.fixture
def decoded(monkeypatch):
    """How often each file was opened to be decoded."""
    counts = Counter()

    def spied(path, *words):
        counts[Path(path)] += 1
        return open(path, *words)  # noqa: PTH123

    monkeypatch.setattr(decoding, "open", spied, raising=False)
    return counts


def files(*folders):
    return {path for folder in folders for path in folder.iterdir() if path.is_file()}


def once(counts, *folders):
    return counts == dict.fromkeys(files(*folders), 1)


def loaders(script, base, *flags, unlabeled=()):
    argv = ["--base_dir", base, "--img_size", "16", "--batch_size", "2", "--workers", "0", "--white_level", "auto"]
    args = script.parser().settings([str(word) for word in [*argv, *flags]])
    return training_loaders(args, script is train_seg, 2, unlabeled), args


def test_a_check_decodes_each_file_once(base, decoded):
    (base / "val.txt").write_text("\n".join(NAMES[3:]))  # two cases are in both lists
    found = survey(base, ["train.txt", "val.txt"], 16, white_level="auto")
    assert once(decoded, base / "images", base / "masks")
    assert any("in both train.txt and val.txt" in error for error in found.errors)


def test_phase_2_decodes_each_file_once(base, decoded):
    (train, val), args = loaders(train_seg, base)
    assert args.white_level == 4095 and val.dataset.without_target() == 1
    for _ in range(2):
        assert len(list(train)) == 3 and len(list(val)) == 2
    assert once(decoded, base / "images", base / "masks")


def test_phase_1_decodes_each_file_once_and_unlabeled_ones_too(base, decoded):
    (train, val), _ = loaders(train_recon, base, unlabeled=[base.parent / "more"])
    assert len(train.dataset) == 5 + 8 and len(list(train)) == 7 and len(list(val)) == 2
    assert once(decoded, base / "images", base.parent / "more")


def test_without_a_cache_each_pass_decodes(base, decoded):
    (train, val), _ = loaders(train_seg, base, "--cache", "0")
    list(train), list(val)
    assert set(decoded.values()) == {2} and val.dataset.without_target() == 1
    assert set(decoded.values()) == {2}


def test_what_the_check_has_kept_is_what_a_file_decodes_to(base):
    sets = [loader.dataset for cache in ("1", "0") for loader in loaders(train_seg, base, "--cache", cache)[0]]
    for kept, read in zip(sets[:2], sets[2:], strict=True):
        assert len(kept._decoded) == len(kept) and not read._decoded
        for i in range(len(kept)):
            for name in ("image", "mask"):
                torch.testing.assert_close(kept[i, 7][name], read[i, 7][name], rtol=0, atol=0)


def test_no_more_is_kept_than_the_budget(base):
    rgb, deep, mask = 24 * 32 * 3, 24 * 32 * 3 * 4, 24 * 32
    kept = Kept(budget=rgb + deep + 2 * mask + 100)
    cases = load_lists(base, {"training": "train.txt"}, kept=kept)["training"]
    taken = [kept.take(case) is not None for case in cases]
    left_out = [deep if kept.bits()[case] else rgb for case, is_kept in zip(cases, taken, strict=True) if not is_kept]
    # The threads of the check decide which cases come first.
    assert sum(taken) in (2, 3) and all(0 <= kept.budget < size + mask for size in left_out)
    assert [kept.take(case) for case in cases] == [None] * 5 and kept.bits()[cases[1]] == 12


def test_a_check_of_tiny_images_takes_little(tmp_path):
    """800 images and masks a second of CPU time; on a machine with nothing else to do it is ten times as fast."""
    count, mask = 1000, np.zeros((32, 32), np.uint8)
    mask[4:9, 5:9] = 255
    data = cv2.imencode(".png", mask)[1].tobytes()
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for i in range(count):
            (tmp_path / folder / f"{i}.png").write_bytes(data)
    (tmp_path / "train.txt").write_text("\n".join(map(str, range(count))))
    survey(tmp_path, ["train.txt"], 256)  # imports
    started = time.process_time()
    found = survey(tmp_path, ["train.txt"], 256)
    assert found.lists["train.txt"]["readable"] == count
    assert 2 * count / (time.process_time() - started) > 800
