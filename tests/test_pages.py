"""README and docs: every command of every page parses, runs, or says what it needs; links, pictures and lengths."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, README, ROOT, Block, anchors, blocks, commands, inline_commands, words
from random_weights import save_random_weights
from test_readme import PARSE, SCRIPTS

import prepare_data
import train_recon
import train_seg
from datasets.prepare.sample import make_sample
from utils.reproduction.experiment_file import read_experiment

DOCS = ROOT / "docs"
TUTORIAL = DOCS / "getting_started" / "tutorial.md"
# What a block may need that is not in the project or in its requirements.
NEEDS = {
    "a GPU",
    "several GPUs",
    "an idle machine",
    "Slurm",
    "the data set",
    "trained weights",
    "recorded runs",
    "CMake and a C++ compiler",
}
# Pages that a test follows as a reader would; a flag's value may be what an earlier block of the page has made.
FOLLOWED = {TUTORIAL, DOCS / "how_to" / "extend.md"}
# Pages whose blocks run below, if nothing is needed for them.
OWN_DATA, REPRODUCE = DOCS / "how_to" / "own_data.md", DOCS / "how_to" / "reproduce.md"
EXPERIMENTS = DOCS / "how_to" / "experiments.md"
FIRST_STEPS = DOCS / "getting_started" / "first_steps.md"  # commands of README, and the check
RUN = {README, OWN_DATA, REPRODUCE, EXPERIMENTS, FIRST_STEPS}
# Appended to what runs below.
TRAINING = ["--variant", "srs_tiny", "--img_size", "32", "--batch_size", "4", "--epochs", "1", "--workers", "0"]
SMALL = {
    "train_recon.py": TRAINING,
    "train_seg.py": TRAINING,
    "evaluation.py": ["--workers", "0"],
    "reproduce.py": ["--dry_run"],
}
# Who runs the Python of a page.
PYTHON = {
    TUTORIAL: "tests/test_pages.py",
    DOCS / "how_to" / "predict.md": "tests/test_pages.py",
    DOCS / "reference" / "python.md": "tests/test_readme.py",
    DOCS / "how_to" / "export.md": "tests/test_export_script.py",
    DOCS / "how_to" / "extend.md": "tests/test_architecture.py",
}
GENERATED = {DOCS / "results.md", DOCS / "explanation" / "published.md", DOCS / "reference" / "flags.md"}
GENERATED |= {page for page in PAGES if page.parent == DOCS / "results"}
SHELL = {"cd", "(cd", "."}  # of the shell itself


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Its flags, and those of its verbs."""
    verbs = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    below = (flags_of(verb) for choices in verbs for verb in choices.values())
    return set(parser._option_string_actions).union(*below)


FLAGS = {f"{script.__name__}.py": flags_of(script.parser()) for script in SCRIPTS}
FLAGS["reproduce.py"] |= FLAGS["train_recon.py"] | FLAGS["train_seg.py"]  # which it hands on


def check_command(command: str, block: Block) -> None:
    """That a command can work: its flags parse, its files, modules and targets are there."""
    if script := re.search(r"(?:^|python |torchrun [^|]*?)((?:\w+/)*\w+\.py)( .*)?$", command):
        path, argv = script[1], shlex.split(script[2] or "")
        if path in PARSE:
            PARSE[path](argv)
        else:
            assert (ROOT / path).is_file(), command
        return
    if block.needs:
        return
    first, *rest = shlex.split(command)
    if first == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif first == "pip":
        files = re.findall(r"-[rc] (\S+)", command)
        assert all((ROOT / file).is_file() for file in files), command
    elif first in ("python", "python3"):
        assert rest[0] == "-m" and importlib.util.find_spec(rest[1]), command
    else:
        assert first in SHELL or importlib.util.find_spec(first), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_page(page):
    for block in blocks(page):
        assert block.language in {"bash", "python", "yaml", "json", "bibtex", ""}
        assert block.needs in NEEDS | {""}
        if block.language == "bash":
            for command in commands(block):
                script = re.search(r"\w+\.py", command)
                if page in FOLLOWED:
                    assert set(re.findall(r"--\w+", command)) <= FLAGS[script[0]], command
                else:
                    check_command(command, block)
                    runs = page in RUN | GENERATED or not script or script[0] not in PARSE
                    assert runs or block.needs, f"{command}: say what it needs, or add the page to RUN"
        elif not block.language:
            assert not re.search(r"^\W*(python|torchrun|make) ", block.code, re.MULTILINE), "name its language: bash"
    for script, flags in inline_commands(page):
        assert set(flags) <= FLAGS[script], (script, flags)


