"""Both phases, with their real networks: stopped inside an epoch and resumed, they end in the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_runs import run

import evaluation
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.signals import Stopped
from utils.networks.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, count=7, size=32)  # five to train on: three steps an epoch
    return base


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that torch reads."""
    names, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: names.append(Path(file).name) or load(file, **options))
    return names


@pytest.mark.slow
@pytest.mark.parametrize("phase", [pytest.param("recon", marks=pytest.mark.long), "seg"])
def test_a_stopped_run_ends_like_one_that_was_not(data, tmp_path, phase):
    whole, steps = run(phase, data, tmp_path / "whole")
    assert steps == 6
    for workers in (0, 2):
        folder = tmp_path / f"cut{workers}"
        with pytest.raises(Stopped):
            run(phase, data, folder, workers, stop_at=5)
        resumed, steps = run(phase, data, folder, workers, flags=["--resume"])
        assert steps == 1
        assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())
        for ours, theirs in zip(*(ended["optimizer"]["state"].values() for ended in (whole, resumed)), strict=True):
            assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])
        assert whole["best"] == resumed["best"] and whole["figures"] == resumed["figures"]


def as_earlier(path):
    """Takes out of a checkpoint what came later, as a run of before it left it."""
    content = torch.load(path, weights_only=True)
    for name in ("augment_order", "dynamic", "kernel_source", "loss", "mask_interpolation"):
        del content["settings"][name]
    content.pop("mask_shift", None)
    torch.save(content, path)


@pytest.mark.long
def test_an_earlier_run_keeps_its_order_when_it_resumes_and_says_so(data, tmp_path, capsys, reads):
    earlier = ["--augment_order", "after_resize", "--mask_interpolation", "nearest", "--img_size", "24"]
    whole, _ = run("seg", data, tmp_path / "whole" / "seg", flags=earlier)
    folder = tmp_path / "cut" / "seg"
    with pytest.raises(Stopped):
        run("seg", data, folder, stop_at=5, flags=earlier)
    as_earlier(folder / "last.pth")
    capsys.readouterr()
    reads.clear()
    resumed, _ = run("seg", data, folder, flags=["--resume", "--img_size", "24"])
    assert reads == ["last.pth", "best.pth", "last.pth"], "to resume, to see whether it is whole, and that of this test"
    said = capsys.readouterr().out
    assert "keeps its --augment_order after_resize" in said and "keeps its --mask_interpolation nearest" in said
    assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())
    today, _ = run("seg", data, tmp_path / "today" / "seg", flags=["--img_size", "24"])
    assert any(not torch.equal(value, today["model"][name]) for name, value in whole["model"].items())
    as_earlier(folder / "last.pth")
    with pytest.raises(UserError, match="augment_order was after_resize, now before_resize"):
        run("seg", data, folder, flags=["--resume", "--img_size", "24", "--augment_order", "before_resize"])


def test_an_earlier_checkpoint_is_evaluated_as_it_was_trained(data, tmp_path, reads):
    """With the figures of this validation; and at the images' size without a shift that it has not learned."""
    flags = ["--augment_order", "after_resize", "--mask_interpolation", "nearest", "--img_size", "24"]
    run("seg", data, tmp_path / "seg", flags=flags)
    best = tmp_path / "seg" / "best.pth"
    as_earlier(best)
    reads.clear()
    args = evaluation.settings(["--weights", str(best), "--workers", "0"])
    summary = evaluation.main(args)
    assert reads == ["best.pth"]
    assert args.mask_interpolation == "nearest"
    figures = load_checkpoint(best, "seg")["figures"]
    assert summary["mean_over_images"]["iou"] == pytest.approx(figures["iou"], rel=1e-4)
    assert evaluation.load_model(evaluation.settings(["--weights", str(best), "--resize", "back"]))[1] == (0, 0)


@pytest.mark.long
@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_and_of_two_are_not(data, tmp_path):
    ends = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ends.append(run("seg", data, tmp_path / name, flags=["--seed", str(seed)])[0]["model"])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert any(not torch.equal(value, ends[2][name]) for name, value in ends[0].items())
