"""What a training prints into a log file: a header, one line an epoch with the time left, and where the results are."""

from __future__ import annotations

import io
import re
from argparse import Namespace

import pytest
import toy
from toy import Toy

import reproduce
import train_seg
from utils.common.progress import Progress
from utils.networks.speed import Speed
from utils.reproduction import plan
from utils.settings import config
from utils.training.epoch_line import duration, epoch_line, time_left


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3569, "59 min"),
        (3600, "1 h"),
        (12000, "3 h 20 min"),
        (86400, "1 d"),
        (190000, "2 d 4 h"),
        (86400 + 300, "1 d"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_the_time_left_follows_the_last_epochs():
    assert time_left([100, 100, 10, 10, 10], 3) == 30
    assert time_left([500, *[10] * 5, 10], 100) == 1000, "a slow machine before a resume is forgotten"
    assert time_left([7.5], 0) == 0


def test_an_epoch_line_ends_in_its_time_and_the_time_left():
    entry = {"epoch": 2, "train": {"loss": 0.5}, "val": {"loss": 0.25, "iou": 0.75}, "seconds": 61.2}
    line = epoch_line("iou", entry, 10, {"epoch": 2, "iou": 0.75}, left=488)
    assert line == (
        "epoch   2/10 | train loss 0.5 | val loss 0.25 iou 0.75 | best iou 0.75 (epoch 2) | 1 min, 8 min left"
    )
    assert epoch_line("iou", entry, 2, None).endswith("| no best yet | 1 min")


def test_a_training_prints_a_header_then_one_line_an_epoch_then_the_results(tmp_path, capsys):
    base = toy.make_data(tmp_path / "data")
    toy.run(Toy(), base, tmp_path / "run", epochs=3)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    data, network, execution, output, *epochs, done = lines
    assert data.split(None, 1) == ["data", "toy: 7 training and 2 validation images, batch size 2"]
    assert network.split()[0] == "network" and "trained parameters" in network
    assert re.fullmatch(r"execution +cpu, float32, \d+ threads?, channels_last, plain modules", execution)
    assert output.split() == ["output", str(tmp_path / "run")]
    assert [line.split(" | ")[0] for line in epochs] == ["epoch   1/3", "epoch   2/3", "epoch   3/3"]
    assert [line.endswith(" left") for line in epochs] == [True, True, False]
    assert done.startswith("done: best loss ") and done.endswith(f"weights: {tmp_path / 'run' / 'best.pth'}")
    settings = (tmp_path / "run" / "settings.txt").read_text()
    assert "base_lr" in settings and "base_lr" not in out


def test_verbose_prints_the_settings_and_is_none_itself(capsys):
    argv = ["--Dataset", "sample"]
    quiet, verbose = train_seg.settings(argv), train_seg.settings([*argv, "--verbose"])
    assert "verbose" not in quiet and "verbose" in config.FREE_SETTINGS
    assert {name: value for name, value in vars(verbose).items() if name != "verbose"} == vars(quiet)
    config.announce("phase 2", quiet)
    assert capsys.readouterr().out == "phase 2\n"
    config.announce("phase 2", verbose)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "phase 2" and any(line.split() == ["img_size", "128"] for line in lines)


def test_reproduce_passes_verbose_on():
    args = reproduce.settings(["--Dataset", "sample", "--verbose"])
    for script in reproduce.SCRIPTS:
        assert plan.known_to(script, args.handed_on)["verbose"]
        assert "--verbose" in plan.as_argv(plan.known_to(script, args.handed_on))
    assert "verbose" not in reproduce.settings(["--Dataset", "sample"]).handed_on


def test_the_words_of_speed_in_a_header():
    for words, short in (
        ("fast modules: 41 ResidualBlock, 3 BLAM, with C++ kernels", "fast modules, C++ kernels"),
        ("fast modules: 41 ResidualBlock, without C++ kernels", "fast modules"),
        ("fast modules: 40 ResidualBlock, with C++ kernels; plain: x (ResidualBlock)", "fast modules, C++ kernels"),
        ("plain modules (compiled by torch)", "plain modules (compiled by torch)"),
    ):
        assert Speed(words).short == short


def test_within_an_epoch_a_log_file_gets_a_line_every_ten_minutes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file = io.StringIO()
    bar = Progress(total=100, desc="epoch 1/2", unit="img", file=file, every=600.0)
    bar.delay = bar.mininterval = 0  # tqdm's own clock is another one
    for _ in range(20):
        now[0] += 50
        bar.n += 1
        bar.refresh()
    assert len(file.getvalue().splitlines()) == 1 and "epoch 1/2: 12 of 100 img" in file.getvalue()


def test_a_namespace_without_verbose_is_quiet(capsys):
    config.announce("title", Namespace())
    assert capsys.readouterr().out == "title\n"
