"""What a job of several processes is refused before torch is imported; the rest is in tests/test_startup.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toy import make_data, settings

from utils.common.errors import UserError
from utils.settings.refusals import check_training


def test_an_output_folder_that_tensorboard_cannot_write_to(tmp_path):
    base = str(make_data(tmp_path / "set"))
    with pytest.raises(UserError, match="not UTF-8"):
        check_training(settings(base_dir=base), Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")))


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda:1"}, "all processes of this machine on one GPU"),
        ({"batch_size": 1}, r"at least the number of processes \(2\)"),
        ({"compile": True, "sync_bn": True}, "--compile cannot be combined with --sync_bn"),
        ({"cuda_graphs": True}, "--cuda_graphs supports one process"),
    ],
)
def test_several_processes(tmp_path, changes, message):
    base = str(make_data(tmp_path / "set"))
    check_training(settings(base_dir=base), tmp_path / "run")
    with pytest.raises(UserError, match=message):
        check_training(settings(base_dir=base, **changes), tmp_path / "run")


@pytest.mark.parametrize(("name", "value"), [("compile", True), ("accumulate", 2)])
def test_what_cuda_graphs_cannot_be_combined_with(tmp_path, name, value):
    base = str(make_data(tmp_path / "set"))
    check_training(settings(base_dir=base, cuda_graphs=True), tmp_path / "run")
    with pytest.raises(UserError, match=f"--cuda_graphs cannot be combined with --{name}"):
        check_training(settings(base_dir=base, cuda_graphs=True, **{name: value}), tmp_path / "run")
