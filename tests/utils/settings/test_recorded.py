"""What a checkpoint says of settings passes the command line's rules; where things are written it never says."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_weights import save_random_weights

import evaluation
import export
import train_recon
import train_seg
from utils.common.errors import UserError
from utils.prediction.predictor import Predictor
from utils.settings.recorded import recorded_settings

WRONG = [
    ({"img_size": 10**9}, "must be at most 16384, got 1000000000"),
    ({"img_size": -8}, "must be at least 16, got -8"),
    ({"img_size": 64.5}, "invalid"),
    ({"img_size": "1" * 5000}, "invalid|must be at most"),
    ({"img_size": [64]}, "single value"),
    ({"img_size": True}, "expected one argument"),
    ({"crop": 10**9}, "at most 16384"),
    ({"normalization": "nope"}, "invalid choice: 'nope'"),
    ({"variant": "huge"}, "invalid choice"),
    ({"encoder_bn": "nope"}, "invalid choice"),
    ({"amp": "int8"}, "invalid choice"),
    ({"white_level": 0}, "between 1 and 65535"),
    ({"mask_interpolation": "cubic"}, "invalid choice"),
    ({"fit_masks": "perhaps"}, "ignored explicit argument"),
    ({"seed": 2**32}, "must be at most 4294967295"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_value_that_the_command_line_refuses_is_refused(tmp_path, wrong, message):
    (name,) = wrong
    with pytest.raises(UserError, match=rf"x\.pth: invalid setting {name} .*({message})") as caught:
        recorded_settings(wrong, tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"loss": "removed"}, {"watch": "bogus"}])
def test_a_run_resumes_only_with_what_its_script_takes(tmp_path, wrong):
    """Its own flags, too: the configuration may name them, and the recorded value then wins."""
    out = tmp_path / "out"
    save_random_weights(out / "seg" / "last.pth", base_dir="x", **wrong)
    (name,) = wrong
    with pytest.raises(UserError, match=rf"last\.pth: invalid setting {name} .*invalid choice"):
        train_seg.settings(["--base_dir", "x", "--output_dir", str(out), "--resume"])


def test_a_repeated_flag_is_recorded_as_a_list(tmp_path):
    several = {"unlabeled_dir": ["a", "b"]}
    assert recorded_settings(several, tmp_path, train_recon.parser()) == several


@pytest.mark.parametrize("script", [train_recon, train_seg])
def test_the_settings_of_a_run_are_what_they_were(script, tmp_path):
    flags = ["--base_dir", "a b/ü", "--mask_threshold", "1e-05", "--crop", "32", "--no-channels_last", "--resume"]
    settings = vars(script.parser().settings([*flags, "--white_level", "4095", "--threads", "3", "--fit_masks"]))
    assert recorded_settings(settings, tmp_path) == settings
    later = {"came_later": "as it is", "list": [1, "a"]}
    assert recorded_settings(later, tmp_path) == later


def test_every_script_that_takes_weights_asks(tmp_path):
    path = save_random_weights(tmp_path / "x.pth", img_size=10**9, base_dir="x", val_file_dir="v")
    for use in (
        lambda: evaluation.settings(["--weights", str(path)]),
        lambda: Predictor(path, device="cpu"),
        lambda: export.load(export.parser().parse_args(["--weights", str(path), "--format", "onnx"])),
    ):
        with pytest.raises(UserError, match="invalid setting img_size"):
            use()


@pytest.mark.parametrize("hostile", [{"output_dir": "/elsewhere"}, {"Dataset": "../../elsewhere"}, {"Dataset": "/e"}])
@pytest.mark.parametrize("below", ["run/seg/best.pth", "run/best.pth"])
def test_results_are_written_beside_the_weights(tmp_path, hostile, below):
    recorded = {"base_dir": "data", "val_file_dir": "../../../etc/val.txt", "Dataset": "set", **hostile}
    path = tmp_path / below
    save_random_weights(path, **recorded)
    found = evaluation.results_folder(evaluation.settings(["--weights", str(path)]))
    assert found == tmp_path / "run" / "evaluation" / "best-val"
    chosen = evaluation.settings(["--weights", str(path), "--output_dir", "mine"])
    assert evaluation.results_folder(chosen) == Path("mine/evaluation/best-val")
    other = evaluation.settings(["--weights", str(path), "--Dataset", "BUSI"])
    assert evaluation.results_folder(other).parts[:3] == ("checkpoints", "BUSI", "evaluation")


def test_weights_named_from_within_their_folder(tmp_path, monkeypatch):
    save_random_weights(tmp_path / "run" / "seg" / "best.pth", base_dir="data", Dataset="set", val_file_dir="val.txt")
    monkeypatch.chdir(tmp_path / "run" / "seg")
    folder = evaluation.results_folder(evaluation.settings(["--weights", "best.pth"]))
    assert folder.resolve() == tmp_path / "run" / "evaluation" / "best-val"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "best-val"),
        (["--img_size", "32"], "best-val"),
        (["--img_size", "48"], "best-val-48px"),
        (["--img_size", "48", "--resize", "back", "--code", "swap"], "best-val-back-48px-swap"),
        (["--img_size", "48", "--resize", "keep"], "best-val-keep"),
        (["--normalization", "imagenet", "--amp", "off", "--engine", "torch"], "best-val"),
        (["--normalization", "authors", "--tta"], "best-val-normalization_authors-tta"),
        (["--white_level", "4095", "--encoder_bn", "batch"], "best-val-white_level_4095-encoder_bn_batch"),
        (
            ["--mask_threshold", "3", "--mask_interpolation", "nearest"],
            "best-val-mask_interpolation_nearest-mask_threshold_3.0",
        ),
        (["--amp", "bf16", "--engine", "openvino"], "best-val-amp_bf16-engine_openvino"),
    ],
)
def test_results_with_other_settings_are_in_another_folder(tmp_path, flags, name):
    masks = {"mask_interpolation": "exact", "mask_threshold": None}
    path = save_random_weights(tmp_path / "run" / "seg" / "best.pth", base_dir="data", val_file_dir="val.txt", **masks)
    args = evaluation.settings(["--weights", str(path), *flags])
    assert evaluation.results_folder(args) == tmp_path / "run" / "evaluation" / name
    assert ("departures" in args) == ("px" in name or "_" in name), "settings of the training are as before"


def test_results_of_the_authors_files_are_named_by_what_differs_from_their_training(tmp_path):
    given = ["--base_dir", str(tmp_path), "--recon_weights", "R.pth", "--seg_weights", "S.pth"]
    name = "S-val-normalization_imagenet-encoder_bn_frozen"
    assert evaluation.results_folder(evaluation.settings(given)).name == name
    given += ["--normalization", "authors", "--encoder_bn", "batch"]
    assert evaluation.results_folder(evaluation.settings(given)).name == "S-val"
    assert evaluation.results_folder(evaluation.settings([*given, "--img_size", "48"])).name == "S-val-48px"
