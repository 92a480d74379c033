"""Runs side by side: which folders, which images, which figures, and what the tests say of them."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import evaluation
from utils.common.errors import UserError
from utils.evaluation.paired_tests import align, compare_figures, holm, remarks
from utils.evaluation.read_results import read_evaluation
from utils.report.compare import find_evaluation, labels

NAMES = [f"image{i}" for i in range(12)]


def write_run(folder, ious, names=NAMES, summary=None, **columns):
    """An evaluation as evaluation.py leaves one, its rows from the lowest IoU to the highest."""
    folder.mkdir(parents=True)
    rows = sorted(zip(ious, names, *columns.values(), strict=True))
    with (folder / "per_image.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "iou", *columns])
        writer.writerows([name, iou, *rest] for iou, name, *rest in rows)
    (folder / "summary.json").write_text(json.dumps(summary or {"settings": {"img_size": 64}}))
    return folder


@pytest.fixture
def ious():
    rng = np.random.default_rng(1)
    first = rng.uniform(0.3, 0.8, len(NAMES))
    return first, first + rng.normal(0.03, 0.04, len(NAMES))


def compare(*argv):
    return evaluation.main(evaluation.settings(["--compare", *map(str, argv)]))


def test_differences_are_of_the_same_image(ious, tmp_path, capsys):
    a, b = (write_run(tmp_path / name, values.tolist()) for name, values in zip("ab", ious, strict=True))
    (row,) = compare(a, b)
    differences = ious[1] - ious[0]
    assert (row.column, row.run, row.n) == ("iou", "b", 12)
    assert row.difference == pytest.approx(differences.mean())
    assert row.means == pytest.approx((ious[0].mean(), ious[1].mean()))
    assert (row.higher, row.lower) == ((differences > 0).sum(), (differences < 0).sum())
    # All 2**12 signs of the ranks: the exact test, written out.
    ranks = stats.rankdata(np.abs(differences))
    sums = np.array([np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=12)])
    observed = ranks[differences > 0].sum()
    expected = 2 * min((sums >= observed).mean(), (sums <= observed).mean())
    assert row.p == pytest.approx(min(1, expected))
    margin = stats.t.ppf(0.975, 11) * stats.sem(differences)
    assert row.low == pytest.approx(row.difference - margin, abs=0.4 * margin)
    assert row.high == pytest.approx(row.difference + margin, abs=0.4 * margin)
    # Of the bootstrap's own means, these differences being nearly symmetric: 95 % of them are inside.
    means = np.random.default_rng(1).choice(differences, (20_000, 12)).mean(1)
    assert ((means > row.low) & (means < row.high)).mean() == pytest.approx(0.95, abs=0.015)
    printed = capsys.readouterr().out
    assert f"{100 * row.difference:+.2f}" in printed and f"{row.p:.3f}" in printed and "first: a; second: b" in printed


def test_equal_runs_have_no_difference(ious, tmp_path):
    a, b = (write_run(tmp_path / name, ious[0].tolist()) for name in "ab")
    (row,) = compare(a, b)
    assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1)


def test_a_single_image_has_no_interval(tmp_path, capsys):
    a, b = (write_run(tmp_path / name, [iou], names=["only"]) for name, iou in (("a", 0.5), ("b", 0.6)))
    (row,) = compare(a, b)
    assert row.p == 1 and np.isnan([row.low, row.high]).all()
    assert "– .. –" in capsys.readouterr().out


def test_columns_of_any_name_are_compared_where_both_have_a_value(ious, tmp_path):
    gaps = ["", *range(11)], [5.0, "", *(i + 2 for i in range(1, 11))]
    a, b = (
        write_run(tmp_path / name, values.tolist(), HD95=gap, TP=[1] * 12, remark=["x"] * 12)
        for name, values, gap in zip("ab", ious, gaps, strict=True)
    )
    rows = {row.column: row for row in compare(a, b)}
    assert rows.keys() == {"iou", "HD95"}
    assert (rows["HD95"].n, rows["HD95"].difference) == (10, 2)


def test_other_images_are_refused(ious, tmp_path):
    a = write_run(tmp_path / "a", ious[0].tolist())
    b = write_run(tmp_path / "b", ious[1].tolist(), names=[*NAMES[1:], "another"])
    with pytest.raises(UserError, match=r"image0 only in a; another only in b.*--val_file_dir"):
        compare(a, b)


def test_a_code_test_is_refused_since_its_table_is_of_the_images_own_codes(ious, tmp_path):
    a, b = (write_run(tmp_path / name, values.tolist()) for name, values in zip("ab", ious, strict=True))
    (b / "summary.json").write_text(json.dumps({"settings": {"img_size": 64}, "code": {"given": "swap"}}))
    for folders in ((a, b), (b, a)):
        with pytest.raises(UserError, match=r"b contains a test of --code, .*evaluate it without --code"):
            compare(*folders)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]


def test_several_runs_are_compared_with_the_first_and_corrected(ious, tmp_path, capsys):
    folders = [write_run(tmp_path / name, (ious[i > 0]).tolist()) for i, name in enumerate("abc")]
    alone = compare(*folders[:2])[0]
    rows = compare(*folders)
    assert [row.run for row in rows] == ["b", "c"]
    assert rows[0].p == pytest.approx(min(1, 2 * alone.p))
    assert "Holm" in capsys.readouterr().out


def test_what_makes_a_comparison_doubtful_is_said(ious, tmp_path):
    sizes = {"TP": [1] * 12, "FN": [3] * 12}
    a = read_evaluation(write_run(tmp_path / "a", ious[0].tolist(), **sizes))
    other = read_evaluation(write_run(tmp_path / "b", ious[1].tolist(), **{**sizes, "FN": [3] * 10 + [4] * 2}))
    assert remarks(align([a, replace(a, label="a too")])) == []
    assert "2 images have targets of another size in b" in remarks(align([a, other]))[0]
    scaled = read_evaluation(
        write_run(tmp_path / "c", ious[1].tolist(), summary={"settings": {"img_size": 32}}, **sizes)
    )
    assert "a at 64, c at 32" in remarks(align([a, scaled]))[0]
    at_own = [
        read_evaluation(write_run(tmp_path / name, ious[1].tolist(), summary={"settings": of}, **sizes))
        for name, of in (("d", {"img_size": 32, "resize": "back"}), ("e", {"img_size": 64, "resize": "keep"}))
    ]
    assert remarks(align(at_own)) == [], "both are compared at the images' own size"
    assert "a at 64, d at the images' own size" in remarks(align([a, at_own[0]]))[0]


def test_differences_that_differ_by_rounding_have_an_interval(tmp_path):
    runs = [
        read_evaluation(write_run(tmp_path / name, values))
        for name, values in (("a", [0.5] * 12), ("b", [0.75] * 11 + [0.75 + 2e-16]))
    ]
    found = next(row for row in compare_figures(align(runs)) if row.column == "iou")
    assert found.low == found.high == pytest.approx(0.25)


def test_an_experiment_stands_for_its_only_evaluation(ious, tmp_path):
    best = write_run(tmp_path / "x" / "evaluation" / "best-val", ious[0].tolist())
    assert find_evaluation(tmp_path / "x") == find_evaluation(best) == best
    (write_run(tmp_path / "x" / "evaluation" / "best-val-swap", ious[0].tolist()) / "per_image-own.csv").touch()
    assert find_evaluation(tmp_path / "x") == best, "a code test cannot be compared"
    write_run(tmp_path / "x" / "evaluation" / "last-val", ious[0].tolist())
    with pytest.raises(UserError, match=r"2 evaluations; choose one of them: .*best-val, .*last-val"):
        find_evaluation(tmp_path / "x")
    with pytest.raises(UserError, match="run evaluation"):
        find_evaluation(tmp_path)


def test_labels_are_what_differs(tmp_path):
    folders = [tmp_path / name / "evaluation" / "best-val" for name in ("one", "two")]
    assert labels(folders) == ["one", "two"]
    assert labels([folders[0], folders[0].parent / "last-val"]) == ["best-val", "last-val"]
    assert labels([tmp_path / "a", tmp_path / "a" / "a"]) == [str(tmp_path / "a"), str(tmp_path / "a" / "a")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--compare", "a"], "two runs"),
        (["--compare", "a", "b", "--weights", "w.pth"], "omit --weights"),
        (["--compare", "nowhere", "b"], "nowhere was not found"),
    ],
)
def test_what_a_comparison_does_not_take(argv, message):
    with pytest.raises(UserError, match=message):
        evaluation.main(evaluation.settings(argv))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "no readable evaluation"),
        ("name,iou\n", "not a table"),
        ("iou,name\n0.5,a\n", "not a table"),
        ("name,iou\na,0.5,1\n", "not a table"),
        ("name,iou\na,0.5\na,0.6\n", "twice"),
        ("name,iou\na,good\n", "not a number"),
        ("name,iou\na,nan\n", "not a number"),
    ],
)
def test_damaged_evaluations_say_so(table, message, tmp_path):
    (tmp_path / "per_image.csv").write_text(table)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        read_evaluation(tmp_path)


def test_figures_that_no_image_has_in_both_runs_are_left_out(ious, tmp_path):
    a, b = (
        read_evaluation(write_run(tmp_path / name, values.tolist(), HD95=[""] * 12))
        for name, values in zip("ab", ious, strict=True)
    )
    assert [row.column for row in compare_figures(align([a, b]))] == ["iou"]
