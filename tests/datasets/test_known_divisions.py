"""Published divisions are known by their cases, not by the file's name."""

from __future__ import annotations

import hashlib
import json

import pytest

from datasets import known_divisions
from datasets.known_divisions import fingerprint, known_list, remarks
from datasets.lists import read_list
from datasets.prepare.sample import make_sample
from datasets.prepare.survey import survey, table

CASES = ["benign (2)", "benign (10)", "malignant (1)"]


@pytest.fixture
def divisions(tmp_path, monkeypatch):
    """Has these lists be published ones: {part: cases}."""

    def write(lists, note=""):
        entries = [
            {"dataset": "toy", "division": "released", "part": part, "cases": len(cases), "sha256": fingerprint(cases)}
            | {"source": f"someone/repo abc1234, data/{part} lists.txt (MIT)"}
            for part, cases in lists.items()
        ]
        path = tmp_path / "divisions.json"
        path.write_text(json.dumps({"divisions": entries, "notes": {"toy": note} if note else {}}))
        monkeypatch.setattr(known_divisions, "FILE", path)
        known_divisions._known.cache_clear()

    yield write
    monkeypatch.undo()
    known_divisions._known.cache_clear()


def test_the_rule_of_the_fingerprint():
    expected = hashlib.sha256(b"benign (10)\nbenign (2)\nmalignant (1)").hexdigest()
    for entries in (
        CASES,
        CASES[::-1],
        [f"{name}.png" for name in CASES],
        [f"  {name}.JPG " for name in CASES],
        CASES + CASES,
    ):
        assert fingerprint(entries) == expected
    for entries in (CASES[1:], ["Benign (2)", *CASES[1:]], ["benign (2).5", *CASES[1:]]):
        assert fingerprint(entries) != expected


def test_the_published_divisions():
    known = known_divisions._known()
    counts = {}
    for of in known.values():
        counts.setdefault((of.dataset, of.division), {})[of.part] = of.cases
        assert of.url.startswith("https://github.com/") and of.url.endswith(".txt") and " " not in of.url
    busi = {("BUSI", f"field division {i}"): {"train": 452, "val": 195} for i in (1, 2, 3)}
    authors = "released by the authors"
    srs = {("BUS", authors): {"train": 393, "val": 169}, ("KBT2019", authors): {"train": 4194, "val": 1799}}
    assert counts == srs | busi
    assert [of.note for of in known.values() if "89.8 % of the validation frames" in of.note] == [
        of.note for of in known.values() if of.dataset == "KBT2019"
    ]


def test_known_lists_are_named_with_their_source_and_note(divisions):
    divisions({"train": CASES, "val": ["a"]}, note="frames leak")
    assert known_list(["a.png"]).name == "toy, released, val" and known_list(["b"]) is None
    assert known_list(["a"]).url == "https://github.com/someone/repo/blob/abc1234/data/val lists.txt"
    one, other, note = remarks({"training": CASES, "validation": ["a"]}, "toy")
    assert one.startswith("training list: toy, released, train (3 cases; https://") and note == "frames leak"
    assert "validation list: toy, released, val" in other
    assert remarks({"training": ["x"], "validation": ["y"]}, "mine") == remarks({}, "toy") == []
    (line,) = remarks({"training": ["x"], "validation": ["y"]}, "toy")
    assert (
        "training and validation lists: not a published division of toy (released; docs/reference/data_sets.md lists"
        in line
    )


def test_check_names_a_list_that_it_knows(divisions, tmp_path):
    make_sample(tmp_path / "set", count=4, size=32)
    names = read_list(tmp_path / "set" / "val.txt")
    divisions({"val": names}, note="frames leak")
    found = survey(tmp_path / "set", ["train.txt", "val.txt"], 32)
    assert found.as_dict()["remarks"] == found.remarks and len(found.remarks) == 2
    assert "val.txt list: toy, released, val (" in table(found) and "frames leak" in table(found)