def test_all_kinds_of_blocks_are_found():
    found = [(block, page) for page in PAGES for block in blocks(page)]
    assert len(found) > 60 and {block.needs for block, _ in found} - {""} == NEEDS
    assert sum(page.read_text(encoding="utf-8").count("<!-- needs:") for page in PAGES) == sum(
        bool(block.needs) for block, _ in found
    )
    fences = sum(len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(found), "a fence is not closed"
    assert commands(Block("bash", 'A="--x 1"\nfor n in 7 8; do\n  python a.py $A --n $n  # why\ndone\n', "")) == [
        "python a.py --x 1 --n 7"
    ]
    with pytest.raises(AssertionError):
        check_command("frobnicate now", Block("bash", "", ""))


def test_all_python_is_run_by_a_test():
    assert {
        page for page in PAGES if any(block.language == "python" and not block.needs for block in blocks(page))
    } == PYTHON.keys()
    for page, test in PYTHON.items():
        assert page.name in (ROOT / test).read_text(), f"{test} does not run {page}"


def test_the_python_of_predict_md(tmp_path, monkeypatch):
    make_sample(tmp_path / "DataSet" / "sample", count=4, size=32)
    save_random_weights(tmp_path / "checkpoints" / "sample" / "seg" / "best.pth")
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in blocks(DOCS / "how_to" / "predict.md") if block.language == "python")
    names: dict = {}
    exec(block.code, names)  # our own file
    assert names["mask"].shape == names["probability"].shape == (32, 32)


def test_configurations_are_taken(tmp_path):
    found = {page: block.code for page in PAGES for block in blocks(page) if block.language == "yaml"}
    assert found.keys() == {OWN_DATA, EXPERIMENTS}
    for page, code in found.items():
        path = tmp_path / f"{page.stem}.yaml"
        path.write_text(code)
        if page == EXPERIMENTS:
            assert [arm for group in read_experiment(str(path)).groups for arm in group] == ["none", "dpconv", "slow"]
        else:
            for script in (train_recon, train_seg):
                assert script.parser().settings(["--config", str(path)]).base_dir


