"""Both phases, with their real networks: stopped inside an epoch and resumed, they end in the same weights."""

from __future__ import annotations

import os
import signal

import pytest
import torch

import models
import train_recon
import train_seg
from datasets.sample import make_sample
from utils.checkpoint import load_checkpoint
from utils.data import training_loaders
from utils.engine import fit
from utils.runtime import seed_everything
from utils.signals import Stopped

FLAGS = ["--img_size", "32", "--batch_size", "2", "--epochs", "2", "--variant", "srs_tiny"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, count=7, size=32)  # five to train on: three steps an epoch
    return base


def recon(args):
    return train_recon.Reconstruction(models.build_reconstruction(args.variant))


def seg(args):
    return train_seg.Segmentation(models.build_srs(args.variant, args.encoder_bn))


def run(script, build, data, folder, workers, stop_at=None, resume=()):
    """As the script's main does, but that the process sends itself a signal in step `stop_at`."""
    args = script.parser().settings(["--base_dir", str(data), *FLAGS, "--workers", str(workers), *resume])
    seed_everything(args.seed)
    loaders = training_loaders(args, need_masks=script is train_seg, val_batch_size=2)
    phase = build(args)
    steps, step = 0, phase.step

    def counted(batch):
        nonlocal steps
        steps += torch.is_grad_enabled()
        if steps == stop_at and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    phase.step = counted
    fit(phase, *loaders, args, folder, torch.device("cpu"))
    return load_checkpoint(folder / "last.pth", phase.name), steps


@pytest.mark.slow
@pytest.mark.parametrize(("script", "build"), [(train_recon, recon), (train_seg, seg)], ids=["recon", "seg"])
def test_a_stopped_run_ends_like_one_that_was_not(data, tmp_path, script, build):
    whole, steps = run(script, build, data, tmp_path / "whole", workers=0)
    assert steps == 6
    for workers in (0, 2):
        folder = tmp_path / f"cut{workers}"
        with pytest.raises(Stopped):
            run(script, build, data, folder, workers, stop_at=5)
        resumed, steps = run(script, build, data, folder, workers, resume=["--resume"])
        assert steps == 1
        assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())
        for ours, theirs in zip(*(run["optimizer"]["state"].values() for run in (whole, resumed)), strict=True):
            assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])
        assert whole["best"] == resumed["best"] and whole["figures"] == resumed["figures"]


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_and_of_two_are_not(data, tmp_path):
    ends = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ends.append(run(train_seg, seg, data, tmp_path / name, 0, resume=["--seed", str(seed)])[0]["model"])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert any(not torch.equal(value, ends[2][name]) for name, value in ends[0].items())
