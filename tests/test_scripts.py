"""The three scripts as a user runs them, on a few sample images."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import waiting

import evaluation
import prepare_data
import train_recon
import train_seg
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.files import sha256
from utils.common.run_log import read_log
from utils.evaluation.pixel_metrics import paper_metrics
from utils.networks.checkpoints import load_checkpoint
from utils.settings.data_loaders import checked_cases, evaluation_loader
from utils.training.pretrained_encoder import load_pretrained

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--img_size", "32", "--batch_size", "4", "--epochs", "2", "--workers", "0", "--variant", "srs_tiny"]


def run_script(script, *argv):
    """The script in a separate process."""
    command = [sys.executable, str(ROOT / script), *map(str, argv)]
    return waiting.run(command)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, count=8, size=32)
    return base


@pytest.fixture(scope="module", params=["frozen", "batch"])
def trained(request, data, tmp_path_factory):
    """Both phases and the evaluation, called as functions; the experiment's folder and the summary."""
    out = tmp_path_factory.mktemp("out") / "experiment"
    flags = ["--base_dir", str(data), "--output_dir", str(out), *SMALL]
    train_recon.main(train_recon.parser().settings(flags))
    train_seg.main(train_seg.parser().settings([*flags, "--encoder_bn", request.param]))
    summary = evaluation.main(evaluation.settings(["--weights", str(out / "seg" / "best.pth"), "--workers", "0"]))
    return out, summary


def test_training_leaves_logs_and_checkpoints(trained):
    out, _ = trained
    for phase in ("recon", "seg"):
        assert [entry["epoch"] for entry in read_log(out / phase / "log.jsonl")] == [1, 2]
        for name in ("best.pth", "last.pth"):
            assert load_checkpoint(out / phase / name, phase)["settings"]["img_size"] == 32


def test_phase_2_holds_the_encoder_of_phase_1_unchanged(trained):
    out, _ = trained
    recon = load_checkpoint(out / "recon" / "best.pth", "recon")["model"]
    seg = load_checkpoint(out / "seg" / "last.pth", "seg")["model"]
    encoder = {name: value for name, value in seg.items() if name.startswith("encoder.")}
    assert encoder
    for name, value in encoder.items():
        assert torch.equal(value, recon[name.replace("encoder.", "encode.")])


def test_evaluation_repeats_what_validation_saw(trained):
    out, summary = trained
    best = load_checkpoint(out / "seg" / "best.pth", "seg")
    for name, value in summary["mean_over_images"].items():
        assert value == pytest.approx(best["figures"][name], rel=1e-5, abs=1e-9), name


def test_evaluation_files_agree_with_the_summary(trained):
    out, summary = trained
    folder = out / "evaluation" / "best-val"
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    rows = list(csv.DictReader((folder / "per_image.csv").open(encoding="utf-8")))
    assert len(rows) == summary["images"] == 2
    ious = [float(row["iou"]) for row in rows]
    assert ious == sorted(ious)
    assert np.mean(ious) == pytest.approx(summary["mean_over_images"]["iou"])
    tp, fp, fn = (sum(float(row[name]) for row in rows) for name in ("TP", "FP", "FN"))
    assert summary["pooled_iou"] == pytest.approx((tp + 1e-5) / (tp + fp + fn + 1e-5))
    assert (folder / "examples.png").exists()


def test_a_checkpoint_brings_its_settings_and_a_flag_wins(trained, data):
    weights = ["--weights", str(trained[0] / "seg" / "best.pth")]
    recorded = evaluation.settings(weights)
    assert (recorded.img_size, recorded.variant, recorded.base_dir) == (32, "srs_tiny", str(data))
    assert evaluation.settings([*weights, "--img_size", "64"]).img_size == 64
    elsewhere = evaluation.settings([*weights, "--Dataset", "BUSI"])
    assert (elsewhere.base_dir, elsewhere.img_size) == ("DataSet/BUSI", 32)


