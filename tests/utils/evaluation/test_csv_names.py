"""Names in per_image.csv: no spreadsheet computes them, and every reader gets them back as they were."""

from __future__ import annotations

import csv
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.evaluation.csv_names import escaped, unescaped
from utils.evaluation.read_results import read_evaluation
from utils.evaluation.results import _write_csv

NAMES = ["=1+1", "+a", "-a", "@SUM(A1)", "\ta", "\ra", "'=1", "''=1", "'a", "a=1", "a", "'", "", "é", "-"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back_and_is_no_formula(name):
    assert unescaped(escaped(name)) == name
    assert escaped(name)[:1] not in ("=", "+", "-", "@", "\t", "\r") or not name
    if name[:1] in "=+-@\t\r" and name:
        assert escaped(name) == f"'{name}"


@given(st.text(alphabet="'=+-@\t\rab", max_size=6))
def test_every_name_comes_back(name):
    assert unescaped(escaped(name)) == name


def test_files_of_before_are_read_as_they_were():
    for name in ("=1+1", "-a", "'a", "a'"):
        assert unescaped(name) == name


def test_an_evaluation_is_read_with_the_names_that_it_was_written_with(tmp_path):
    names = [*filter(None, NAMES), os.fsdecode(b"caf\xe9")]
    _write_csv(tmp_path / "per_image.csv", ["name", "iou"], ([escaped(name), 0.5] for name in names))
    (tmp_path / "summary.json").write_text(json.dumps({}), encoding="utf-8")
    assert read_evaluation(tmp_path).names == names
    with (tmp_path / "per_image.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["name"] for row in csv.DictReader(file)][:2] == ["'=1+1", "'+a"]
