"""Libraries that are missing, or of another release than torch, stop nothing but what uses them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import waiting

from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.libraries import library

ROOT = Path(__file__).resolve().parents[3]
MISMATCH = "operator torchvision::nms does not exist"
SMALL = ["--img_size", "32", "--batch_size", "4", "--epochs", "1", "--workers", "0", "--variant", "srs_tiny"]


@pytest.fixture
def broken_torchvision(tmp_path):
    """A folder with a torchvision that cannot be imported, as beside another release of torch."""
    package = tmp_path / "packages" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise RuntimeError({MISMATCH!r})\n")
    return package.parent


def test_a_torchvision_of_another_release_is_named_in_one_line(broken_torchvision, monkeypatch):
    monkeypatch.syspath_prepend(str(broken_torchvision))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(UserError, match=rf"torchvision is required.*{MISMATCH}.*fit that of torch") as raised:
        library("torchvision")
    assert "\n" not in str(raised.value)


def test_a_missing_library_is_named_with_the_command(monkeypatch):
    for name, command in (("torchvision", "torch torchvision"), ("onnxruntime", "requirements-export.txt")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=rf"{name} is required.*pip install.*{command}"):
            library(name)


@pytest.mark.slow
@pytest.mark.long
def test_training_and_evaluation_run_beside_a_broken_torchvision(broken_torchvision, tmp_path):
    make_sample(tmp_path / "set", count=6, size=32)
    environment = {**os.environ, "PYTHONPATH": str(broken_torchvision), "OMP_NUM_THREADS": "1"}
    common = ["--base_dir", "set", "--output_dir", "out"]
    for command in (["train_recon.py", *common, *SMALL], ["train_seg.py", *common, *SMALL], ["evaluation.py", *common]):
        command = [sys.executable, str(ROOT / command[0]), *command[1:]]
        done = waiting.run(command, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
