"""The tables of an experiment, recomputed from its lines by other means, cell by cell."""

from __future__ import annotations

import csv
import io
import random
import re
import statistics
import sys

import numpy as np
import pytest
from scipy import stats
from synthetic_experiment import write_experiment

from utils.evaluation.intervals import bootstrap
from utils.evaluation.paired_tests import holm
from utils.reproduction.code_table import code_table
from utils.reproduction.experiment_summary import summarise
from utils.reproduction.experiment_table import remarks, tabulate
from utils.reproduction.field_table import field_table
from utils.reproduction.per_image_files import read_per_image, write_per_image
from utils.reproduction.run_statistics import spread
from utils.reproduction.table_cells import count, images_needed, shown, verdict

ARMS = {"none": 0.0, "static": 0.2, "dpconv": 3.0}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def lines(results):
    return write_experiment(results, "trial", ARMS)


@pytest.fixture(scope="module")
def page(results, lines):
    return tabulate("trial", lines, results, plots=False)


def tables(page):
    """Each Markdown table of a page: its rows, by heading."""
    found = []
    for block in page.split("\n\n"):
        if block.startswith("| "):
            head, _, *rows = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.split("\n"))
            found.append((head, rows))
    return found


def values(lines, arm, rule, figure="iou"):
    return {
        (line["division"], line["seed"]): 100 * line["figures"]["val"][rule][figure]
        for line in lines
        if line["arm"] == arm
    }


def test_the_devices_of_runs_that_were_resumed_elsewhere(results, lines):
    part = {"epochs": 1, "device": "a GPU", "torch": "1.0", "commit": "b" * 40}
    first = lines[0] | {"machine": lines[0]["machine"] | {"earlier": [part]}}
    (said,) = remarks(summarise("trial", [first, *lines[1:]], results))
    assert "- device: a GPU, cpu." in said and "- torch: 1.0, " in said and f"{'b' * 10}" in said


def over_divisions(of_runs):
    """SciPy's 95 % interval over the means of the three divisions, as the tables show it."""
    means = [statistics.fmean(of_runs[division, seed] for seed in (41, 42)) for division in (1, 2, 3)]
    return means, stats.ttest_1samp(means, 0).confidence_interval(0.95)


def test_every_mean_deviation_and_interval_of_the_runs(lines, page):
    _, (head, rows), *_ = tables(page)
    assert head[:4] == ["arm", "n", "best epoch: IoU", "95 % (t)"] and [row[:2] for row in rows] == [
        [arm, "3 x 2"] for arm in ARMS
    ]
    for arm, _, *cells in rows:
        for rule, (mean, interval, _) in zip(("best", "last"), (cells[:3], cells[3:]), strict=True):
            of_runs = values(lines, arm, rule)
            means, ends = over_divisions(of_runs)
            within = statistics.fmean(statistics.variance([of_runs[d, 41], of_runs[d, 42]]) for d in (1, 2, 3))
            between = max(0.0, statistics.variance(means) - within / 2)
            assert mean == (
                f"{statistics.fmean(means):.2f} ± {statistics.stdev(of_runs.values()):.2f} "
                f"({between**0.5:.2f}, {within**0.5:.2f})"
            )
            assert interval == f"[{ends.low:.2f}, {ends.high:.2f}]"


def test_every_paired_difference(lines, page):
    (head, rows) = tables(page)[2]
    assert head[2:7] == ["best epoch: difference", "95 % (t)", "95 % (images)", "p", "images needed"]
    ps = {}
    for arm, n, *cells in rows:
        assert n == "3 x 2"
        for rule, (mean, interval, *_) in zip(("best", "last"), (cells[:5], cells[5:]), strict=True):
            first, other = values(lines, "none", rule), values(lines, arm, rule)
            of_runs = {run: other[run] - first[run] for run in first}
            means, ends = over_divisions(of_runs)
            assert mean.startswith(f"{statistics.fmean(means):+.2f} ± {statistics.stdev(of_runs.values()):.2f} (")
            assert interval == f"[{ends.low:+.2f}, {ends.high:+.2f}]"
            ps[rule, arm] = stats.wilcoxon(list(of_runs.values()), method="exact").pvalue
    for column, rule in ((5, "best"), (10, "last")):
        shown = [row[column] for row in rows]
        assert shown == [f"{p:.3f}" for p in holm([ps[rule, arm] for arm in ("static", "dpconv")])]


