"""Names of files that hold line breaks and control characters: whatever a script prints of them is harmless."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from random_weights import save_random_weights

import benchmark
import demo
import evaluation
import export
import predict
import prepare_data
import train_recon
from utils.common.errors import UserError
from utils.common.script import run_script
from utils.settings.data_loaders import training_loaders

# A list holds no line break, so that what it names has none; files in a folder may have one.
LISTED = ["plain", "clear\x1b[2J", "title\x1b]0;x\x07", "tab\tstop", "turned\u202egpj", "c1\x9b31m", "back\x08\x7f"]
UNLISTED = ["two\nlines", "over\rwritten", "separated\u2028here"]
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


def picture(path, number=0, broken=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    path.write_bytes(data[: len(data) // 2] if broken else data)


def mask(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.eye(32, dtype=np.uint8) * 255)[1].tobytes())


@pytest.fixture
def base(tmp_path):
    """A data folder: every listed name with its mask, the last two in the validation list; the others in no list."""
    for i, name in enumerate([*LISTED, *UNLISTED]):
        picture(tmp_path / "set" / "images" / f"{name}.png", i)
        mask(tmp_path / "set" / "masks" / f"{name}.png")
    for part, names in (("train", LISTED[:-2]), ("val", LISTED[-2:])):
        (tmp_path / "set" / f"{part}.txt").write_text("\n".join(names), encoding="utf-8", newline="\n")
    return tmp_path / "set"


@pytest.fixture
def printed(capsys):
    """Runs a script's main as the script does; its exit code and what it prints, which is looked at here."""

    def run(main, settings, *argv):
        with pytest.raises(SystemExit) as ended:
            run_script(main, lambda: settings([str(word) for word in argv]))
        shown = capsys.readouterr()
        for text in (shown.out, shown.err):
            assert not HARMFUL.search(text), HARMFUL.findall(text)
            assert "two\n" not in text and "\nlines" not in text
        return ended.value.code, shown.out, shown.err

    return run


def prepare(argv):
    return prepare_data.parser().parse_args(argv)


def test_each_argument_of_an_error_is_a_line():
    error = UserError("a\nb\x1b: wrong.", "", "  second")
    assert str(error) == "a\\nb\\x1b: wrong.\n\n  second" and str(UserError(f"{error}")).count("\n") == 0


def test_check_of_names_in_no_list_and_of_broken_files(base, printed):
    code, out, _ = printed(prepare_data.main, prepare, "check", base, "--img_size", "32")
    assert code == 0 and r"3 images are in no list: over\rwritten.png, separated\u2028here.png, two\nlines.png" in out
    for name in LISTED:
        picture(base / "images" / f"{name}.png", broken=True)
    code, out, _ = printed(prepare_data.main, prepare, "check", base, "--img_size", "32")
    assert code == 1 and r"clear\x1b[2J" in out
    code, out, _ = printed(prepare_data.main, prepare, "check", base, "--lists", "no\nlist.txt")
    assert code == 1 and r"no\nlist.txt" in out


def test_split(base, printed):
    code, _, error = printed(prepare_data.main, prepare, "split", base)
    assert code == 2 and error.count("\n") == 1 and "Rename the file" in error
    (base / "masks" / "two\nlines.png").unlink()
    code, _, error = printed(prepare_data.main, prepare, "split", base)
    assert code == 2 and error.count("\n") == 2 and r'"two\nlines.png": no mask' in error
    code, _, error = printed(prepare_data.main, prepare, "split", base, "--group", "^(pat)")
    assert code == 2


@pytest.mark.parametrize("pattern", [[], ["--mask_pattern", "{stem}_gt"], ["--images", "images", "--masks", "images"]])
def test_folder(base, tmp_path, printed, pattern):
    mask(base / "masks" / "two\nlines_too.png")
    code, _, error = printed(prepare_data.main, prepare, "folder", base, tmp_path / "out", *pattern)
    assert code == 2 and error.startswith("error: ") and not (tmp_path / "out").exists()


