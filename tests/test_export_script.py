"""export.py and evaluation.py --engine as a user calls them, with the smallest real variant."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import waiting

import evaluation
import export
import models
from datasets.prepare.sample import make_sample, ultrasound_image
from datasets.transforms import Transform
from utils.common.errors import UserError
from utils.networks.checkpoints import save_checkpoint
from utils.networks.export import METADATA
from utils.prediction.predictor import Predictor

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {"iou": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, count=8, size=32)
    return base


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    """A checkpoint that marks about half of the pixels."""
    torch.manual_seed(0)
    srs = models.build_srs("srs_tiny")
    images = torch.stack([Transform(32)(cv2.imread(str(path)))[0] for path in sorted((data / "images").iterdir())])
    with torch.no_grad():
        srs.segmenter.decode.head.bias.sub_(srs.eval()(images).median())
    settings = {
        "variant": "srs_tiny",
        "encoder_bn": "frozen",
        "img_size": 32,
        "normalization": "imagenet",
        "amp": "off",
    }
    content = {"phase": "seg", "settings": settings, "model": srs.state_dict(), "epoch": 3, "figures": FIGURES}
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    save_checkpoint(path, content)
    return path


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    output = tmp_path_factory.mktemp("exported") / "best.onnx"
    run("--weights", weights, "--format", "onnx", "--output", output)
    return output


def run(*argv):
    return export.main(export.parser().parse_args([str(word) for word in argv]))


def test_the_file_stands_beside_the_weights_and_says_what_it_is(weights, capsys):
    path = run("--weights", weights, "--format", "torchscript")
    assert path == weights.with_suffix(".pt")
    files = {METADATA: ""}
    torch.jit.load(path, _extra_files=files)
    said = json.loads(files[METADATA])
    assert (said["variant"], said["img_size"], said["epoch"]) == ("srs_tiny", "32", "3")
    assert json.loads(said["validation_figures"]) == FIGURES and len(said["weights_sha256"]) == 64
    printed = capsys.readouterr().out
    assert printed.count("of the largest logit") == 6 and f"wrote {path}" in printed


def test_the_metadata_say_at_which_size_and_where_masks_are(weights, tmp_path):
    content = torch.load(weights, weights_only=True)
    content |= {"mask_shift": (0.25, 0.5), "settings": {**content["settings"], "crop": 32}}
    save_checkpoint(tmp_path / "cropped.pth", content)
    for file, expected in ((weights, ("img_size", [0, 0])), (tmp_path / "cropped.pth", ("keep", [0.25, 0.5]))):
        _, _, metadata = export.load(export.parser().parse_args(["--weights", str(file), "--format", "onnx"]))
        assert (metadata["resize"], json.loads(metadata["mask_shift"])) == expected
    del content["settings"]["encoder_bn"], content["settings"]["img_size"]  # of a converted checkpoint
    save_checkpoint(tmp_path / "converted.pth", content)
    args = export.parser().parse_args(["--weights", str(tmp_path / "converted.pth"), "--format", "onnx"])
    assert export.load(args)[2]["img_size"] == "256"


@pytest.mark.parametrize(
    ("metadata", "settings"),
    [
        ({}, {}),
        ({"mask_shift": "[0.4, -0.3]"}, {"mask_shift": (0.4, -0.3)}),
        ({"mask_shift": "null"}, {"mask_shift": None}),
        ({"resize": "keep"}, {"resize": "keep"}),
    ],
    ids=["plain", "shift", "authors", "keep"],
)
def test_the_python_of_the_docs_gives_the_masks_of_predict(
    exported, weights, tmp_path, monkeypatch, metadata, settings
):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    model = onnx.load(exported)
    onnx.helper.set_model_props(model, {prop.key: prop.value for prop in model.metadata_props} | metadata)
    onnx.save(model, "best.onnx")
    gray, _ = ultrasound_image(np.random.default_rng(0), 64)
    cv2.imwrite("case.png", gray[:50, :60])
    page = (ROOT / "docs" / "how_to" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(code, names)  # our own file
    predict = Predictor(weights)
    for name, value in settings.items():
        setattr(predict, name, value)
    predict.transform = Transform(None if predict.resize == "keep" else 32)
    expected = predict("case.png")
    assert 0.05 < expected.mean() < 0.95
    assert (names["mask"] != expected).mean() < 0.02, "OpenCV rounds what it resizes"


def test_evaluation_gives_the_same_figures(weights, data, tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    flags = ["--weights", str(weights), "--base_dir", str(data), "--workers", "0", "--threads", "1"]
    figures = {}
    for engine in ("torch", "onnxruntime"):
        args = evaluation.settings([*flags, "--output_dir", str(tmp_path / engine), "--engine", engine])
        summary = evaluation.main(args)
        figures[engine] = summary["mean_over_images"]
        assert summary["settings"]["engine"] == engine
    assert figures["onnxruntime"] == pytest.approx(figures["torch"], abs=2e-3)
    assert "exported the network to onnxruntime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "onnx"], "no weights given"),
        (["--format", "onnx", "--seg_weights", "SRS_S.pth"], "two files"),
        (["--format", "onnx", "--weights", "WEIGHTS", "--output", "srs.pt"], r"must end in \.onnx"),
    ],
)
def test_errors_say_what_to_do(weights, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(*(weights if flag == "WEIGHTS" else flag for flag in flags))
    assert not list(tmp_path.iterdir())


def test_an_error_is_one_message_and_exit_code_2(tmp_path):
    command = [sys.executable, str(ROOT / "export.py"), "--format", "onnx", "--weights", "nowhere.pth"]
    done = waiting.run(command, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "nowhere.pth" in done.stderr and "Traceback" not in done.stderr


def test_the_weights_are_not_overwritten(weights, tmp_path):
    renamed = tmp_path / "best.pt"
    renamed.write_bytes(weights.read_bytes())
    with pytest.raises(UserError, match=r"the export would overwrite --weights .*best\.pt: pass another --output"):
        run("--weights", renamed, "--format", "torchscript")
    assert renamed.read_bytes() == weights.read_bytes()


def test_the_weights_are_not_overwritten_by_the_second_file_of_openvino(weights, tmp_path):
    renamed = tmp_path / "pytorch_model.bin"
    renamed.write_bytes(weights.read_bytes())
    with pytest.raises(UserError, match=r"the export would overwrite --weights .*pytorch_model\.bin"):
        run("--weights", renamed, "--format", "openvino")
    assert renamed.read_bytes() == weights.read_bytes() and len(list(tmp_path.iterdir())) == 1


def test_neither_of_the_authors_files_is_overwritten(monkeypatch, tmp_path):
    files = [tmp_path / "SRS_R.pt", tmp_path / "SRS_S.pth"]
    for file in files:
        file.write_bytes(b"weights")
    monkeypatch.setattr(export, "load", lambda args: (None, files[1], {}))
    flags = "--recon_weights", files[0], "--seg_weights", files[1], "--format", "torchscript", "--output"
    with pytest.raises(UserError, match=r"the export would overwrite --recon_weights .*SRS_R\.pt"):
        run(*flags, files[0])
