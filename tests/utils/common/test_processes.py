"""The variables of torchrun, and what other job systems leave in the environment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from utils.common.processes import is_writer, local_rank, rank, world_size


@pytest.mark.parametrize("size", [None, "", "1", " 1 "])
def test_a_single_process_is_the_writer_whatever_rank_is_left_to_it(monkeypatch, size):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (world_size(), rank(), local_rank(), is_writer()) == (1, 0, 0, True)


def test_one_of_several_has_its_number(monkeypatch):
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert (world_size(), rank(), local_rank(), is_writer()) == (4, 3, 1, False)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
def test_what_is_not_a_number_is_one_line(tmp_path, name):
    code = "from utils.common.script import run_script; run_script(print, lambda: 1)"
    done = subprocess.run([sys.executable, "-c", code], env={name: "two"}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: the environment variable {name} must be an integer, got 'two'")
    assert done.stderr.count("\n") == 1