def test_every_division_s_difference_over_its_images(results, lines, page):
    (head, rows) = tables(page)[3]
    assert head[:4] == ["arm", "division", "images", "seeds"] and len(rows) == 6
    files = {
        (line["arm"], line["division"], line["seed"]): read_per_image(results / line["per_image"]) for line in lines
    }
    for arm, division, images, seeds, *cells in rows:
        for rule, (mean, interval, _) in zip(("best", "last"), (cells[:3], cells[3:]), strict=True):
            ious = [
                np.mean([files[of, int(division), seed]["val", rule].columns["iou"] for seed in (41, 42)], axis=0)
                for of in ("none", arm)
            ]
            between = ious[1] - ious[0]
            order = np.argsort(files[arm, int(division), 41]["val", rule].names)  # the draws are of sorted names
            low, high = bootstrap({"": (between[order], np.ones(len(between)))})[""]
            assert (images, seeds, mean) == ("30", "2", f"{100 * between.mean():+.2f}")
            assert interval == f"[{100 * low:+.2f}, {100 * high:+.2f}]"


def test_the_csv_has_every_figure_unrounded_and_without_the_machine(results, lines, page):
    rows = list(csv.DictReader(io.StringIO((results / "trial.csv").read_text())))
    assert len(rows) == 8 * 3 * 2
    for row in rows:
        of_runs = values(lines, row["arm"], row["epoch_rule"], row["figure"])
        assert 100 * float(row["mean"]) == pytest.approx(statistics.fmean(of_runs.values()), rel=1e-9)
    text = (results / "trial.csv").read_bytes()
    shuffled = random.Random(0).sample(
        [line | {"seconds": {"recon": 9, "seg": 9, "evaluation": 9}} for line in lines], len(lines)
    )
    order = [(line["arm"], line["division"], line["seed"]) for line in lines]
    tabulate("trial", shuffled, results, order, plots=False)
    assert (results / "trial.csv").read_bytes() == text


def test_what_a_reader_concludes(page):
    said = [line for line in page.split("\n") if line.startswith("- `")]
    assert len(said) == 4
    for line in said:
        assert ("): no difference was found." in line) == ("[-" in line) != ("): higher." in line)
        assert "(over the divisions [" in line and ", over the images [" in line
    assert "static" in said[0] and "no difference was found" in said[0] and "higher" in said[3]


def test_a_difference_is_found_only_if_neither_interval_contains_zero():
    narrow, wide = spread({(1, 41): 0.010, (2, 41): 0.011}), spread({(1, 41): 0.01, (2, 41): 0.05})
    assert verdict(narrow, [0.002, 0.02]).endswith(": higher") and verdict(narrow).endswith(": higher")
    for difference, images in ((narrow, [-0.002, 0.02]), (wide, [0.002, 0.02]), (wide, None)):
        assert verdict(difference, images).endswith(": no difference was found")
    lower = spread({(1, 41): -0.010, (2, 41): -0.011})
    assert verdict(lower, [-0.02, -0.001]).endswith("over the images [-2.00, -0.10]): lower")


def test_numbers_without_a_meaning_are_not_printed():
    assert (shown(-0.00001, "iou", "+"), shown(0.00001, "iou", "+"), shown(0.0001, "iou", "+")) == (
        "0.00",
        "0.00",
        "+0.01",
    )
    assert [images_needed(of) for of in (None, 2283, 712876874)] == ["–", "2,283", "over 1,000,000"]


def test_runs_that_are_missing_are_named_and_the_others_tabulated(results, lines):
    some = [line for line in lines if (line["arm"], line["division"], line["seed"]) != ("static", 2, 42)]
    planned = [(arm, division, seed) for arm in (*ARMS, "gate") for division in (1, 2, 3) for seed in (41, 42)]
    text = tabulate("trial", some, results, planned, plots=False)
    assert "7 of 24 runs are missing (division/seed): static 2/42; gate 1/41, 1/42, 2/41, 2/42, 3/41, 3/42." in text
    _, (_, rows), (_, differences), *_ = tables(text)
    assert {row[0]: row[1] for row in rows} == {"none": "3 x 2", "static": "5 runs", "dpconv": "3 x 2"}
    assert [row[0] for row in differences] == ["static", "dpconv"] and "`gate` against" not in text
    assert text.count("|\n\nNot run yet: gate.\n") == 4  # costs, IoU, differences, every figure
    assert "different divisions" not in text
    one = tabulate("trial", [line for line in lines if line["arm"] != "static" or line["division"] == 2], results)
    assert (
        one.count("different divisions (none 1, 2, 3; static 2; dpconv 1, 2, 3), so the rows are not comparable") == 2
    )
    assert "Not run yet" not in tabulate("trial", lines, results, plots=False)