def scripts_of(page: Path) -> list[list[str]]:
    """The script and flags of each command of a page that needs nothing."""
    found = (shlex.split(command) for block in blocks(page) if not block.needs for command in commands(block))
    return [words[1:] for words in found if words[0] == "python" and words[1] in PARSE]


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A folder with what a reader brings along; runs a command of a page there, small."""
    make_sample(tmp_path / "brought", count=12, size=32)
    for i, image in enumerate(sorted((tmp_path / "brought" / "images").iterdir())):
        name = f"patient{i // 2}_{i % 2}"
        mask = tmp_path / "brought" / "masks" / image.name
        copies = {f"my_images/images/{name}.png": image, f"my_images/masks/{name}.png": mask}
        copies |= {f"raw/jpg/{name}.png": image, f"raw/labels/{name}_gt.png": mask, f"new_images/{name}.png": image}
        for target, source in copies.items():
            (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, tmp_path / target)
    make_sample(tmp_path / "more", count=4, size=32, seed=7)
    (tmp_path / "more" / "images").rename(tmp_path / "more_images")
    monkeypatch.chdir(tmp_path)

    def run(script, *argv):
        module = importlib.import_module(script.removesuffix(".py"))
        argv = [*argv, *([] if "--compare" in argv else SMALL.get(script, []))]
        return module.main(prepare_data.parser().parse_args(argv) if module is prepare_data else module.settings(argv))

    return run


def test_first_steps_are_those_of_readme():
    assert scripts_of(FIRST_STEPS) and all(words in scripts_of(README) for words in scripts_of(FIRST_STEPS))


@pytest.mark.parametrize("page", [OWN_DATA, REPRODUCE, EXPERIMENTS], ids=lambda page: page.stem)
def test_data_commands_run(page, user, capsys):
    """What needs no training: conversion, check and divisions; of reproduce.py the dry run."""
    for script, *argv in scripts_of(page):
        if script in ("prepare_data.py", "reproduce.py"):
            user(script, *argv)
    said = capsys.readouterr().out
    if page == OWN_DATA:
        assert "12 cases" in said and Path("DataSet/mine/test1.txt").is_file()
    else:
        assert "train_seg.py" in said and Path("DataSet/sample/train2.txt").is_file()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("page", [README, OWN_DATA], ids=["README", "own_data"])
def test_all_commands_run(page, user):
    for script, *argv in scripts_of(page):
        user(script, *argv)
    assert Path("checkpoints/mine/seg/best.pth").is_file()
    if page == README:
        assert Path("report/report.html").is_file() and Path("report/comparison.html").is_file()
        assert Path("masks/patient0_0.png").is_file() and Path("masks/overlay/patient0_0.png").is_file()
        assert Path("checkpoints/mine/evaluation/best-val-swap/summary.json").is_file()


@pytest.mark.long
@pytest.mark.slow
def test_tutorial(tmp_path, monkeypatch):
    """Each block in turn, as a reader would: bash in a shell, Python in one session, in a folder with the scripts."""
    for script in ROOT.glob("*.py"):
        (tmp_path / script.name).symlink_to(script)
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said, names = "", {}
    for block in blocks(TUTORIAL):
        if block.language == "python":
            exec(block.code, names)  # our own file
        else:
            environment = {**os.environ, "PATH": path}
            ran = subprocess.run(
                ["bash", "-e"], input=block.code, text=True, capture_output=True, env=environment, check=False
            )
            assert ran.returncode == 0, ran.stderr
            said += ran.stdout + ran.stderr
    assert names["codes"].shape == (2, 64)
    assert (tmp_path / "checkpoints" / "tutorial" / "report" / "report.html").is_file()
    assert re.search(r"with another image's code, (all )?\d+", said) and "difference: second minus first" in said


def test_the_notebook_is_that_of_the_page():
    script = runpy.run_path(str(DOCS / "getting_started" / "make_notebook.py"))
    made = script["notebook"](TUTORIAL.read_text(encoding="utf-8"))
    assert script["NOTEBOOK"].read_text(encoding="utf-8") == made, "python docs/getting_started/make_notebook.py"
    assert all(block.code.strip().splitlines()[-1] in made.replace('\\"', '"') for block in blocks(TUTORIAL))


def test_links_lead_to_files_and_headings():
    for page in (*PAGES, ROOT / "splits" / "README.md"):
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, fragment = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page}: {target}"
            assert not fragment or fragment in anchors(there), f"{page}: {target}"


def test_every_page_is_reached_and_every_picture_is_shown():
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    linked = {
        (page.parent / target).resolve()
        for page, text in texts.items()
        for target in re.findall(r"\]\((?!http)([^)#]+)", text)
    }
    assert {page for page in PAGES if page not in linked} - GENERATED == {README}
    assert {path for path in (DOCS / "pictures").iterdir() if path.suffix != ".py"} <= linked


def test_lengths():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150
    user = [page for page in PAGES if page not in GENERATED and page != README and "development" not in page.parts]
    assert sum(map(words, user)) < 9000, {page.name: words(page) for page in user}
