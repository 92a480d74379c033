"""The commands of the scripts' docstrings parse, and the Python of docs/reference/python.md runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import benchmark
import demo
import evaluation
import export
import models
import predict
import prepare_data
import reproduce
import train_recon
import train_seg
from utils.networks.checkpoints import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")

PARSE = {
    "train_recon.py": train_recon.parser().settings,
    "train_seg.py": train_seg.parser().settings,
    "evaluation.py": evaluation.parser().given,
    "export.py": export.parser().parse_args,
    "prepare_data.py": prepare_data.parser().parse_args,
    "benchmark.py": benchmark.parser().parse_args,
    "predict.py": predict.settings,
    "demo.py": demo.parser().parse_args,
    "reproduce.py": reproduce.settings,
}
SCRIPTS = (train_recon, train_seg, evaluation, predict, demo, export, prepare_data, reproduce, benchmark)
COMMANDS = [
    command
    for script in SCRIPTS
    for command in re.findall(
        r"^ *(?:python|torchrun --nproc_per_node \d+) (\w+\.py .*)$", script.__doc__.replace("\\\n", " "), re.MULTILINE
    )
]


def test_there_are_commands():
    assert {command.split()[0] for command in COMMANDS} == set(PARSE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    script, *argv = shlex.split(command, comments=True)
    PARSE[script](argv)


def test_python():
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL):
        if "segmentation_models_pytorch" not in code:  # of a library that is optional: the next test
            exec(code, names)  # our own file
    assert names["logits"].shape == (1, 1, 200, 300)
    assert names["deep"].shape == (1, 64, 25, 38)
    assert names["kernels"].shape == (1, 256, 256, 3, 3)
    assert names["x"].shape == (1, 128, 25, 38)


@pytest.mark.long
def test_dpconv_in_a_network_of_another_library(tmp_path, monkeypatch):
    pytest.importorskip("segmentation_models_pytorch")
    reconstruction = models.build_reconstruction()
    content = {"phase": "recon", "model": reconstruction.state_dict(), "settings": {}}
    save_checkpoint(tmp_path / "checkpoints" / "BUSI" / "recon" / "best.pth", content)
    monkeypatch.chdir(tmp_path)
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL) if "smp.Unet" in code)
    backbone = torch.nn.Conv2d(3, 64, 3, padding=1)
    names = {"torch": torch, "models": models, "my_network": torch.nn.Sequential()}
    names["my_network"].add_module("backbone", backbone)
    exec(code, names)  # our own file
    assert names["logits"].shape == (2, 1, 256, 256)