def test_evaluation_of_the_authors_weights(golden, data, tmp_path):
    paths = {name: tmp_path / f"{name}.pth" for name in ("SRS_R", "SRS_S")}
    for name, path in paths.items():
        torch.save(golden.state(name), path)
    flags = ["--base_dir", data, "--recon_weights", paths["SRS_R"], "--seg_weights", paths["SRS_S"], "--img_size", 32]
    flags += ["--encoder_bn", "batch", "--normalization", "authors", "--workers", 0, "--output_dir", tmp_path / "out"]
    args = evaluation.settings(list(map(str, flags)))
    summary = evaluation.main(args)
    model, _ = evaluation.load_model(args)
    case = checked_cases(args, {"validation": "val.txt"})["validation"][0]
    sample = evaluation_loader(args, [case], 1).dataset[0]
    with torch.no_grad():
        expected = paper_metrics(model(sample["image"][None])[0], sample["mask"])
    rows = csv.DictReader((tmp_path / "out" / "evaluation" / "SRS_S-val-32px" / "per_image.csv").open(encoding="utf-8"))
    row = next(row for row in rows if row["name"] == case.name)
    assert float(row["iou"]) == pytest.approx(expected["iou"], rel=1e-3)
    assert summary["images"] == 2
    assert summary["provenance"]["weights"] == {
        f"{part}_weights": sha256(path) for part, path in (("recon", paths["SRS_R"]), ("seg", paths["SRS_S"]))
    }


def test_phase_2_starts_from_the_authors_encoder(golden, data, tmp_path):
    torch.save(golden.state("SRS_R"), tmp_path / "SRS_R.pth")
    file = tmp_path / "SRS_R.pth"
    flags = ["--base_dir", str(data), "--recon_weights", str(file)]
    args = train_seg.parser().settings([*flags, "--normalization", "authors"])
    encoder = load_pretrained(file, args)
    assert torch.equal(encoder.stem[0].weight, golden.state("SRS_R")["conv1.0.weight"])
    with pytest.raises(UserError, match="--normalization authors, but this run uses --normalization imagenet"):
        load_pretrained(file, train_seg.parser().settings(flags))


