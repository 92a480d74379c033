"""138 like problems are one line, in training, in conversions and in the check."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from raw_sets import make_pairs, picture, target, write

from datasets.load import load_lists
from datasets.prepare.pairs import convert_folders
from datasets.prepare.survey import survey, table
from datasets.problems import grouped
from utils.common.errors import UserError


@pytest.fixture
def base(tmp_path):
    base = tmp_path / "set"
    for i in range(1, 139):
        write(base / "images" / f"a{i}.png", picture(i))
        write(base / "masks" / f"a{i}.png", target(i % 20))
    (base / "train.txt").write_text("".join(f"a{i}\n" for i in range(1, 139)))
    return base


def spoil(base, kind):
    for i in range(1, 139):
        mask = base / "masks" / f"a{i}.png"
        if kind == "missing":
            mask.unlink()
        elif kind == "another size":
            write(mask, target(1, height=20 + i))
        elif kind == "several values":
            cv2.imwrite(str(mask), np.resize(np.arange(3 + i % 20, dtype=np.uint8), (20, 30)))
        else:
            (base / "images" / f"a{i}.png").write_bytes(b"")


KINDS = {
    "missing": '"a1": no mask in',
    "another size": "a1.png: the mask has 30x21 pixels",
    "several values": "a1.png: cannot tell target from background",
    "empty": "a1.png: the file is empty",
}


@pytest.mark.parametrize("kind", KINDS)
def test_138_like_problems_are_one_line_with_three_names(base, kind):
    spoil(base, kind)
    with pytest.raises(UserError) as error:
        load_lists(base, {"training": "train.txt"})
    first, *lines = str(error.value).splitlines()
    assert first == "138 problems in the data:" and len(lines) == 1
    assert KINDS[kind] in lines[0]
    shown = ("a1", "a2", "a3") if kind == "missing" else ("a1.png", "a2.png", "a3.png")
    assert lines[0].endswith(f"(138 like this: {', '.join(shown)} and 135 more)")


def test_in_the_check_and_in_a_conversion(base, tmp_path):
    spoil(base, "missing")
    (base / "images" / "a7.png").write_bytes(b"")
    found = survey(base, ["train.txt"], 64)
    assert len(found.errors) == 138  # the JSON names each
    lines = table(found).splitlines()
    assert "138 errors, which training will reject:" in lines
    assert sum("no mask in" in line for line in lines) == 1
    write(base / "masks" / "other.png", target(1))
    with pytest.raises(UserError, match=r"139 problems[^\n]*\n[^\n]*\(138 like this[^\n]*\n[^\n]*other.png"):
        convert_folders(base, tmp_path / "out")


def test_what_is_alike():
    like = [
        f"/data/masks/p{i}/b{i}.png: the mask is {i}x9 pixels, its image /data/images/b{i}.png 8x8." for i in range(9)
    ]
    other = ["/data/masks/x.png: the file is empty (0 bytes). Copy it again.", '"x": no mask in /data/masks; tried x.']
    lines = grouped([like[0], other[0], *like[1:], other[1]])
    assert lines == [f"{like[0]} (9 like this: b0.png, b1.png, b2.png and 6 more)", *other]
    assert grouped(like[:3]) == like[:3]
    assert len(grouped([f"a: {problem}" for problem in like] + [f"b: {problem}" for problem in like], ["a", "b"])) == 2
    assert grouped([f"problem {i}." for i in range(9)]) == [f"problem {i}." for i in range(9)]


def test_a_picture_twice_in_one_list_and_exact_copies_before_near_ones(tmp_path):
    rng = np.random.default_rng(3)
    pictures = [cv2.GaussianBlur(rng.integers(0, 256, (64, 64), np.uint8), (0, 0), 4) for _ in range(4)]
    pictures = [cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX) for image in pictures]
    near = cv2.convertScaleAbs(pictures[3], alpha=0.9, beta=10)
    for name, image, row in (
        ("t1", pictures[0], 1),
        ("t2", cv2.cvtColor(pictures[0], cv2.COLOR_GRAY2BGR), 2),  # the same picture in RGB, under another mask
        ("t3", pictures[1], 3),
        ("t4", pictures[1], 3),
        ("t5", near, 5),
        ("t6", pictures[2], 6),
        ("v1", pictures[3], 5),
        ("v2", pictures[2], 6),
    ):
        write(tmp_path / "images" / f"{name}.png", image)
        write(tmp_path / "masks" / f"{name}.png", target(*range(row), height=64, width=64))
    (tmp_path / "train.txt").write_text("".join(f"t{i}\n" for i in range(1, 7)))
    (tmp_path / "val.txt").write_text("v1\nv2\n")
    warnings = survey(tmp_path, ["train.txt", "val.txt"], 64).warnings
    assert warnings[0] == (
        'train.txt: "t1" and "t2" are the same picture with contradicting masks (1.56 and 3.12 % target): keep the one '
        "whose mask is right"
    )
    assert warnings[1] == 'train.txt: "t3" and "t4" are the same picture with the same mask, which counts twice'
    assert warnings[2] == '"t6" in train.txt and "v2" in val.txt are the same picture'
    assert warnings[3].startswith('"t5" in train.txt and "v1" in val.txt are nearly the same picture')
    assert len(warnings) == 4


def test_no_case_is_decoded_twice(tmp_path, monkeypatch):
    from datasets import checks

    base = make_pairs(tmp_path / "set", 6)
    (base / "train.txt").write_text("a1\na2\na3\na4\n")
    (base / "val.txt").write_text("a3\na4\na5\na6\n")
    decoded, decode = [], checks.decode
    monkeypatch.setattr(checks, "decode", lambda path: decoded.append(path.name) or decode(path))
    found = survey(base, ["train.txt", "val.txt"], 64)
    assert sorted(decoded) == [f"a{i}.png" for i in range(1, 7)]
    assert found.lists["val.txt"]["readable"] == 4
    assert found.errors == ["2 cases are in both train.txt and val.txt: a3, a4"]
