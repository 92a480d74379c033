"""Groups of an experiment's images, recomputed from the per-image files by other means."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_experiment import write_experiment

from utils.reproduction.experiment_summary import summarise
from utils.reproduction.image_groups import by_kind, group_table
from utils.reproduction.per_image_files import read_per_image, write_per_image


def rows(table):
    _, _, table = table.partition("\n\n")
    head, _, *found = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.split("\n"))
    return head, found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def lines(results):
    """Images of one kind have an even number, those of the other an odd one."""
    lines = write_experiment(results, "kinds", {"none": 0.0, "dpconv": 3.0})
    for line in lines:
        tables = read_per_image(path := results / line["per_image"])
        for images in tables.values():
            images.names[:] = [f"{('benign', 'malignant')[int(name[7:-1]) % 2]} {name[6:]}" for name in images.names]
        write_per_image(path, tables)
    return lines


def test_the_iou_of_small_and_large_targets_and_of_each_kind(results, lines):
    table = group_table(summarise("kinds", lines, results), "val")
    files = [(line, read_per_image(results / line["per_image"])["val", "best"]) for line in lines]
    shares = {name: s for _, of in files for name, s in zip(of.names, of.columns["target_share"], strict=True)}
    order = sorted(shares, key=lambda name: (shares[name], name))
    first, second = -(-len(order) // 3), -(-2 * len(order) // 3)
    groups = [set(order[:first]), set(order[first:second]), set(order[second:])]
    ends = [f"{100 * shares[name]:.1f}" for name in (order[0], order[first - 1], order[second], order[-1])]
    assert f"small {ends[0]} to {ends[1]} %, medium " in table and f", large {ends[2]} to {ends[3]} %." in table
    head, found = rows(table)
    groups += [{name for name in shares if name.startswith(kind)} for kind in ("benign", "malignant")]
    titles = ("small", "medium", "large", "benign", "malignant")
    assert head == ["arm", "n", *(f"{title} ({len(of)})" for title, of in zip(titles, groups, strict=True))]
    assert [row[:2] for row in found] == [["none", "3 x 2"], ["dpconv", "3 x 2"]]
    for arm, _, *cells in found:
        for group, cell in zip(groups, cells, strict=True):
            means = [
                np.mean([iou for name, iou in zip(of.names, of.columns["iou"], strict=True) if name in group])
                for line, of in files
                if line["arm"] == arm
            ]
            mean, low, high = (float(number.strip("[,]")) for number in cell.split())
            assert mean == pytest.approx(100 * np.mean(means), abs=0.0051) and low < mean < high


def test_names_that_tell_no_kind_give_only_sizes(results, lines, tmp_path):
    assert by_kind({f"image ({i})" for i in range(40)}) == {}
    assert by_kind({f"{i}" for i in range(40)} | {f"benign {i}" for i in range(40)}) == {}
    assert by_kind({f"benign {i}" for i in range(40)} | {f"malignant {i}" for i in range(3)}) == {}
    plain = write_experiment(tmp_path, "plain", {"none": 0.0}, divisions=1)
    assert rows(group_table(summarise("plain", plain, tmp_path), "val"))[0] == [
        "arm", "n", "small (10)", "medium (10)", "large (10)",
    ]  # fmt: skip
    few = write_experiment(tmp_path, "few", {"none": 0.0}, divisions=1, images=20)
    assert group_table(summarise("few", few, tmp_path), "val") == ""