def test_without_a_run_of_the_first_arm_nothing_is_compared(results, lines):
    rest = [line for line in lines if line["arm"] == "dpconv"]
    planned = [(arm, division, seed) for arm in ("none", "dpconv") for division in (1, 2, 3) for seed in (41, 42)]
    text = tabulate("trial", rest, results, planned, plots=False)
    assert "seed:\n\nNot run yet: none.\n\n- `dpconv` against `none`, best epoch: no pair of runs to compare." in text
    assert "best epoch: difference" not in text and "images of each division" not in text


def test_the_number_of_seeds_is_shown_where_it_is_one():
    of_seeds = {(1, 41): 0.5, (2, 41): 0.5, (2, 42): 0.5, (2, 43): 0.5}
    assert count(spread(of_seeds)) == "4 runs", "one and three seeds are not twice two"
    assert count(spread({**of_seeds, (1, 42): 0.5, (1, 43): 0.5})) == "2 x 3" and count(None) == "0"


def test_one_run_and_no_run(tmp_path):
    lines = write_experiment(tmp_path, "one", {"none": 0, "dpconv": 1}, divisions=1, seeds=(41,))
    text = tabulate("one", lines, tmp_path, plots=False)
    _, (_, (none, _)), *_ = tables(text)
    assert none[1] == "1 x 1" and "±" not in none[2] and none[3] == "–" and none[4].startswith("[")
    assert re.search(r"points in one pair of runs \(over the images \[.*\]\); other runs may differ\.", text)
    assert verdict(spread({(1, 41): 0.01}), [-0.01, 0.03]).endswith("[-1.00, +3.00]): no difference was found")
    alone = tabulate("one", [line for line in lines if line["arm"] == "none"], tmp_path, plots=False)
    assert "against" not in alone
    assert "No run is finished." in tabulate("one", [], tmp_path, [("none", 1, 41)], plots=False)


def card(line, **changed):
    return {"protocol": {"val": {rule: {**of, **changed} for rule, of in line["protocol"]["val"].items()}}}


def test_unlike_protocols_are_named_and_other_pixels_are_not_paired(results, lines):
    def page_with(**changed):
        mixed = [line | (card(line, **changed) if line["arm"] == "dpconv" else {}) for line in lines]
        return tabulate("trial", mixed, results, plots=False)

    assert "the protocols differ: normalization: none and static imagenet, dpconv authors." in (
        text := page_with(normalization="authors")
    )
    assert "`dpconv` against `none`, best epoch: no pair" not in text
    text = page_with(size="256x256 pixels, masks by exact")
    assert "the protocols differ: size: none and static 128x128" in text
    assert "`dpconv` against `none`, best epoch: no pair of runs to compare." in text
    text = page_with(training_list={"cases": 9, "sha256": "9" * 64, "known": None})
    assert "the protocols differ: division 2, training list: none and static" in text
    assert "differ" not in tabulate("trial", lines, results, plots=False).partition("## Arms")[0]


def test_settings_that_arms_differ_in_and_runs_that_do_not_fit(tmp_path):
    def settings(arm, division, seed):
        seg = {"variant": "srs_tiny", "dynamic": arm, "epochs": 40 if (arm, seed) != ("none", 42) else 80, "seed": seed}
        return {"recon": None if arm == "none" else {"epochs": 20}, "seg": {**seg, "workers": division}}

    lines = write_experiment(tmp_path, "set", {"none": 0, "dpconv": 1}, divisions=1, settings=settings)
    text = tabulate("set", lines, tmp_path, plots=False)
    assert "- the runs of none differ in epochs of phase 2: 40, 80." in text
    assert "Phase 1: epochs 20. Phase 2: variant srs_tiny, epochs 40." in text
    assert tables(text)[0] == (["arm", "dynamic (phase 2)"], [["none", "none"], ["dpconv", "dpconv"]])


def test_a_test_list_has_a_section_of_its_own(tmp_path):
    lines = write_experiment(tmp_path, "three", {"none": 0, "dpconv": 1}, divisions=1, lists=("val", "test"))
    text = tabulate("three", lines, tmp_path, plots=False)
    assert text.index("## On val") < text.index("## On test")
    assert summarise("three", lines, tmp_path).lists == ["val", "test"]


