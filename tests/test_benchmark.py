"""benchmark.py as a user calls it, on the smallest work there is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import waiting

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--variant", "srs_tiny", "--img_size", "16", "--batch_size", "2", "--repeat", "1", "--rounds", "1"]


def benchmark(*flags):
    command = [sys.executable, str(ROOT / "benchmark.py"), *flags]
    done = waiting.run(command)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.slow
def test_one_row_as_json():
    row = json.loads(benchmark("--only", "seg_step", "--amp", "bf16", *SMALL, "--json"))
    assert row["only"] == "seg_step" and row["amp"] == "bf16" and row["variant"] == "srs_tiny"
    assert row["ratio"] == pytest.approx(row["plain_seconds_per_image"] / row["seconds_per_image"])
    assert 0 < row["seconds_per_image"] < 10 and 0.1 < row["peak_rss_gb"] < 5 and 0 < row["of_peak"] < 2


@pytest.mark.long
@pytest.mark.slow
def test_profile_names_the_operators():
    lines = benchmark("profile", "--only", "seg_step", *SMALL).splitlines()
    assert any("aten.convolution_backward.default 2x8x16x16 2x8x16x16 8x8x3x3" in line for line in lines)
    total, alone = (float(line.split()[0]) for line in lines[-2:])
    times = [float(line.split()[0]) for line in lines[1:-2]]
    assert times == sorted(times, reverse=True) and 0 < sum(times) <= total and alone > 0
