"""Every layer in DPConv's place, every source and UNeXt go through the scripts: trained, evaluated, exported."""

from __future__ import annotations

import pytest

import evaluation
import export
import models
import train_recon
import train_seg
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.run_log import read_log
from utils.networks.checkpoints import load_checkpoint

SMALL = ["--img_size", "32", "--batch_size", "4", "--workers", "0", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with data and a trained phase 1."""
    base = tmp_path_factory.mktemp("base")
    make_sample(base / "set", count=8, size=32)
    argv = ["--base_dir", str(base / "set"), "--output_dir", str(base), *SMALL, "--variant", "srs_tiny"]
    train_recon.main(train_recon.settings(argv))
    return base


def train(base, folder, *flags):
    argv = ["--base_dir", str(base / "set"), "--output_dir", str(folder), *SMALL, *flags]
    train_seg.main(train_seg.settings(argv))
    return load_checkpoint(folder / "seg" / "best.pth", "seg")


CASES = [
    *((["--variant", "srs_tiny", "--dynamic", name], True) for name in models.layers()),
    (["--variant", "srs_tiny", "--kernel_source", "random"], True),
    (["--variant", "srs_tiny", "--kernel_source", "self"], True),
    (["--variant", "srs_tiny", "--kernel_source", "self", "--dynamic", "odconv"], False),
    (["--variant", "unext"], True),
]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("flags", "exported"), CASES, ids=str)
def test_an_epoch_an_evaluation_and_an_export(base, tmp_path, flags, exported):
    options = dict(zip(flags[::2], flags[1::2], strict=True))
    network = options["--variant"], options.get("--dynamic", "dpconv"), options.get("--kernel_source", "recon")
    recon = ["--recon_weights", str(base / "recon" / "best.pth")]
    if models.needs_phase_1(*network):
        checkpoint = train(base, tmp_path, *flags, *recon)
    else:
        with pytest.raises(
            UserError, match=r"^--recon_weights: [^\n]* uses no pretrained encoder\. Omit --recon_weights$"
        ):
            train(base, tmp_path, *flags, *recon)
        checkpoint = train(base, tmp_path, *flags)
    assert read_log(tmp_path / "seg" / "log.jsonl")[-1]["train"]["loss"] < 2
    weights = str(tmp_path / "seg" / "best.pth")
    summary = evaluation.main(evaluation.settings(["--weights", weights, "--workers", "0"]))
    assert summary["mean_over_images"]["iou"] == pytest.approx(checkpoint["figures"]["iou"], rel=1e-4)
    assert [summary["settings"][name] for name in ("variant", "dynamic", "kernel_source")] == list(network)
    if exported:
        pytest.importorskip("onnxruntime")
        export.main(export.parser().parse_args(["--weights", weights, "--format", "onnx"]))


@pytest.mark.slow
@pytest.mark.long
def test_an_untrained_encoder_is_the_same_for_the_same_seed(base, tmp_path):
    first, second, other = (
        train(base, tmp_path / name, "--variant", "srs_tiny", "--kernel_source", "random", "--seed", seed)["model"]
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    name = "encoder.nodes.0.0.conv1.weight"
    assert (first[name] == second[name]).all() and (first[name] != other[name]).any()


def test_unext_has_no_phase_1():
    with pytest.raises(UserError, match=r"^--variant unext has no phase 1[^\n]*$"):
        train_recon.main(train_recon.settings(["--Dataset", "sample", "--variant", "unext"]))
