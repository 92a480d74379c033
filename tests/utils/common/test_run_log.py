"""What TensorBoard is given, read back from the event files."""

from __future__ import annotations

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
from utils.common.run_log import read_log


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
