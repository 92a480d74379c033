"""The schema of docs/results, and files of it that processes share."""

from __future__ import annotations

import gzip
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from result_line import result_line
from synthetic_experiment import write_experiment

from utils.common.errors import UserError
from utils.reproduction.per_image_files import (
    SHARE,
    Images,
    images_of,
    in_list_order,
    read_per_image,
    write_per_image,
)
from utils.reproduction.result_lines import append, check, read, run_of

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "results_schema.md").read_text(encoding="utf-8")


def code_test(given, **more):
    """A code test with what the tables need, and something else."""
    iou = {"n": 3, "own": 0.5, given: 0.4, "difference": -0.1, "low": None, "high": None, "p": 1.0, "higher": 0}
    return {"list": "val", "given": given, "figures": {"iou": iou, "hd95": None}, **more}


def test_lines_are_read_as_they_were_appended_and_a_run_stands_once(tmp_path):
    path = tmp_path / "results" / "trial.jsonl"
    assert read(path) == []
    codes = {"swap": code_test("swap"), "zero": code_test("zero", kernel_change={"mean": 0.1, "largest": 0.2})}
    settings = {"recon": None, "seg": {}, "evaluation": {"resize": "back"}}
    earlier = [{"epochs": 1, "device": "a GPU", "torch": "2.11.0", "commit": None}]
    machine = {"device": "cpu", "platform": "Linux", "threads": 1, "processes": 1, "earlier": earlier}
    lines = [result_line(seed=41, code=codes), result_line(seed=42, test=True, machine=machine)]
    lines.append(result_line("none", settings=settings))
    for line in lines:
        append(path, line)
    assert read(path) == lines
    again = result_line(seed=42, epochs={"best": 2, "last": 2})
    append(path, again)
    assert read(path) == [lines[0], again, lines[2]]
    assert [file.name for file in path.parent.iterdir()] == ["trial.jsonl"]


def test_lines_that_are_appended_at_once_all_arrive(tmp_path):
    path = tmp_path / "trial.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: append(path, result_line(division=i % 6 + 1)), range(12)))
    assert sorted(run_of(line)[1] for line in read(path)) == [1, 2, 3, 4, 5, 6]


def test_a_broken_last_line_is_left_out_and_the_next_append_removes_it(tmp_path, capsys):
    path = tmp_path / "trial.jsonl"
    append(path, result_line())
    path.write_text(path.read_text() + json.dumps(result_line("none"))[:500])
    assert read(path) == [result_line()]
    assert "trial.jsonl: the last line is broken" in capsys.readouterr().out
    append(path, result_line("static"))
    assert [line["arm"] for line in read(path)] == ["dpconv", "static"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"schema": 2}, "schema must be 1, found 2"),
        ({"seed": "41"}, "seed must be an integer of at least 0, found '41'"),
        ({"seed": True}, "seed must be an integer"),
        ({"arm": "a/b"}, "arm must be a name of letters"),
        ({"encoder": "abc"}, "encoder must be a SHA-256"),
        ({"colour": 1}, "colour is unknown; the keys are schema, experiment"),
        ({"epochs": {"best": 1}}, r"epochs\.last is missing"),
        ({"settings": {"recon": None, "seg": None}}, r"settings\.seg must be an object, found None"),
        ({"figures": {"test": {}}}, r"figures\.val is missing"),
        ({"figures": {"val": {"best": {}, "last": {}}}}, r"figures\.val\.best\.images is missing"),
        (
            {"curve": {"epoch": [1], "train_loss": [1], "val_loss": [1], "val_iou": [1, 2]}},
            r"curve\.val_iou must have as",
        ),
        ({"seconds": {"recon": None, "seg": math.nan, "evaluation": 0}}, r"seconds\.seg must be a finite number"),
        ({"per_image": "../secret"}, r"per_image must be trial/dpconv-division1-seed41\.csv\.gz"),
        ({"protocol": {"val": {"best": {}, "last": []}}}, r"protocol\.val\.last must be an object"),
        ({"settings": {"recon": None, "seg": {}, "evaluation": None}}, r"settings\.evaluation must be an object"),
        (
            {"settings": {"recon": None, "seg": {}, "test": {}}},
            r"settings\.test is unknown; the keys are recon, seg, ev",
        ),
        ({"code": {"swap": {}}}, r"code\.swap\.list is missing"),
        ({"code": {"own": {}}}, r"code\.own is unknown; the keys are swap, mean, zero"),
        ({"code": {"swap": {"list": "val", "figures": {}}}}, r"code\.swap\.figures\.iou is missing"),
        ({"code": {"zero": code_test("swap")}}, r"code\.zero\.figures\.iou\.zero is missing"),
        ({"code": {"zero": code_test("zero", kernel_change={})}}, r"code\.zero\.kernel_change\.mean is missing"),
    ],
)
def test_another_line_is_refused(tmp_path, other, message):
    with pytest.raises(ValueError, match=message):
        check(result_line(**other))
    path = tmp_path / "trial.jsonl"
    with pytest.raises(UserError, match=rf"trial\.jsonl: .*{message}"):
        append(path, result_line(**other))
    if "NaN" not in (text := json.dumps(result_line(**other))):
        path.write_text(f"{json.dumps(result_line('none'))}\n{text}\n")
        with pytest.raises(UserError, match=rf"trial\.jsonl, line 2: {message}"):
            read(path)


