"""How long the rest of an experiment takes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from result_line import result_line

from utils.reproduction.plan import Run
from utils.reproduction.protocol_steps import TrainingStep
from utils.reproduction.times import Times, in_words


def training(folder, epochs, *seconds):
    folder.mkdir(parents=True)
    entries = [{"epoch": i + 1, "train": {}, "val": {}, "seconds": each} for i, each in enumerate(seconds)]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return TrainingStep("phase 2", "train_seg.py", [], argparse.Namespace(epochs=epochs), "seg", folder)


def run(arm):
    return Run(arm, 1, 41, {}, {}, {}, Path(), Path())


def test_an_epoch_takes_as_long_as_the_runs_own_or_the_arms_or_any(tmp_path):
    begun, same_arm = training(tmp_path / "a", 10, 2.0, 4.0), training(tmp_path / "b", 10)
    other, recorded = training(tmp_path / "c", 10), training(tmp_path / "d", 10)
    plans = [(run("one"), [begun]), (run("one"), [same_arm]), (run("two"), [other]), (run("three"), [recorded])]
    line = result_line("three", seconds={"recon": None, "seg": 50.0, "evaluation": None})
    line["settings"]["seg"]["epochs"] = 10
    line["settings"]["recon"] = None
    times = Times(plans, [line])
    assert times.so_far() == 6
    to_come = [times.to_come(run, step) for run, (step,) in plans]
    assert to_come == pytest.approx([8 * 3, 10 * 3, 10 * (2 + 4 + 5) / 3, 10 * 5])
    assert times.summary() == ("4 runs are unfinished; their epochs so far took 6 s; to come: about 2 min of training")


def test_what_no_epoch_tells_is_said_to_be_unknown(tmp_path):
    plans = [(run("one"), [training(tmp_path / "a", 10)])]
    assert "to come: 1 trainings of which no epoch was timed" in Times(plans).summary()
    shared = [*plans, (run("two"), plans[0][1])]  # one phase 1 for two runs counts once
    assert "to come: 1 trainings" in Times(shared).summary()


def test_times_in_words():
    assert [in_words(seconds) for seconds in (12, 59 * 60, 3600, 12000)] == [
        "12 s",
        "59 min",
        "1 h 0 min",
        "3 h 20 min",
    ]
