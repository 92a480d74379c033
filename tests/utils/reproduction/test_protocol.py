"""The plan of the whole protocol."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from utils.common.errors import UserError
from utils.reproduction.protocol import TrainingStep, refuse_mixed


def plan(division, phase="seg", **settings):
    values = {"batch_size": 8, "epochs": 3, "workers": division, "train_file_dir": f"train{division}.txt", **settings}
    return [TrainingStep("phase 2", "train_seg.py", [], argparse.Namespace(**values), phase, Path("x"))]


def test_divisions_of_a_changed_configuration_are_not_mixed():
    refuse_mixed({1: plan(1), 2: plan(2), 3: plan(3)})
    refuse_mixed({1: plan(1) + plan(1, "recon", batch_size=16)})
    with pytest.raises(UserError, match=r"divisions 1 and 3 \(batch_size 8 and 16\).*Pass the flag"):
        refuse_mixed({1: plan(1), 2: plan(2), 3: plan(3, batch_size=16)})
