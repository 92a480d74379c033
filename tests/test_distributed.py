"""Jobs of several processes, started as users start them: by torchrun, over gloo, on the CPU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import waiting
from jobs import (
    draw_in_each_step,
    evaluate,
    free_port,
    large_maps,
    normalize_together,
    run_job,
    synchronised_norm,
    take_steps_in_float64,
    train,
)
from toy import make_data

from datasets.prepare.sample import make_sample
from utils.common.run_log import read_log
from utils.networks.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--variant", "srs_tiny", "--img_size", "32", "--batch_size", "4", "--epochs", "2", "--workers", "0"]
# Rounding errors decide ties of ReLUs and maxima, and two correct runs part; the smaller the steps, the later.
SMALL_STEPS = ["--base_lr", "0.0001"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, count=15, size=32)  # eleven to train on: two steps of four and one of three
    return base


def start(processes, script, *flags, restarts=0):
    """A job under torchrun, in a separate group."""
    # Not as torchrun's console script: this is the interpreter of the tests.
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", processes, "--max_restarts", restarts]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}"]
    command = [sys.executable, *launcher, ROOT / script, *flags]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(job):
    """Its exit code and what it printed."""
    output, _ = waiting.finish(job, launcher=True)
    return job.returncode, output


def wait_for(condition, job):
    waiting.wait_for(condition, job, launcher=True)


def workers_of(job):
    """The processes of the job's ranks, by rank: torchrun's children."""
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        for variable in variables:
            if variable.startswith(b"RANK="):
                ranks[int(variable[5:])] = int(child)
    return ranks


@pytest.fixture(scope="module")
def experiments(data, tmp_path_factory):
    """Both phases in one process, and in two that synchronise their batch norms."""
    folder = tmp_path_factory.mktemp("experiments")
    recon = ["--recon_weights", f"{folder}/one/recon/best.pth"]
    for phase, more in (("recon", []), ("seg", recon)):
        flags = ["--base_dir", str(data), *FLAGS, "--epochs", "1", *SMALL_STEPS, *more]
        run_job(1, train, phase, [*flags, "--output_dir", f"{folder}/one"])
        run_job(2, train, phase, [*flags, "--output_dir", f"{folder}/two", "--sync_bn"])
    return folder


@pytest.mark.long
@pytest.mark.parametrize(("phase", "processes"), [("recon", 2), ("seg", 3)])
def test_the_gradients_are_those_of_the_whole_batch(phase, processes, tmp_path):
    """In float64, with five images shared unevenly: two steps end in the same weights."""
    run_job(1, take_steps_in_float64, phase, tmp_path / "one.pth")
    run_job(processes, take_steps_in_float64, phase, tmp_path / "several.pth")
    one, several = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pth", "several.pth"))
    for name, value in one.items():
        assert torch.allclose(value, several[name], rtol=1e-9, atol=1e-9), name


@pytest.mark.long
@pytest.mark.parametrize("phase", ["recon", "seg"])
def test_two_processes_with_synchronised_batch_norms_follow_one(experiments, phase):
    for ours, theirs in zip(
        *(read_log(experiments / name / phase / "log.jsonl") for name in ("one", "two")), strict=True
    ):
        assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-4)
        assert ours["val"]["loss"] == pytest.approx(theirs["val"]["loss"], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_synchronised_statistics_are_float32(dtype, tmp_path):
    """Of float16 and bfloat16 maps, whose sums float16 does not hold: as of one batch norm of the whole batch."""
    run_job(2, normalize_together, tmp_path / "found.pth")
    found = torch.load(tmp_path / "found.pth", weights_only=True)[str(dtype)]
    norm, x = synchronised_norm(), large_maps().to(dtype).float().requires_grad_()
    y = norm(x)
    y.to(dtype).float().square().sum().backward()
    assert found["y"].dtype == found["x"].dtype == dtype
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found["y"].float(), y[::2].detach(), rtol=rounding, atol=rounding)
    torch.testing.assert_close(found["x"].float(), x.grad[::2], rtol=0, atol=4 * rounding)
    torch.testing.assert_close(found["bias"], norm.bias.grad, rtol=1e-3, atol=1e-3 * norm.weight.grad.abs().max())
    torch.testing.assert_close(found["weight"], norm.weight.grad, rtol=1e-3, atol=0)
    for name, value in norm.named_buffers():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=0)


@pytest.mark.long
@pytest.mark.parametrize("phase", ["recon", "seg"])
def test_synchronised_batch_norms_in_bfloat16_follow_one_process(experiments, data, phase, tmp_path):
    recon = [] if phase == "recon" else ["--recon_weights", f"{experiments}/one/recon/best.pth"]
    flags = ["--base_dir", str(data), *FLAGS, "--epochs", "1", *SMALL_STEPS, "--amp", "bf16", *recon, "--output_dir"]
    run_job(1, train, phase, [*flags, f"{tmp_path}/one"])
    run_job(2, train, phase, [*flags, f"{tmp_path}/two", "--sync_bn"])
    ours, theirs = (read_log(tmp_path / name / phase / "log.jsonl")[0] for name in ("one", "two"))
    assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=0.02)
    assert ours["val"]["loss"] == pytest.approx(theirs["val"]["loss"], rel=0.02)


@pytest.mark.long
def test_processes_agree_on_the_parts_of_an_uneven_step(data, tmp_path):
    """Shares of two images and one: synchronised batch norms meet once a step, since one image is one part."""
    flags = ["--base_dir", str(data), *FLAGS, "--batch_size", "3", "--epochs", "1", *SMALL_STEPS, "--output_dir"]
    run_job(1, train, "recon", [*flags, f"{tmp_path}/one"])
    run_job(2, train, "recon", [*flags, f"{tmp_path}/two", "--sync_bn", "--accumulate", "2"])
    ours, theirs = (read_log(tmp_path / name / "recon" / "log.jsonl")[0] for name in ("one", "two"))
    assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-4)
    assert ours["val"]["loss"] == pytest.approx(theirs["val"]["loss"], rel=1e-4)


@pytest.mark.long
def test_evaluation_is_the_same_on_one_two_and_three_processes(experiments):
    found, codes = [], []
    for processes in (1, 2, 3):
        weights = experiments / "one" / "seg" / "last.pth"
        flags = ["--val_file_dir", "train.txt", "--workers", "0", "--code", "swap"]
        run_job(processes, evaluate, ["--weights", str(weights), *flags])
        folder = experiments / "one" / "evaluation" / "last-train-swap"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["provenance"]["processes"] == processes
        figures = [summary[name] for name in ("images", "mean_over_images", "medical", "infrared", "sweep")]
        found.append((*figures, *((folder / name).read_text() for name in ("per_image.csv", "sweep.csv"))))
        codes.append(summary["code"])
    assert found[0] == found[1] == found[2] and found[0][0] == 11
    # Codes come from other batches in every job: their last digits may differ.
    parts = [[*code.pop("distance_from_mean").values(), code.pop("kernel_change")] for code in codes]
    distances = [np.array([[*part.values()] for part in each]) for each in parts]
    assert codes[0] == codes[1] == codes[2] and codes[0]["given"] == "swap"
    np.testing.assert_allclose(distances[1:], [distances[0]] * 2, rtol=1e-3)


def test_an_error_that_all_processes_meet_is_printed_once(tmp_path):
    code, output = finish(start(2, "train_recon.py", "--base_dir", tmp_path / "nowhere"))
    assert code != 0 and output.count("error: ") == 1 and "nowhere" in output


def test_a_batch_smaller_than_the_job_is_refused(data):
    code, output = finish(start(2, "train_recon.py", "--base_dir", data, *FLAGS, "--batch_size", "1"))
    assert code != 0 and "--batch_size must be at least the number of processes (2), got 1" in output


def endless(data, folder, *more):
    return ["--base_dir", data, *FLAGS, "--epochs", "10000", "--output_dir", folder, *more]


@pytest.mark.long
def test_a_process_that_dies_ends_the_job_with_the_reason(data, tmp_path):
    job = start(2, "train_recon.py", *endless(data, tmp_path))
    last = tmp_path / "recon" / "last.pth"
    wait_for(last.exists, job)
    os.kill(workers_of(job)[1], signal.SIGKILL)
    code, output = finish(job)
    assert code != 0 and "Signal 9 (SIGKILL)" in output
    assert "train_recon.py FAILED" in output and output.count("Traceback") == 1, "only torchrun's own"
    load_checkpoint(last, "recon")


@pytest.mark.long
def test_torchruns_restart_goes_on(data, tmp_path):
    job = start(2, "train_recon.py", *FLAGS, "--base_dir", data, "--epochs", "9", "--output_dir", tmp_path,
                "--resume", "auto", restarts=1)  # fmt: skip
    log = tmp_path / "recon" / "log.jsonl"
    wait_for(lambda: len(read_log(log)) >= 3, job)
    os.kill(workers_of(job)[1], signal.SIGKILL)
    code, output = finish(job)
    assert code == 0, output
    assert [entry["epoch"] for entry in read_log(log)] == list(range(1, 10))
    assert re.search(r"resuming from .*: [3-8] of", output)


@pytest.mark.long
def test_ctrl_c_stops_all_at_one_step(data, tmp_path):
    """The terminal signals the whole group: torchrun, its processes and theirs; torchrun then passes it on again."""
    flags = endless(data, tmp_path, "--workers", "1")
    job = start(2, "train_recon.py", *flags)
    wait_for((tmp_path / "recon" / "last.pth").exists, job)
    os.killpg(job.pid, signal.SIGINT)
    code, output = finish(job)
    assert code != 0 and output.count("Continue with --resume") == 1
    done = load_checkpoint(tmp_path / "recon" / "last.pth", "recon")
    printed = re.search(r"stopped in epoch (\d+) of 10000, after step (\d+)", output)
    assert [int(number) for number in printed.groups()] == [done["epoch"] + 1, done["step"]]
    assert done["means"]["count"] == min(done["step"] * 4, 11)


@pytest.mark.long
def test_a_stopped_job_ends_in_the_same_weights_as_a_whole_one(data, tmp_path):
    flags = ["--base_dir", str(data), *FLAGS, "--epochs", "6", "--output_dir"]
    run_job(2, train, "recon", [*flags, f"{tmp_path}/whole"])
    job = start(2, "train_recon.py", *flags, f"{tmp_path}/cut")
    wait_for((tmp_path / "cut" / "recon" / "last.pth").exists, job)
    os.kill(job.pid, signal.SIGTERM)
    assert "stopped in epoch" in finish(job)[1]
    run_job(2, train, "recon", [*flags, f"{tmp_path}/cut", "--resume"])
    ends = [load_checkpoint(tmp_path / name / "recon" / "last.pth", "recon") for name in ("whole", "cut")]
    assert all(torch.equal(value, ends[1]["model"][name]) for name, value in ends[0]["model"].items())
    assert ends[0]["figures"] == ends[1]["figures"]


@pytest.mark.long
def test_each_process_draws_its_own_random_numbers_and_a_resumed_run_the_same(tmp_path):
    """Dropout masks must differ between the processes, whose images are different ones."""
    base = make_data(tmp_path / "data")
    numbers = {}
    for name, stop_at in (("whole", None), ("cut", 6), ("resumed", None)):
        folder = tmp_path / ("whole" if name == "whole" else "cut")
        run_job(2, draw_in_each_step, base, folder, stop_at, tmp_path / name)
        numbers[name] = [json.loads((tmp_path / f"{name}{rank}").read_text()) for rank in range(2)]
    assert len({number for of_process in numbers["whole"] for number in of_process}) == 2 * 12
    for whole, cut, resumed in zip(*numbers.values(), strict=True):
        assert len(cut) == 6 and cut + resumed == whole
