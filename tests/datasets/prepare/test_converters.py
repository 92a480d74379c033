"""prepare_data.py sirst and folder: what they write, and what they say of a source that is wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from raw_sets import make_pairs, picture, target, write
from waiting import finish, wait_for

import prepare_data
from datasets.decode import read_mask
from datasets.lists import read_list
from datasets.load import load_lists
from datasets.prepare import convert
from datasets.prepare.busi import convert_busi
from datasets.prepare.pairs import convert_folders
from datasets.prepare.sirst import convert_sirst
from utils.common.errors import UserError


def lists(folder, **names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, of in names.items():
        (folder / f"{name}.txt").write_text("\n".join(of))  # no final newline, as in SIRST


def run(*argv):
    prepare_data.main(prepare_data.parser().parse_args([str(word) for word in argv]))


A = [f"a{i}" for i in range(1, 11)]


@pytest.fixture
def sirst(tmp_path):
    source = make_pairs(tmp_path / "sirst", mask_name="{}_pixels0")
    lists(source / "idx_427", train=A[:5], val=A[5:7], trainval=A[:7], test=A[7:])
    return source


def test_sirst_v1(sirst, tmp_path):
    out = tmp_path / "SIRST"
    converted = convert_sirst(sirst, out)
    assert read_list(out / "lists" / "trainval.txt") == A[:7] and read_list(out / "lists" / "test.txt") == A[7:]
    assert converted.cases == 10 and converted.unlisted == 0
    assert (out / "images" / "a3.png").read_bytes() == (sirst / "images" / "a3.png").read_bytes()
    np.testing.assert_array_equal(read_mask([out / "masks" / "a3.png"]) * 255, target(3))
    cases = load_lists(out, {"training": "lists/trainval.txt", "validation": "lists/test.txt"})
    assert len(cases["training"]) == 7


def test_sirst_v2(tmp_path):
    source = make_pairs(tmp_path / "v2", images="mixed", masks="annotations/masks", mask_name="{}_pixels0")
    write(source / "images" / "targets" / "a1.png", picture(1))  # version 2 has these, too
    lists(source / "splits", trainval_full=A[:7], test_full=A[7:])
    convert_sirst(source, tmp_path / "out")
    assert read_list(tmp_path / "out" / "lists" / "test_full.txt") == A[7:]


def test_sirst_without_lists_draws_them(tmp_path):
    convert_sirst(make_pairs(tmp_path / "raw", mask_name="{}_pixels0"), tmp_path / "out")
    parts = [read_list(tmp_path / "out" / "lists" / f"{name}.txt") for name in ("train", "val")]
    assert [len(part) for part in parts] == [7, 3] and sorted(parts[0] + parts[1]) == sorted(A)


def test_a_mask_of_another_size_is_resized_and_named(sirst, tmp_path, capsys):
    write(sirst / "masks" / "a2_pixels0.png", target(4, 5, height=40, width=60))
    run("sirst", sirst, tmp_path / "out")
    np.testing.assert_array_equal(read_mask([tmp_path / "out" / "masks" / "a2.png"]) * 255, target(2))
    assert "a2: mask resized from 60x40 to 30x20, the size of its image" in capsys.readouterr().out


def test_a_folder_with_lists_of_the_infrared_sets(tmp_path, capsys):
    source = make_pairs(tmp_path / "NUDT")
    lists(source / "img_idx", **{"train_NUDT-SIRST": A[:6], "test_NUDT-SIRST": A[6:]})
    run("folder", source, tmp_path / "out")
    assert read_list(tmp_path / "out" / "train.txt") == A[:6] and read_list(tmp_path / "out" / "val.txt") == A[6:]
    assert "val.txt was taken from" in (shown := capsys.readouterr().out) and "test_NUDT-SIRST.txt" in shown


def test_irstd_1k_as_distributed(tmp_path):
    source = make_pairs(tmp_path / "raw", images="IRSTD1k_Img", masks="IRSTD1k_Label")
    lists(source, trainval=A[:8], test=A[8:])
    convert_folders(source, tmp_path / "out")
    assert read_list(tmp_path / "out" / "train.txt") == A[:8] and read_list(tmp_path / "out" / "val.txt") == A[8:]


def test_a_test_list_beside_a_validation_list_stays_one(tmp_path):
    source = make_pairs(tmp_path / "raw")
    lists(source, train=A[:5], val=A[5:7], test=A[7:])
    convert_folders(source, tmp_path / "out")
    found = {name: read_list(tmp_path / "out" / f"{name}.txt") for name in ("train", "val", "test")}
    assert found == {"train": A[:5], "val": A[5:7], "test": A[7:]}


def test_folders_of_any_name_with_a_pattern(tmp_path, capsys):
    source = make_pairs(tmp_path / "raw", images="jpg/x", masks="gt/x", mask_name="GT_{}_v1", suffix=".jpg")
    run("folder", source, tmp_path / "out", "--images", "jpg", "--masks", "gt", "--mask_pattern", "GT_{stem}_v1")
    assert (tmp_path / "out" / "images" / "x" / "a1.jpg").exists()
    np.testing.assert_array_equal(read_mask([tmp_path / "out" / "masks" / "x" / "a7.png"]) * 255, target(7))
    assert "random division with seed 41" in capsys.readouterr().out


def test_images_and_masks_in_one_folder_with_instances(tmp_path):
    """As GlaS is: train_1.bmp, train_1_anno.bmp, one value an object."""
    source = tmp_path / "glas"
    for i in range(1, 11):
        write(source / f"train_{i}.bmp", picture(i))
        write(source / f"train_{i}_anno.bmp", target(i, value=1) + target(i + 3, value=2))
    flags = {"images": ".", "masks": ".", "mask_pattern": "{stem}_anno", "mask_threshold": 0}
    assert convert_folders(source, tmp_path / "out", **flags)[0].cases == 10
    np.testing.assert_array_equal(read_mask([tmp_path / "out" / "masks" / "train_4.png"]) * 255, target(4, 7))


def test_lists_by_flag(tmp_path):
    source = make_pairs(tmp_path / "raw")
    lists(source / "mine", one=A[:4], two=A[4:])
    convert_folders(source, tmp_path / "out", train_list="mine/one.txt", val_list=str(source / "mine" / "two.txt"))
    assert read_list(tmp_path / "out" / "train.txt") == A[:4] and read_list(tmp_path / "out" / "val.txt") == A[4:]


FAULTS = {
    "no source": (lambda s: s.rename(s.with_name("gone")), "raw was not found|neither mixed"),
    "no masks folder": (lambda s: (s / "masks").rename(s / "other"), "masks"),
    "image without mask": (lambda s: (s / "masks" / "a3.png").unlink(), r'"a3\.png": no mask in .*masks; tried a3'),
    "mask without image": (lambda s: (s / "images" / "a3.png").unlink(), r"masks/a3\.png: a mask without an image"),
    "broken image": (lambda s: (s / "images" / "a3.png").write_bytes(b"\x89PNG"), r"images/a3\.png"),
    "empty mask file": (lambda s: (s / "masks" / "a3.png").write_bytes(b""), r"masks/a3\.png: the file is empty"),
    "no images": (lambda s: [path.unlink() for path in (s / "images").iterdir()], "no images found in .*images"),
    "no mask files": (lambda s: [path.unlink() for path in (s / "masks").iterdir()], "no file matches the mask name"),
    "two images of one stem": (lambda s: write(s / "images" / "a3.bmp", picture(3)), "a3.bmp, a3.png have the same"),
    "a list of others": (lambda s: lists(s / "lists", train=["b1"], val=["a1"]), r'train\.txt: "b1": image not found'),
}


@pytest.mark.parametrize("verb", ["sirst", "folder"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing(tmp_path, verb, fault):
    source = make_pairs(tmp_path / "raw")
    spoil, message = FAULTS[fault]
    spoil(source)
    flags = ["--train_list", "lists/train.txt", "--val_list", "lists/val.txt"]
    with pytest.raises(UserError, match=message):
        run(verb, source, tmp_path / "deep" / "out", *(flags if verb == "folder" and "list" in fault else []))
    assert not list(tmp_path.glob("deep/*")) and not list(tmp_path.glob("deep/.*"))


@pytest.mark.parametrize("verb", ["sirst", "folder", "sample"])
def test_a_second_run_leaves_the_first_as_it_is(tmp_path, verb):
    out, source = tmp_path / "out", [make_pairs(tmp_path / "raw")] if verb != "sample" else []
    run(verb, *source, out, *(["--count", 4, "--size", 32] if verb == "sample" else []))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(UserError, match="already exists"):
        run(verb, *source, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{stem}_gt", r"masks: no file matches the mask name \{stem\}_gt; found a1\.png, a10\.png"),
        ("gt", r"must contain \{stem\} exactly once"),
        ("{stem}_{stem}", r"must contain \{stem\} exactly once"),
    ],
)
def test_a_pattern_that_finds_nothing(tmp_path, pattern, message):
    with pytest.raises(UserError, match=message):
        convert_folders(make_pairs(tmp_path / "raw"), tmp_path / "out", mask_pattern=pattern)


def test_one_folder_needs_a_pattern_that_adds_something(tmp_path):
    source = make_pairs(tmp_path / "raw", images=".", masks=".", mask_name="{}_mask")
    with pytest.raises(UserError, match="must differ from"):
        convert_folders(source, tmp_path / "out", ".", ".", "{stem}")
    assert convert_folders(source, tmp_path / "out", ".", ".")[0].cases == 10


@pytest.mark.parametrize(
    ("names", "flags", "message"),
    [
        (["train_A", "train_B", "test_A"], {}, "ambiguous lists.*train_A.txt, train_B.txt"),
        (["train"], {}, "ambiguous lists"),
        (["train", "val"], {"train_list": "train.txt"}, "require each other"),
        ([], {"train_list": "x.txt", "val_list": "y.txt"}, "x.txt: the list was not found"),
    ],
)
def test_lists_that_leave_a_doubt(tmp_path, names, flags, message):
    source = make_pairs(tmp_path / "raw")
    lists(source, **dict.fromkeys(names, A[:3]))
    with pytest.raises(UserError, match=message):
        convert_folders(source, tmp_path / "out", **flags)


@pytest.mark.parametrize("pattern", [[], ["--image_pattern", "a.*", "--mask_pattern", "{stem}"]])
@pytest.mark.parametrize("notes", ["some words", ""])
def test_a_file_that_was_taken_for_a_list_is_named(tmp_path, notes, pattern):
    source = make_pairs(tmp_path / "raw")
    lists(source, train=A[:5], val=A[5:], test_notes=[notes])
    problem = r'test_notes\.txt: ("some words": (image|case) not found|the list is empty)'
    advice = (
        r"The lists were detected by their names: train\.txt, val\.txt, test_notes\.txt\. Choose two with --train_list"
    )
    with pytest.raises(UserError, match=rf"{problem}.*\n{advice}"):
        run("folder", source, tmp_path / "out", *pattern)
    chosen = ["--train_list", "train.txt", "--val_list", "val.txt"]
    run("folder", source, tmp_path / "out", *pattern, *chosen)
    with pytest.raises(UserError) as caught:
        run("folder", source, tmp_path / "other", *chosen[:3], "test_notes.txt")
    assert "detected" not in str(caught.value)


def test_a_file_that_is_not_a_list_of_sirst_is_named(sirst, tmp_path):
    lists(sirst / "idx_427", readme=["some words"])
    with pytest.raises(UserError, match=r"readme\.txt: .*\nEvery \.txt file in .*idx_427 is taken for a list\. Move"):
        run("sirst", sirst, tmp_path / "out")


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_training_case_in_another_list(tmp_path, other):
    source = make_pairs(tmp_path / "raw")
    parts = {"train": A[:5], "val": A[5:7], "test": A[7:]}
    lists(source, **parts | {other: [*parts[other], "a2"]})
    with pytest.raises(UserError, match=rf'1 problem[^"]*"a2": in both .*train\.txt and .*{other}\.txt\. Remove'):
        convert_folders(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_sizes_are_refused_unless_asked_for(tmp_path):
    source = make_pairs(tmp_path / "raw")
    write(source / "masks" / "a2.png", target(4, 5, height=40, width=60))
    with pytest.raises(UserError, match=r"a2\.png: the mask has 60x40.*--fit_masks"):
        run("folder", source, tmp_path / "out")
    run("folder", source, tmp_path / "out", "--fit_masks")
    np.testing.assert_array_equal(read_mask([tmp_path / "out" / "masks" / "a2.png"]) * 255, target(2))


def test_two_images_that_would_become_one_are_refused(tmp_path):
    """BUSI's class folders become one folder."""
    for name in ("benign", "malignant"):
        make_pairs(tmp_path / "raw", images=name, masks=name, mask_name="{}_mask")
    with pytest.raises(UserError, match='"a1": 2 images have this name'):
        convert_busi(tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["/zz", "../zz", "x/../../zz", "../masks/a2", "x//zz", "x/", ".", ".zz", r"x\zz", "C:zz"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    source, outside = make_pairs(tmp_path / "raw"), tmp_path / "outside" / "zz"
    image, mask = source / "images" / "a1.png", source / "masks" / "a1.png"
    cases = [convert.Case(str(outside) if name == "/zz" else name, image, (mask,)), convert.Case("a2", image, (mask,))]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        UserError, match=r"1 problem.*\n.*cannot be the name of a case, which must be a path below images/"
    ):
        convert.convert(cases, {"train.txt": ["a2"]}, tmp_path / "deep" / "out")
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "deep") == before


