"""prepare_data.py split: shares, strata, groups, and lists that are never lost."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from raw_sets import picture, target, write

import prepare_data
from datasets.lists import read_list
from datasets.load import load_lists
from datasets.prepare.division import divide, divisions
from utils.common.errors import UserError

NAMES = [f"{kind}{i}" for kind, count in (("b", 14), ("m", 6)) for i in range(count)]
PARTS = ("train", "val", "test")


@pytest.fixture
def base(tmp_path):
    """b0 ... b13 with small targets, m0 ... m5 with large ones."""
    for name in NAMES:
        write(tmp_path / "set" / "images" / f"{name}.png", picture(len(name)))
        write(tmp_path / "set" / "masks" / f"{name}.png", target(*range(2 if name[0] == "b" else 10)))
    return tmp_path / "set"


def run(base, *flags):
    prepare_data.main(prepare_data.parser().parse_args(["split", str(base), *map(str, flags)]))


def drawn(base):
    return {path.name: read_list(path) for path in sorted(base.glob("*.txt"))}


def test_three_divisions_of_70_and_30_by_default(base, capsys):
    run(base)
    lists = drawn(base)
    assert list(lists) == ["train1.txt", "train2.txt", "train3.txt", "val1.txt", "val2.txt", "val3.txt"]
    for i in "123":
        train, val = lists[f"train{i}.txt"], lists[f"val{i}.txt"]
        assert len(train) == 14 and len(val) == 6 and sorted(train + val) == sorted(NAMES)
    assert len({tuple(lists[f"val{i}.txt"]) for i in "123"}) == 3
    header, *rows = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", header) == ["list", "cases", "target share %"]
    name, cases, share = rows[0].split()
    mean = np.mean([10 if case[0] == "b" else 50 for case in lists["train1.txt"]])
    assert (name, cases) == ("train1.txt", "14") and float(share) == pytest.approx(mean, rel=1e-2)


def test_a_division_depends_on_the_seed_and_its_number_alone():
    three, five, other = divisions(NAMES, 3), divisions(NAMES, 5), divisions(NAMES, 3, seed=1)
    assert three == {name: five[name] for name in three} and other != three
    assert divisions(NAMES, 3) == three


def test_a_test_list_of_its_own_for_each_division(base):
    run(base, "--val_share", 0.2, "--test_share", 0.3, "--divisions", 2)
    lists = drawn(base)
    for i in "12":
        parts = [lists[f"{part}{i}.txt"] for part in PARTS]
        assert [len(part) for part in parts] == [10, 4, 6] and sorted(chain(*parts)) == sorted(NAMES)
    assert lists["test1.txt"] != lists["test2.txt"]


@pytest.mark.parametrize("flags", [("--stratify_by", "^([bm])"), ("--share_bins", 2)])
def test_strata_keep_their_share_in_every_list(base, flags, capsys):
    run(base, *flags, "--test_share", 0.2)
    for name, cases in drawn(base).items():
        kinds = Counter(case[0] for case in cases)
        assert kinds["m"] / len(cases) == pytest.approx(0.3, abs=0.11), name
    assert re.search(r"train1\.txt .*7 \S.*, 3 \S", capsys.readouterr().out)


def test_groups_stay_together_and_shares_come_near(base, capsys):
    names = [f"video{i // 7}/frame{i % 7}" for i in range(70)]
    groups = [name.split("/")[0] for name in names]
    strata = ["sea" if int(name[5]) < 5 else "sky" for name in groups]
    for lists in (divisions(names, groups=groups), divisions(names, groups=groups, strata=strata, test_share=0.2)):
        for i in "123":
            sides = [set(name.split("/")[0] for name in lists.get(f"{part}{i}.txt", [])) for part in PARTS]
            assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
            assert len(sides[0] | sides[1] | sides[2]) == 10
            assert len(lists[f"val{i}.txt"]) == 21


def test_groups_are_drawn_by_strata():
    """Twelve videos, half of them at sea: two of each kind in every validation list."""
    groups = [f"{'sea' if i < 36 else 'sky'}{i // 6}" for i in range(72)]
    names = [f"{group}/frame{i}" for i, group in enumerate(groups)]
    for seed in range(3):
        lists = divisions(names, val_share=1 / 3, seed=seed, groups=groups, strata=[group[:3] for group in groups])
        assert all(Counter(name[:3] for name in lists[f"val{i}.txt"]) == {"sea": 12, "sky": 12} for i in "123")


def test_uneven_groups_come_near_the_share():
    """Ten patients with 1 to 40 images: a fixed number of them would be anything from 6 to 100 images."""
    sizes = [1, 1, 2, 2, 4, 5, 10, 15, 20, 40]
    groups = [str(i) for i, size in enumerate(sizes) for _ in range(size)]
    names = [f"{i}" for i in range(100)]
    for seed in range(5):
        kept, held = divide(names, 0.3, seed, groups=groups)
        assert abs(len(held) - 30) <= 3 and not {groups[int(n)] for n in kept} & {groups[int(n)] for n in held}


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ([10] * 4, (0.3, 0.3)),
        ([10] * 4, (0.8, 0)),
        ([3, 3, 10], (0.9, 0)),
        ([10] * 3, (0.4, 0.5)),
        ([1, 1, 10], (0.4, 0.5)),
        ([1, 1], (0.9, 0)),
        ([1, 40, 1], (0.01, 0.97)),
    ],
)
def test_every_list_has_a_group_where_there_are_enough(sizes, shares):
    groups = [f"p{i}" for i, size in enumerate(sizes) for _ in range(size)]
    names = [f"{group}_{i}" for i, group in enumerate(groups)]
    lists = divisions(names, 3, *shares, groups=groups)
    for i in "123":
        sides = [
            {name.split("_")[0] for name in lists[f"{part}{i}.txt"]} for part in PARTS if f"{part}{i}.txt" in lists
        ]
        assert len(sides) == (3 if shares[1] else 2) and all(sides)
        assert sum(map(len, sides)) == len(set().union(*sides)) == len(sizes)


def test_too_few_cases_for_three_lists():
    with pytest.raises(UserError, match="1 cases cannot be divided into lists of 0 and 2"):
        divisions(["a", "b", "c"], val_share=0.4, test_share=0.5)


def test_a_single_group_cannot_be_divided():
    with pytest.raises(UserError, match=r"into 2 lists requires at least 2 groups, got 1: p3$"):
        divisions(["p3_1", "p3_2"], groups=["p3", "p3"])


def test_the_group_is_the_alternative_that_matched(base):
    run(base, "--group", r"^(b\d)|^(m\d)", "--divisions", 1)
    groups = [{case[:2] for case in cases} for cases in drawn(base).values()]
    assert len(groups[0] | groups[1]) == 16 and not groups[0] & groups[1]
    run(base, "--stratify_by", "^(?:(b)|m)", "--divisions", 1, "--overwrite")
    assert {Counter(case[0] for case in cases)["m"] for cases in drawn(base).values()} == {2, 4}


def test_the_table_counts_groups(base, capsys):
    run(base, "--group", r"^[bm]\d", "--divisions", 1)
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["list", "cases", "groups"]
    groups = {case[:2] for case in drawn(base)["train1.txt"]}
    assert first.split()[2] == str(len(groups))


def test_lists_that_are_there_are_kept_unless_asked(base):
    run(base, "--test_share", 0.2)
    before = drawn(base)
    with pytest.raises(UserError, match=r"test1\.txt.*--overwrite"):
        run(base, "--divisions", 1)
    assert drawn(base) == before
    run(base, "--divisions", 2, "--seed", 1, "--overwrite")
    after = drawn(base)
    # test1.txt of the earlier draw would overlap with the new train1.txt
    assert (
        set(after) == {"train1.txt", "train2.txt", "val1.txt", "val2.txt"} and after["val1.txt"] != before["val1.txt"]
    )
    assert {path.name for path in base.iterdir()} == {"images", "masks", *after}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group", "^(b)"], r"--group '\^\(b\)' does not match 6 of 20 names: m0"),
        (["--stratify_by", "x"], "--stratify_by 'x' does not match 20"),
        (["--group", "^[bm]", "--test_share", 0.2], "into 3 lists requires at least 3 groups, got 2: b, m$"),
        (["--group", "^()"], "does not match 20"),
        (["--stratify_by", r"\d+"], "too few for lists"),
        (["--val_share", 0.7, "--test_share", 0.3], "less than 1"),
        (["--val_share", 0], "less than 1"),
        (["--val_share", 0.99], "cannot be divided into lists of 0 and 20"),
    ],
)
def test_what_cannot_be_divided_says_why(base, flags, message):
    with pytest.raises(UserError, match=message):
        run(base, *flags)
    assert not list(base.glob("*.txt"))


def test_faults_of_the_data_are_named_and_cost_no_list(base):
    run(base)
    before = drawn(base)
    (base / "masks" / "b3.png").unlink()
    (base / "masks" / "m1.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r'"b3\.png": no mask'):
        run(base, "--overwrite")
    write(base / "masks" / "b3.png", target(1))
    with pytest.raises(UserError, match=r"m1\.png"):
        run(base, "--overwrite")
    assert drawn(base) == before


REFUSED = {
    "an image outside": (lambda base: link_out(base / "images" / "b3.png"), '"b3": .* is a link to a file outside'),
    "a mask outside": (lambda base: link_out(base / "masks" / "b3.png"), '"b3": mask .* is a link to a file outside'),
    "a name that is a file": (lambda base: write_pair(base, "b3.png"), r'"b3\.png": ambiguous, b3\.png, b3\.png\.png'),
}


def link_out(path):
    outside = path.rename(path.parents[2] / path.name)
    path.symlink_to(outside)


def write_pair(base, name):
    write(base / "images" / f"{name}.png", picture(3))
    write(base / "masks" / f"{name}.png", target(3))


@pytest.mark.parametrize("fault", REFUSED)
def test_what_training_refuses_is_in_no_list(base, fault):
    spoil, message = REFUSED[fault]
    spoil(base)
    with pytest.raises(UserError, match=message):
        run(base)
    assert not drawn(base)


def test_names_with_two_extensions_are_read_back(base):
    write_pair(base, "b14.tif")
    run(base, "--divisions", 1)
    cases = load_lists(base, {"training": "train1.txt", "validation": "val1.txt"})
    assert "b14.tif" in {case.name for of_list in cases.values() for case in of_list}


def test_masks_without_an_image_are_named(base, capsys):
    run(base, "--divisions", 1)
    assert "warning" not in capsys.readouterr().out
    for name in ("b3", "b4"):
        (base / "images" / f"{name}.png").rename(base / "images" / f"{name}.webp")
    run(base, "--divisions", 1, "--overwrite")
    assert "warning: 2 masks have no image (.png .bmp .jpg .jpeg .tif .tiff)" in (shown := capsys.readouterr().out)
    assert ": b3.png, b4.png" in shown


def test_a_missing_folder_and_a_bad_pattern(tmp_path, capsys):
    with pytest.raises(UserError, match="was not found"):
        run(tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        run(tmp_path, "--group", "(")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --group: must be a regular expression, got '('")
    assert line.endswith("(python prepare_data.py split --help lists the flags)")


def test_divisions_that_are_equal_are_reported(base, capsys):
    run(base, "--group", "^[bm]", "--val_share", 0.3)
    assert "2 of the divisions equal another one" in capsys.readouterr().out
