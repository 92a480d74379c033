"""VERSION is what every script prints, what runs record, and what CHANGELOG.md and CITATION.cff name."""

from __future__ import annotations

import importlib
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml

from utils.common import version as of_project
from utils.settings.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
VERSION = (ROOT / "VERSION").read_text().strip()
SCRIPTS = sorted({path.stem for path in ROOT.glob("*.py")} - {"_this_folder"})


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_the_version(script, capsys):
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).parser().parse_args(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"{VERSION}\n")


def test_runs_record_the_version(tmp_path, monkeypatch):
    recorded = provenance(Namespace(base_dir=str(tmp_path)), torch.device("cpu"))
    assert recorded["version"] == VERSION and recorded["versions"]["torch"]
    monkeypatch.setattr(of_project, "FILE", tmp_path / "VERSION")
    assert of_project.version() == "unknown"


def test_the_changelog_has_the_version_and_its_new_paths_exist():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    modules = text.partition("### Moved pages")[0]
    assert re.search(rf"^## {re.escape(VERSION)}$", text, re.MULTILINE)
    rows = re.findall(r"^\| (`.*) \| (`.*) \|$", modules, re.MULTILINE)
    assert len(rows) > 15
    for old, new in rows:
        olds, news = (re.findall(r"`([\w.]+)`", cell) for cell in (old, new))
        package = news[0].rpartition(".")[0]
        names = [name.rpartition(".")[2] for name in (olds if "same names" in new else news)]
        for name in names:
            found = ROOT.joinpath(*package.split("."), name)
            other = [each for each in news if each.endswith(f".{name}")]
            found = ROOT.joinpath(*other[0].split(".")) if other else found
            assert found.with_suffix(".py").is_file() or (found / "__init__.py").is_file(), f"{old}: {found}"
        for name in olds:
            assert name.count(".") == 0 or not ROOT.joinpath(*name.split(".")).with_suffix(".py").is_file(), name


def test_the_citation_is_of_the_paper_and_names_this_version():
    """The keys that the schema of CFF 1.2.0 requires, of the software and of the reference."""
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content.keys() >= {"cff-version", "message", "title", "authors"}
    assert (content["cff-version"], str(content["version"]), content["license"]) == ("1.2.0", VERSION, "MIT")
    paper = content["preferred-citation"]
    assert paper.keys() >= {"type", "title", "authors"} and paper["title"].startswith("SRS: Siamese Reconstruction")
    assert [author["family-names"] for author in paper["authors"]][:2] == ["Nian", "Tang"] and len(
        paper["authors"]
    ) == 7
    assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])
    assert paper["identifiers"][0]["value"] == "arXiv:2312.01741"
    assert {each["type"] for each in paper["identifiers"]} <= {"doi", "url", "swh", "other"}
