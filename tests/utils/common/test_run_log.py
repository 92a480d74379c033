"""What TensorBoard is given, read back from the event files."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import Toy, make_data, run

import models
import train_recon
import train_seg
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.run_log import RunLog, read_log


def read(folder):
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"histograms": 0, "images": 0})
    events.Reload()
    return events


def series(events, tag):
    return {event.step: event.value for event in events.Scalars(tag)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both phases, two epochs, in one folder."""
    base, out = tmp_path_factory.mktemp("data") / "set", tmp_path_factory.mktemp("out")
    make_sample(base, count=8, size=32)
    flags = ["--base_dir", str(base), "--output_dir", str(out), "--img_size", "16", "--batch_size", "4"]
    flags += ["--epochs", "2", "--workers", "0", "--variant", "srs_tiny"]
    for script in (train_recon, train_seg):
        script.main(script.parser().settings(flags))
    return out


@pytest.mark.parametrize("phase", ["recon", "seg"])
def test_every_figure_of_the_log_is_on_the_board(runs, phase):
    events = read(runs / phase)
    log = read_log(runs / phase / "log.jsonl")
    for entry in log:
        for part in ("train", "val"):
            for name, value in entry[part].items():
                assert series(events, f"{name}/{part}")[entry["epoch"]] == pytest.approx(value, rel=1e-6)
        for name in ("learning_rate", "images_per_second", "seconds"):
            assert series(events, f"run/{name}")[entry["epoch"]] == pytest.approx(entry[name], rel=1e-6)
    if phase == "seg":
        assert {"loss", "iou", "F1", "SE", "PC", "SP", "ACC", "dice"} <= log[0]["val"].keys()
    # Six training images in a part of the epoch's time.
    assert log[0]["images_per_second"] >= 5 / log[0]["seconds"]
    assert [image.step for image in events.Images("validation")] == [1, 2]
    (settings,) = events.Tensors("settings/text_summary")
    assert b"base_lr         0.01" in settings.tensor_proto.string_val[0]


def test_phase_2_shows_how_the_kernels_differ_between_images(runs):
    events = read(runs / "seg")
    for tag, count in (("dpconv/g", 2 * 64), ("dpconv/g_spread_over_images", 64)):  # two validation images
        histograms = events.Histograms(tag)
        assert [histogram.step for histogram in histograms] == [1, 2]
        assert histograms[-1].histogram_value.num == count
    assert not read(runs / "recon").Tags()["histograms"]


def test_a_generator_that_does_not_look_at_the_image_has_no_spread():
    phase = train_seg.Segmentation(models.build_srs("srs_tiny").eval())
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        g = phase.distributions(phase.model, {"image": images})["dpconv/g"]
        assert g.shape == (2, 64) and g.std(0).max() > 0
        phase.model.dpconv.project.weight.zero_()
        assert phase.distributions(phase.model, {"image": images})["dpconv/g"].std(0).max() == 0


@pytest.mark.parametrize(("layer", "shown"), [("gate", {"gate/g"}), ("static", set())])
def test_the_code_of_another_layer_has_its_name(layer, shown):
    phase = train_seg.Segmentation(models.build("srs_tiny", layer=layer).eval(), layer=layer)
    with torch.no_grad():
        assert phase.distributions(phase.model, {"image": torch.rand(2, 3, 16, 16)}).keys() == shown


class WithDistribution(Toy):
    def distributions(self, model, batch):
        return {"values": torch.tensor([[float(name) for name in batch["name"]]])}


def test_distributions_are_over_the_validation_images_and_no_epoch_is_there_twice(tmp_path):
    base = make_data(tmp_path / "data")
    phase, last = WithDistribution(), tmp_path / "run" / "last.pth"
    phase.at_step[10] = lambda batch: shutil.copy(last, tmp_path)  # in the third epoch: two are in it
    run(phase, base, tmp_path / "run", epochs=4)
    shutil.copy(tmp_path / "last.pth", last)
    # TensorBoard reads a folder's files in the order of the second they were begun in.
    time.sleep(1)
    run(WithDistribution(), base, tmp_path / "run", epochs=4, resume="yes")
    assert [entry["epoch"] for entry in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2, 3, 4]
    events = read(tmp_path / "run")
    assert list(series(events, "loss/val")) == [event.step for event in events.Scalars("loss/val")] == [1, 2, 3, 4]
    values = events.Histograms("values")[-1].histogram_value  # of images 7 and 8
    assert (values.min, values.max, values.num) == (7, 8, 2)
    spread = events.Histograms("values_spread_over_images")[-1].histogram_value
    assert (spread.min, spread.num) == (0.5, 1)


LINES = [{"epoch": n, "train": {"loss": 1.0}, "val": {"loss": 1.0}, "seconds": 2} for n in (1, 2, 3)]
WHOLE = [json.dumps(line).encode() + b"\n" for line in LINES]


def resumed(tmp_path, content, epoch=3):
    """The entries that a run resumed after that epoch keeps."""
    (tmp_path / "log.jsonl").write_bytes(content)
    log = RunLog(tmp_path, epoch, "settings")
    log.close()
    assert read_log(tmp_path / "log.jsonl") == log.entries
    return log.entries


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b'{"epoch": 4, "tra',
        b"\0" * 5000,
        b"\0" * 500 + b"\n",
        b'{"epoch": 4}\n',
        b'{"epoch": 4, "train": {}, "val": {}}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_broken_last_line_is_dropped_and_it_is_said(tmp_path, capsys, tail):
    assert resumed(tmp_path, b"".join(WHOLE) + tail) == LINES
    said = capsys.readouterr().out
    assert ("the last line is incomplete and was removed" in said) == bool(tail) and "lacks" not in said


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"garbage"])
def test_a_log_without_a_whole_line_is_said_to_lack_its_epochs(tmp_path, capsys, content):
    assert resumed(tmp_path, content) == []
    assert "3 of 3 epochs are missing (first: 1)" in capsys.readouterr().out


def test_a_line_that_is_missing_is_said(tmp_path, capsys):
    assert resumed(tmp_path, WHOLE[0] + WHOLE[2]) == [LINES[0], LINES[2]]
    assert "1 of 3 epochs are missing (first: 2)" in capsys.readouterr().out


def test_epochs_that_two_processes_have_logged_are_there_once(tmp_path):
    assert resumed(tmp_path, b"".join(WHOLE + WHOLE)) == LINES


@pytest.mark.parametrize("broken", [b"\0" * 40 + b"\n", b"garbage\n", b"3\n", b'{"epoch": "2"}\n', b"\n"])
def test_damage_further_up_is_one_line_that_says_what_is_whole(tmp_path, broken):
    with pytest.raises(UserError, match="damaged in line 2 of 3; the 1 lines before it are intact") as caught:
        resumed(tmp_path, WHOLE[0] + broken + WHOLE[2])
    assert "\n" not in str(caught.value)
    assert (tmp_path / "log.jsonl").read_bytes() == WHOLE[0] + broken + WHOLE[2]


def test_a_line_is_on_the_disk_when_it_is_written(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.fstat(number).st_ino))
    log = RunLog(tmp_path, 0, "settings")
    flushed.clear()
    log.write_line(LINES[0])
    assert flushed == [(tmp_path / "log.jsonl").stat().st_ino]
    log.close()
