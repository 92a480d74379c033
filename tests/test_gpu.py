"""What only a GPU can show; skipped without CUDA. The golden figures are also compared on it (test_golden_*.py)."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from jobs import record_a_waiting_network, run_job, take_steps_in_float64, train
from training_runs import SCRIPTS, run

import evaluation
import predict
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.common.run_log import read_log
from utils.common.script import out_of_memory
from utils.common.signals import Stopped
from utils.networks.checkpoints import load_checkpoint
from utils.training.cuda_graphs import GraphedNetwork

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a GPU with CUDA"),
]
FLAGS = ["--img_size", "64", "--batch_size", "4", "--epochs", "1", "--variant", "srs_tiny", "--workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, count=20, size=64)
    return base


@pytest.fixture(scope="module")
def encoder(data, tmp_path_factory):
    """Phase 1 on the GPU."""
    folder = tmp_path_factory.mktemp("encoder")
    train("recon", ["--base_dir", str(data), *FLAGS, "--device", "cuda", "--output_dir", str(folder)])
    return folder / "recon" / "best.pth"


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("phase", SCRIPTS)
def test_a_stopped_run_ends_like_one_that_was_not(data, tmp_path, phase, amp):
    flags = ["--device", "cuda", "--amp", amp, "--deterministic"]
    whole, _ = run(phase, data, tmp_path / "whole", flags=flags)
    with pytest.raises(Stopped):
        run(phase, data, tmp_path / "cut", stop_at=5, flags=flags)
    resumed, _ = run(phase, data, tmp_path / "cut", flags=[*flags, "--resume"])
    assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())
    assert whole["figures"] == resumed["figures"]


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_is_resumed_on_another_device(data, tmp_path, first, then):
    with pytest.raises(Stopped):
        run("seg", data, tmp_path / "cut", stop_at=5, flags=["--device", first])
    resumed, _ = run("seg", data, tmp_path / "cut", flags=["--device", then, "--resume"])
    whole, _ = run("seg", data, tmp_path / "whole", flags=["--device", first])
    assert resumed["figures"]["loss"] == pytest.approx(whole["figures"]["loss"], rel=0.05)


@pytest.mark.parametrize(
    "flags",
    [
        ["--amp", "bf16"],
        ["--amp", "fp16"],
        ["--no-channels_last"],
        pytest.param(["--compile"], marks=pytest.mark.long),
        ["--cuda_graphs"],
        ["--cuda_graphs", "--amp", "fp16"],
    ],
)
def test_an_epoch_is_that_of_float32(data, encoder, tmp_path, flags):
    losses = []
    for name, more in (("float32", ["--amp", "off"]), ("other", flags)):
        argv = ["--base_dir", str(data), *FLAGS, "--device", "cuda", "--recon_weights", str(encoder), *more]
        train("seg", [*argv, "--output_dir", str(tmp_path / name)])
        (epoch,) = read_log(tmp_path / name / "seg" / "log.jsonl")
        losses.append(epoch["train"]["loss"])
        assert math.isfinite(epoch["val"]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


class Scaled(torch.nn.Module):
    """A convolution whose result depends on an attribute, which a graph keeps as it was."""

    def __init__(self):
        super().__init__()
        self.convolution, self.scale = torch.nn.Conv2d(3, 1, 3), 1.0

    def forward(self, images):
        return self.scale * self.convolution(images)


def test_cuda_graphs_that_compute_something_else_are_refused():
    precision = Precision("bf16", torch.device("cuda"))
    network, images = Scaled().cuda().train(), torch.randn(2, 3, 16, 16, device="cuda")
    for scale in (1.0, 2.0):
        network.scale = scale
        graphed = GraphedNetwork(network, images, precision)
        with precision.autocast():
            other = images + 1
            torch.testing.assert_close(graphed(other), network(other))
    network.scale = 3.0
    graphed._calls = 0  # the comparison of a later step
    with pytest.raises(UserError, match="outputs of the recorded network differ"), precision.autocast():
        graphed(images)


def test_a_network_that_waits_for_the_gpu_cannot_be_recorded(tmp_path):
    run_job(1, record_a_waiting_network, tmp_path / "error.txt")
    assert "--cuda_graphs: this network cannot be recorded" in (tmp_path / "error.txt").read_text()


def test_evaluation_and_masks_are_those_of_the_cpu(data, encoder, tmp_path):
    argv = ["--base_dir", str(data), *FLAGS, "--recon_weights", str(encoder), "--output_dir", str(tmp_path)]
    train("seg", [*argv, "--device", "cuda", "--epochs", "40", "--amp", "off"])
    weights = str(tmp_path / "seg" / "best.pth")
    figures, masks = {}, {}
    for device in ("cpu", "cuda"):
        of_device = ["--weights", weights, "--device", device, "--amp", "off"]  # by default bf16 on newer GPUs
        figures[device] = evaluation.main(evaluation.settings([*of_device, "--workers", "0"]))
        predict.main(predict.settings([*of_device, str(data / "images"), "--output", str(tmp_path / device)]))
        files = sorted((tmp_path / device).glob("*.png"))
        masks[device] = np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files])
    for name in ("iou", "F1"):
        found, expected = (figures[device]["mean_over_images"][name] for device in ("cuda", "cpu"))
        assert found == pytest.approx(expected, abs=2e-3)
    assert masks["cpu"].any() and (masks["cpu"] != masks["cuda"]).mean() < 1e-3
    trained = load_checkpoint(tmp_path / "seg" / "best.pth", "seg")["figures"]["iou"]
    assert figures["cuda"]["mean_over_images"]["iou"] == pytest.approx(trained, rel=1e-4)


@pytest.mark.parametrize("phase", SCRIPTS)
def test_synchronised_batch_norms_see_the_whole_batch(phase, tmp_path):
    """Two processes share the GPU, over gloo, because NCCL wants a GPU for each. Five images, in float64."""
    run_job(1, take_steps_in_float64, phase, tmp_path / "one.pth", "cuda")
    run_job(2, take_steps_in_float64, phase, tmp_path / "two.pth", "cuda")
    one, two = (torch.load(tmp_path / f"{name}.pth", weights_only=True) for name in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-9, atol=1e-9), name


def test_memory_that_runs_out_is_recognised():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    assert "out of memory" in out_of_memory(caught.value)


def test_the_checkpoint_names_the_gpu(encoder):
    recorded = load_checkpoint(encoder, "recon")["provenance"]
    assert recorded["device"] == torch.cuda.get_device_name() and not recorded["tf32"]
