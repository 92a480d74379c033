"""Links, hidden names and things that are not files, in every command; and sets of many files."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import prepare_data
from datasets.checks import ORIENTATIONS, check_cases
from datasets.decode import image_size, read_image
from datasets.inputs import claimed_size
from datasets.pairing import find_cases, pair_folders
from datasets.prepare.survey import survey
from datasets.unlabeled import unlabeled_files
from utils.common.errors import UserError

HIDDEN = ("._{}.png", ".{}.png", ".ipynb_checkpoints/{}.png", "sub/.cache/{}.png")


def save(path: Path, value: int, size: tuple[int, int] = (24, 16), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[4:9, 3:8] = 255
    if value:
        pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def base(tmp_path):
    base = tmp_path / "set"
    for i, name in enumerate(("a", "b", "c", "d"), 1):
        save(base / "images" / f"{name}.png", i)
        save(base / "masks" / f"{name}.png", 0)
    (base / "train.txt").write_text("a\nb\n")
    (base / "val.txt").write_text("c\nd\n")
    return base


def look(base, **options):
    return survey(base, ["train.txt", "val.txt"], **{"img_size": 16, **options})


def run(*argv):
    prepare_data.main(prepare_data.parser().parse_args(list(map(str, argv))))


def test_linked_folders_in_every_verb(base, tmp_path):
    for folder, value in (("images", 5), ("masks", 0)):
        save(tmp_path / "disk" / folder / "e.png", value)
        (base / folder / "more").symlink_to(tmp_path / "disk" / folder)
        (base / folder / "circle").symlink_to(base / folder)
    cases, problems, orphans = pair_folders(base)
    assert [case.name for case in cases] == ["a", "b", "c", "d", "more/e"] and not problems and not orphans
    assert len(unlabeled_files([base / "images"])[0]) == 5
    assert look(base).warnings == ["1 images are in no list: e.png"]
    # In a list, a link may not lead out of the data folder; inside, it may.
    assert "is a link to a file outside the data folder" in find_cases(base, ["more/e"])[1][0]
    (base / "raw").mkdir()
    for folder, value in (("images", 6), ("masks", 0)):
        save(base / "raw" / folder / "f.png", value)
        (base / folder / "inside").symlink_to(base / "raw" / folder)
    cases, problems = find_cases(base, ["inside/f"])
    assert [case.name for case in cases] == ["inside/f"] and not problems
    run("folder", base, tmp_path / "out", "--train_list", "train.txt", "--val_list", "val.txt")
    assert (tmp_path / "out/images/more/e.png").is_file() and not (tmp_path / "out/images/more").is_symlink()


def test_hidden_names_are_never_data(base, tmp_path):
    for pattern in HIDDEN:
        for folder in ("images", "masks"):
            path = base / folder / pattern.format("a")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0\5\26\7 not an image")
    assert look(base).errors == look(base).warnings == []
    assert len(pair_folders(base)[0]) == 4
    assert len(unlabeled_files([base / "images"])[0]) == 4
    assert "image not found" in find_cases(base, ["._a"])[1][0]
    run("split", base)
    assert sorted((base / "train1.txt").read_text().split() + (base / "val1.txt").read_text().split()) == list("abcd")
    run("folder", base, tmp_path / "out", "--train_list", "train.txt", "--val_list", "val.txt")
    assert len(list((tmp_path / "out/images").rglob("*"))) == 4


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(path))


def link_to_device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("make", [make_fifo, make_socket, link_to_device, Path.mkdir])
@pytest.mark.parametrize("folder", ["images", "masks"])
def test_what_is_no_file_never_hangs(base, monkeypatch, make, folder):
    monkeypatch.chdir(base / folder)  # the path of a socket has to be short
    Path("a.png").unlink()
    make(Path("a.png"))
    monkeypatch.chdir(base)
    (error,) = look(base).errors
    assert "a.png" in error or '"a"' in error
    cases, problems = find_cases(base, ["a", "b"])
    with pytest.raises(UserError, match="1 problem"):
        check_cases(cases, problems, progress=False)
    if make is not Path.mkdir:
        assert claimed_size(base / folder / "a.png") == (0, 0)
        for read in (read_image, image_size):
            with pytest.raises(UserError, match=r"must be a file|cannot be read"):
                read(base / folder / "a.png")


def test_a_tiff_that_pillow_does_not_know(base):
    pixels = np.random.default_rng(0).integers(0, 65536, (16, 24, 3), dtype=np.uint16)
    (base / "images" / "a.png").unlink()
    tifffile.imwrite(base / "images" / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    result = look(base)
    assert result.errors == [] and result.lists["train.txt"]["formats"] == "1 TIFF RGB;16, 1 PNG L"
    assert "a (16)" in " ".join(result.warnings) or "b (an 8-bit file)" in " ".join(result.warnings)


def test_no_image_is_decoded_twice(base, monkeypatch):
    from datasets import checks, decode

    decoded = []
    original = decode.decode

    def counted(path):
        decoded.append(path)
        return original(path)

    monkeypatch.setattr(decode, "decode", counted)
    monkeypatch.setattr(checks, "decode", counted)
    look(base)
    assert len(decoded) == len(set(decoded)) == 8


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_check_names_the_orientation(base, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    save(base / "images" / "a.png", 1, exif=exif)
    (warning,) = look(base).warnings
    assert f"EXIF orientation {orientation}" in warning and warning.endswith(": a") and "upright" in warning


@pytest.mark.parametrize(("tagged", "orientation"), [("images", 5), ("images", 6), ("masks", 6), ("masks", 8)])
def test_the_size_error_names_the_orientation(base, tagged, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    save(base / tagged / "a.png", 1 if tagged == "images" else 0, size=(16, 24), exif=exif)
    (error,) = look(base).errors
    assert f"The {tagged[:-1]} has the EXIF orientation {orientation} ({ORIENTATIONS[orientation]} when" in error
    assert "--fit_masks would distort" in error
    save(base / tagged / "a.png", 1 if tagged == "images" else 0, size=(16, 24))
    assert "--fit_masks resizes" in look(base).errors[0]


def deep(base, name, largest):
    pixels = np.random.default_rng(largest).integers(0, largest + 1, (16, 24), dtype=np.uint16)
    pixels[0, 0] = largest
    Image.fromarray(pixels).save(base / "images" / f"{name}.png")


def test_check_names_the_bits_in_use_and_the_odd_ones(base):
    for name, largest in (("a", 4095), ("b", 4000), ("c", 3000), ("d", 60000)):
        deep(base, name, largest)
    (base / "train.txt").write_text("a\nb\nc\nd\n")
    result = survey(base, ["train.txt"], 16)
    assert result.lists["train.txt"]["bits in use"] == "3 12, 1 16"
    nearly_black, odd = result.warnings
    assert "3 images use 12 of 16 bits and are read as nearly black (0 to 15.9 of 255)" in nearly_black
    assert "--white_level 4095" in nearly_black and odd.endswith("another number of bits than most (12 bits): d (16)")
    (odd, above) = survey(base, ["train.txt"], 16, white_level=4095).warnings
    assert "1 images have values above --white_level 4095" in above


@pytest.mark.slow
def test_many_cases_are_found_fast(tmp_path):
    """198,000 cases took 177 s; counted as processor time, since other jobs may share the machine."""
    count = 20_000
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for i in range(count):
            os.close(os.open(tmp_path / folder / f"case{i:06d}.png", os.O_CREAT))
    began = time.process_time()
    cases, problems = find_cases(tmp_path, [f"case{i:06d}" for i in range(count)])
    assert len(cases) == count and not problems
    assert time.process_time() - began < 10 / 198_000 * count * 2.5


@pytest.mark.slow
def test_check_of_many_tiny_images(tmp_path):
    """2,000 files a second of one processor; 2.5 times as many where other jobs share it."""
    count = 300
    for i in range(count):
        save(tmp_path / "images" / f"{i}.png", i + 1, (32, 32))
        save(tmp_path / "masks" / f"{i}.png", 0, (32, 32))
    (tmp_path / "train.txt").write_text("\n".join(map(str, range(count))))
    survey(tmp_path, ["train.txt"], 256)
    began = time.process_time()
    assert survey(tmp_path, ["train.txt"], 256).errors == []
    assert time.process_time() - began < 2 * count / 2000 * 2.5