def test_other_codes(tmp_path):
    def code(arm, division, seed):
        figures = {"n": 30, "own": 0.7, "swap": 0.7 - 0.01 * division, "difference": -0.01 * division}
        more = {"low": -0.05, "high": 0.01, "p": 0.3, "higher": 10, "lower": 20}
        change = {"mean": 0.02 * division, "largest": 0.5}
        test = {"list": "val", "figures": {"iou": figures | more}, "kernel_change": change}
        return {"swap": test} if arm == "dpconv" else None

    lines = write_experiment(tmp_path, "code", {"none": 0, "dpconv": 1}, seeds=(41,), code=code)
    (_, (row,)), (head, each) = tables(code_table(summarise("code", lines, tmp_path).runs))
    assert head[6:] == ["95 % (images, BCa)", "p, uncorrected"] and each[0][7] == "0.300"
    largest = max(abs(70 - value) for value in values(lines, "dpconv", "best").values())
    assert code_table(summarise("code", lines, tmp_path).runs).count(f"here by up to {largest:.2f} points.") == 1
    ends = stats.ttest_1samp([-1.0, -2.0, -3.0], 0).confidence_interval(0.95)
    assert row[:3] == ["dpconv", "another image's code", "3 x 1"]
    assert row[5:] == ["-2.00 ± 1.00", f"[{ends.low:+.2f}, {ends.high:+.2f}]", "4.00 ± 2.00 %"]
    assert [line[2:6] for line in each] == [[f"{d}", "41", "30", f"-{d}.00"] for d in (1, 2, 3)]
    text = tabulate("code", lines, tmp_path, plots=False)
    assert "with another image's code: -2.00 points (over the divisions [" in text.partition("## Another code")[2]
    assert "no difference was found; the interval over the images contains 0 in 3 of 3 runs." in text
    assert code_table({"none": {}}) == ""


def test_the_field_s_table_keeps_theirs_and_ours_apart(tmp_path):
    lines = write_experiment(tmp_path, "field", {"srs_tiny": 0}, seeds=(41,))
    text = field_table(summarise("field", lines, tmp_path))
    (_, published), (head, ours) = tables(text)
    by_name = {row[0]: row for row in published}
    half = stats.t.ppf(0.975, 2) * 2.86 / 3**0.5
    ends = f"[{68.61 - half:.2f}, {68.61 + half:.2f}]"
    assert by_name["U-Net"] == ["U-Net", "34.52", "65.52", "68.61 ± 2.86", ends, "76.97 ± 3.10", "6.0"]
    assert [row[5] for row in ours] == ["batches of 8", "single images"] and "srs_tiny" not in by_name
    for row, figure, f1 in zip(ours, ("benchmark_iou", "iou"), ("benchmark_F1", "F1"), strict=True):
        best, last, best_f1 = (
            values(lines, "srs_tiny", rule, name).values()
            for rule, name in (("best", figure), ("last", figure), ("best", f1))
        )
        assert row[1] == "0.87" and row[3:5] == ["10", "3 x 1"] and len(row) == len(head)
        assert row[6] == f"{statistics.fmean(best):.2f} ± {statistics.stdev(best):.2f}"
        assert row[10].startswith(f"{statistics.fmean(last):.2f} ± ")
        f1 = statistics.fmean(best_f1) / 100
        assert row[9] == f"{statistics.fmean(best) - 100 * f1 / (2 - f1):.1f}"
    assert "normalization imagenet, not authors" in text and "10 epochs, not 300" in text
    assert "Not alike: 10 epochs" in text
    one = [line for line in lines if line["division"] == 1]
    assert "Not alike: 1 of the 3 divisions; 10 epochs" in field_table(summarise("field", one, tmp_path))
    assert "at or above the published mean of no network" in text and "an excess of 4.6 to 6.1 points" in text
    assert field_table(summarise("field", [], tmp_path)).count("| U-Net ") == 1


def test_the_excess_tells_how_figures_were_counted(tmp_path):
    """Pooled over one batch the excess is 0; the mean over images of unlike quality has one."""

    def counted_like(**figures):
        lines = write_experiment(tmp_path, "field", {"srs_tiny": 0}, divisions=1, seeds=(41,))
        tables = read_per_image(path := tmp_path / lines[0]["per_image"])
        for images in tables.values():
            images.columns.update({name: [value] * len(images.names) for name, value in figures.items()})
        write_per_image(path, tables)
        for rule in ("best", "last"):
            lines[0]["figures"]["val"][rule] |= {"benchmark_iou": 0.6, "benchmark_F1": 0.75, **figures}
        return field_table(summarise("field", lines, tmp_path))

    said = "over batches of 8 0.0, over single images 5.0. So the published figures look like means over single images."
    assert said in counted_like(iou=0.65, F1=0.75)
    assert "look like means over batches of 8." in counted_like(iou=0.9, F1=0.75)


def test_without_matplotlib_one_line_says_what_to_install(results, lines, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    tabulate("trial", lines, results)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no plots: ") and line.endswith("pip install -r requirements-plots.txt")
    assert (results / "trial.md").is_file()