def test_what_is_no_line_at_all_is_refused_with_its_number(tmp_path):
    path, good = tmp_path / "trial.jsonl", json.dumps(result_line())
    for text, message in (
        (f"{good}\n{good}\n", "line 2: the run of arm dpconv, division 1, seed 41 is already in line 1"),
        (f"{good[:-20]}\n{good}\n", "line 1: not JSON"),
        ("[1]\n", "line 1: a line must be an object"),
        (good.replace("12.5", "NaN") + "\n\n", "line 1: not JSON.*an undefined figure is null"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read(path)


def test_per_image_figures_come_back_and_equal_ones_are_equal_files(tmp_path):
    ranked = Images(["b", "=a"], {"iou": [0.25, 1 / 3], "hd95": [math.nan, 2.0], "TP": [1.0, 3.0], "FP": [0.0, 1.0]})
    ranked.columns.update(FN=[1.0, 0.0], TN=[6.0, 4.0], target_pixels=[2.0, 3.0])
    images = in_list_order(ranked, ["=a", "b"])
    assert images.names == ["=a", "b"] and images.columns["target_share"] == [3 / 8, 2 / 8]
    paths = [tmp_path / "one" / "run.csv.gz", tmp_path / "other.csv.gz"]
    for path in paths:
        write_per_image(path, {("val", "best"): images, ("test", "last"): in_list_order(ranked, ["b"])})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    tables = read_per_image(paths[0])
    assert list(tables) == [("val", "best"), ("test", "last")] and tables["val", "best"].names == ["=a", "b"]
    assert tables["val", "best"].columns["iou"] == pytest.approx([1 / 3, 0.25], rel=1e-9)
    assert math.isnan(tables["val", "best"].columns["hd95"][1])


def test_a_file_that_holds_no_per_image_figures_is_refused(tmp_path):
    path = tmp_path / "run.csv.gz"
    for content in (
        b"",
        b"list",
        gzip.compress(b"name,iou\na,1\n"),
        gzip.compress(b"list,epoch_rule,image,iou\nval,best,a\n"),
        gzip.compress(b"list,epoch_rule,image,iou\nval,best,a,1\nval,best,a,1\n"),
        gzip.compress(b"list,epoch_rule,image,iou\n")[:10] + b"\xff" * 9,
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .*run\.csv\.gz"):
            read_per_image(path)


def test_a_file_that_is_not_of_its_line_is_refused(tmp_path):
    line = write_experiment(tmp_path, "trial", {"none": 0}, divisions=1, seeds=(41,), lists=("val", "test"))[0]
    path = tmp_path / line["per_image"]
    whole = images_of(line, tmp_path)
    assert [*whole] == [(on, rule) for on in ("val", "test") for rule in ("best", "last")]

    (tmp_path / "other").mkdir()
    other = write_experiment(tmp_path / "other", "trial", {"none": 1}, divisions=1, seeds=(41,), lists=("val", "test"))
    for tables, message in (
        ({("val", "best"): whole["val", "best"]}, "val, last epoch, 0 images, not 30"),
        ({**whole, ("test", "last"): first(whole["test", "last"], 10)}, "test, last epoch, 10 images, not 30"),
        ({key: without_column(of, "F1") for key, of in whole.items()}, "val, best epoch, no column F1"),
        ({key: without_column(of, SHARE) for key, of in whole.items()}, "val, best epoch, no column target_share"),
        (images_of(other[0], tmp_path / "other"), r"val, best epoch, mean iou 0\.\d+, not 0\.\d+\. Restore it"),
    ):
        write_per_image(path, tables)
        with pytest.raises(UserError, match=rf"none-division1-seed41\.csv\.gz is not the file of its line: {message}"):
            images_of(line, tmp_path)


def first(images, count):
    return Images(images.names[:count], {name: values[:count] for name, values in images.columns.items()})


def without_column(images, column):
    return Images(images.names, {name: values for name, values in images.columns.items() if name != column})


def test_the_page_names_every_key():
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {*result_line()}