@pytest.mark.parametrize(
    ("script", "argv", "message"),
    [
        ("train_recon.py", [], "no data given"),
        ("train_recon.py", ["--Dataset", "NOPE"], "BUSI"),
        ("train_recon.py", ["--base_dir", "nowhere"], "images/case0001.png"),
        ("train_seg.py", ["--Dataset", "BUS"], "DataSet/bus was not found"),
        ("train_seg.py", ["--base_dir", "x", "--epochs", "-1"], "at least 1"),
        ("evaluation.py", ["--Dataset", "KBT2019"], "prepare_data.py sample"),
        ("evaluation.py", ["--Dataset", "BUS", "--seg_weights", "a.pth"], "two files"),
        ("evaluation.py", ["--weights", "nowhere.pth"], "nowhere.pth"),
        ("prepare_data.py", ["busi", "nowhere", "out"], "benign"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(script, argv, message, tmp_path):
    command = [sys.executable, str(ROOT / script), *argv]
    done = waiting.run(command, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 2)])
def test_a_signal_to_the_whole_job_stops_it_and_resume_goes_on(data, tmp_path, number, workers):
    flags = ["--base_dir", data, "--output_dir", tmp_path, *SMALL, "--epochs", 4, "--workers", workers]
    command = [sys.executable, str(ROOT / "train_recon.py"), *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        waiting.wait_for((tmp_path / "recon" / "last.pth").exists, process)
        os.killpg(process.pid, number)
        _, errors = waiting.finish(process)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors and "Continue with --resume" in errors
    done = run_script("train_recon.py", *flags, "--resume")
    assert done.returncode == 0 and "resuming from" in done.stdout
    assert [entry["epoch"] for entry in read_log(tmp_path / "recon" / "log.jsonl")] == [1, 2, 3, 4]


def test_phase_2_without_phase_1_says_so(data, tmp_path):
    done = run_script("train_seg.py", "--base_dir", data, "--output_dir", tmp_path, *SMALL)
    assert done.returncode == 2 and "recon/best.pth was not found" in done.stderr and "train_recon.py" in done.stderr


def test_a_normalization_that_differs_between_the_phases_says_so(trained, data, tmp_path):
    flags = ["--base_dir", data, "--recon_weights", trained[0] / "recon" / "best.pth", "--normalization", "authors"]
    done = run_script("train_seg.py", *flags, "--output_dir", tmp_path, *SMALL)
    assert done.returncode == 2 and "--normalization imagenet" in done.stderr


def test_a_checkpoint_of_another_variant_is_one_error_line(trained, data, tmp_path):
    out, _ = trained
    flags = ["--base_dir", data, *SMALL, "--variant", "srs", "--output_dir", tmp_path / "new"]
    done = run_script("train_seg.py", *flags, "--init_from", out / "seg" / "best.pth")
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert done.returncode == 2 and "best.pth does not fit the network" in line and "Traceback" not in done.stderr
    assert not (tmp_path / "new" / "seg" / "last.pth").exists()


def test_prepare_data_makes_both_looks(tmp_path, capsys):
    for look in ("ultrasound", "infrared"):
        argv = ["sample", str(tmp_path / look), "--look", look, "--count", "4", "--size", "32"]
        prepare_data.main(prepare_data.parser().parse_args(argv))
        assert len(list((tmp_path / look / "images").iterdir())) == 4
    assert "infrared-like" in capsys.readouterr().out


@pytest.fixture
def deterministic_mode():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic_mode")
def test_both_phases_use_deterministic_algorithms_where_asked(data, tmp_path):
    """On a CPU torch refuses what has no deterministic algorithm, as it does on CUDA."""
    flags = ["--base_dir", str(data), "--output_dir", str(tmp_path), *SMALL, "--epochs", "1"]
    train_recon.main(train_recon.parser().settings(flags))
    assert not torch.are_deterministic_algorithms_enabled()
    for script in (train_recon, train_seg):
        script.main(script.parser().settings([*flags, "--deterministic", "--resume", "auto"]))
        assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.long
def test_bfloat16_trains_float32_weights_and_evaluates(data, tmp_path):
    losses = {}
    for amp in ("off", "bf16"):
        flags = ["--base_dir", str(data), "--output_dir", str(tmp_path / amp), *SMALL, "--amp", amp]
        train_recon.main(train_recon.parser().settings(flags))
        train_seg.main(train_seg.parser().settings(flags))
        state = load_checkpoint(tmp_path / amp / "seg" / "last.pth", "seg")
        assert all(value.dtype in (torch.float32, torch.int64) for value in state["model"].values())
        weights = str(tmp_path / amp / "seg" / "last.pth")
        summary = evaluation.main(evaluation.settings(["--weights", weights, "--workers", "0"]))
        assert summary["settings"]["amp"] == amp, "as it was trained"
        assert summary["mean_over_images"]["ACC"] == pytest.approx(state["figures"]["ACC"])
        log = [read_log(tmp_path / amp / phase / "log.jsonl") for phase in ("recon", "seg")]
        losses[amp] = [entry["train"]["loss"] for entries in log for entry in entries]
    assert losses["bf16"] == pytest.approx(losses["off"], rel=0.1) and losses["bf16"] != losses["off"]


def test_one_process_has_nothing_to_synchronise(data, tmp_path):
    """A job script may always pass --sync_bn: the whole batch is the process's own."""
    ends = []
    for name, more in (("plain", []), ("synchronised", ["--sync_bn"])):
        flags = ["--base_dir", str(data), "--output_dir", str(tmp_path / name), *SMALL, "--epochs", "1", *more]
        train_recon.main(train_recon.parser().settings(flags))
        ends.append(load_checkpoint(tmp_path / name / "recon" / "last.pth", "recon")["model"])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