def test_a_pattern_whose_name_is_a_path_elsewhere(tmp_path):
    outside = tmp_path / "outside"
    source = make_pairs(tmp_path / "raw", images=f"images/x{outside}", masks=f"masks/x{outside}", count=3)
    flags = ["--image_pattern", r"x(?P<name>/.*)", "--mask_pattern", "{stem}"]
    with pytest.raises(UserError, match=f'"{outside}/a1": cannot be the name of a case'):
        run("folder", source, tmp_path / "out", *flags)
    assert not outside.exists()


def test_a_file_and_a_folder_of_one_path_are_refused(tmp_path):
    source = make_pairs(tmp_path / "raw", images="images/x.png", masks="masks/x.png")
    write(source / "images" / "x.jpg", picture(1))
    write(source / "masks" / "x.bmp", target(1))
    with pytest.raises(
        UserError, match=r'1 problem.*\n  "x": its file x\.png .* the folder of "x\.png/a\d+"; rename one'
    ):
        run("folder", source, tmp_path / "out")


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    source, written = make_pairs(tmp_path / "raw"), []

    def interrupted(case, *rest):
        written.append(case)
        if len(written) == 4:
            raise KeyboardInterrupt
        return write_case(case, *rest)

    write_case = convert._write_case
    monkeypatch.setattr(convert, "_write_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_folders(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_terminated_command_leaves_nothing(tmp_path):
    script = Path(prepare_data.__file__)
    command = [sys.executable, str(script), "sample", str(tmp_path / "out"), "--count", "10000", "--size", "256"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list(tmp_path.glob(".out.*/out/images/*")), process)
        process.send_signal(signal.SIGTERM)
        output, errors = finish(process)
    assert (process.returncode, output, errors) == (128 + signal.SIGTERM, "", "terminated\n")
    assert not list(tmp_path.iterdir())


def test_the_help_says_where_the_flags_are():
    assert "python prepare_data.py COMMAND --help" in prepare_data.parser().format_help()