def test_folder_names_what_it_leaves_out(base, tmp_path, printed):
    for name in UNLISTED:
        (base / "images" / f"{name}.png").unlink()
        (base / "masks" / f"{name}.png").rename(base / "masks" / f"{name}_other.png")
    for name in LISTED:
        (base / "masks" / f"{name}.png").rename(base / "masks" / f"{name}_gt.png")
    flags = ["--mask_pattern", "{stem}_gt"]
    code, out, error = printed(prepare_data.main, prepare, "folder", base, tmp_path / "out", *flags)
    assert (code, error) == (0, "")
    assert "3 files match no pattern and were skipped" in out and r"two\nlines_other.png" in out
    (base / "images" / "a\nb").mkdir()
    code, _, error = printed(prepare_data.main, prepare, "folder", base, tmp_path / "o", "--images", "no\nfolder")
    assert code == 2 and r"no\nfolder" in error and error.count("\n") == 1


def training(base, out, *flags):
    small = ["--img_size", "32", "--batch_size", "4", "--epochs", "1", "--workers", "0", "--variant", "srs_tiny"]
    return ["--base_dir", base, "--output_dir", out, *small, *flags]


def test_training(base, tmp_path, printed):
    more = tmp_path / "more"
    for i, name in enumerate([*LISTED, *UNLISTED]):
        picture(more / f"{name}.png", i if i % 2 else 100 + i)

    def load(args):
        training_loaders(args, False, 4, args.unlabeled_dir)

    flags = training(base, tmp_path / "o\nut", "--unlabeled_dir", more)
    code, out, _ = printed(load, train_recon.settings, *flags)
    assert code == 0 and r"clear\x1b[2J.png" in out and r"c1\x9b31m.png" in out
    picture(base / "images" / f"{LISTED[1]}.png", broken=True)
    picture(base / "images" / f"{LISTED[3]}.png", broken=True)
    code, _, error = printed(load, train_recon.settings, *flags)
    assert code == 2 and error.startswith("error: 2 problems") and r"tab\tstop" in error and error.count("\n") == 3
    code, _, error = printed(train_recon.main, train_recon.settings, *training("no\nset", tmp_path / "out"))
    assert code == 2 and r"no\nset" in error
    picture(more / "two\nlines.png", broken=True)
    picture(base / "images" / f"{LISTED[1]}.png"), picture(base / "images" / f"{LISTED[3]}.png", 3)
    code, _, error = printed(load, train_recon.settings, *flags)
    assert code == 2 and r"two\nlines.png" in error and error.count("\n") == 2


def test_evaluation(base, tmp_path, printed):
    weights = save_random_weights(tmp_path / "run" / "seg" / "best.pth")
    flags = ["--weights", weights, "--base_dir", base, "--workers", "0", "--output_dir", tmp_path / "o\nut"]
    code, out, _ = printed(evaluation.main, evaluation.settings, *flags)
    assert code == 0 and "2 images" in out
    (base / "masks" / f"{LISTED[-1]}.png").write_bytes(b"\x89PNG")
    code, _, error = printed(evaluation.main, evaluation.settings, *flags)
    assert code == 2 and r"back\x08\x7f" in error and error.count("\n") == 2
    code, _, error = printed(evaluation.main, evaluation.settings, "--compare", tmp_path / "a\nb", tmp_path / "c\nd")
    assert code == 2 and error.count("\n") == 1


def test_prediction(base, tmp_path, printed):
    weights = save_random_weights(tmp_path / "best.pth")
    flags = ["--weights", weights, "--output", tmp_path / "out", base / "images"]
    picture(base / "images" / "two\nlines.png", broken=True)
    code, out, error = printed(predict.main, predict.settings, *flags)
    assert code == 1 and "9 images predicted" in out
    assert error.splitlines()[-1].endswith("Copy it again.") and r"two\nlines.png: " in error.splitlines()[-1]
    assert len(list((tmp_path / "out").glob("*.png"))) == len(LISTED) + len(UNLISTED) - 1
    picture(base / "images" / "two\nlines.jpg")
    code, _, error = printed(predict.main, predict.settings, *flags)
    assert code == 2 and error.count("\n") == 1 and r"two\nlines.jpg" in error
    code, _, error = printed(predict.main, predict.settings, *flags[:-1], base / "no\nsuch")
    assert code == 2 and error.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (prepare_data, ["check", "set"]),
        (predict, ["set", "--output", "out"]),
        (export, ["--format", "onnx"]),
        (demo, []),
        (benchmark, []),
    ],
)
def test_what_a_pattern_of_a_shell_takes_for_a_flag(script, words, capsys):
    with pytest.raises(SystemExit):
        script.parser().parse_args([*words, "--two\nlines\x1b[2J.png"])
    assert r"--two\nlines\x1b[2J.png" in capsys.readouterr().err.splitlines()[-1]
