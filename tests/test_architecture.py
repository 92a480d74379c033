"""A newcomer's six changes, by the text of docs/how_to/extend.md: its blocks added, its commands run."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from small import need

import evaluation
import export
import models
import predict
import train_recon
import train_seg
from datasets.prepare.sample import make_sample
from models.registry import Variant
from utils.common.errors import UserError
from utils.common.run_log import read_log
from utils.common.signals import Stopped
from utils.networks.checkpoints import load_checkpoint
from utils.settings.refusals import naming_the_network

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "how_to" / "extend.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## How do I add (.+?)\?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SMALL = ["--img_size", "32", "--batch_size", "4", "--workers", "0"]
SEG = Path("checkpoints/sample/seg")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with data and a trained phase 1."""
    base = tmp_path_factory.mktemp("base") / "project"
    make_sample(base / "DataSet" / "sample", count=8, size=32)
    flags = ["--base_dir", str(base / "DataSet" / "sample"), "--output_dir", str(base / "checkpoints" / "sample")]
    train_recon.main(train_recon.settings([*flags, *SMALL, "--epochs", "1", "--variant", "srs_tiny"]))
    return base


class Newcomer:
    """Someone who follows a section of the page, in a separate folder."""

    def __init__(self, monkeypatch, folder):
        self.monkeypatch, self.folder = monkeypatch, folder

    def follow(self, section):
        text = SECTIONS[section]
        for path, table, code in re.findall(r"```python\n# ([\w/.]+)(?:, in (\w+))?\n(.*?)```", text, re.DOTALL):
            module = path.removesuffix(".py").replace("/", ".")
            if table:
                self._add_entry(importlib.import_module(module), table, code)
            else:
                self._add_file(path, module, code)
        return re.findall(r"^python (.+)$", text, re.MULTILINE)

    def _add_entry(self, module, table, code):
        for key, value in eval(f"{{{code}}}", vars(module)).items():  # our own page
            self.monkeypatch.setitem(getattr(module, table), key, value)

    def _add_file(self, path, module, code):
        package = importlib.import_module(module.rpartition(".")[0])
        (self.folder / path).parent.mkdir(parents=True)
        (self.folder / path).write_text(code)
        self.monkeypatch.setattr(package, "__path__", [*package.__path__, str((self.folder / path).parent)])
        self.monkeypatch.delitem(sys.modules, module, raising=False)

    def run(self, command, epochs=1):
        script, *argv = shlex.split(command)
        if script.startswith("train_"):
            argv += [*SMALL, "--epochs", str(epochs)]
        if script == "evaluation.py" and "--compare" not in argv:
            argv += ["--workers", "0"]
        module = {"train_seg.py": train_seg, "evaluation.py": evaluation, "predict.py": predict}.get(script, export)
        parse = export.parser().parse_args if module is export else module.settings
        return module.main(parse(argv))


@pytest.fixture
def newcomer(base, tmp_path, monkeypatch):
    before = set(sys.modules)
    shutil.copytree(base, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    yield Newcomer(monkeypatch, tmp_path / "added")
    for name in set(sys.modules) - before:
        if name.startswith(("models.dynamic.", "models.baselines.", "utils.training.losses.")):
            del sys.modules[name]


def stop_at(monkeypatch, number):
    """The process gets SIGTERM in that training step."""
    steps, step = 0, train_seg.Segmentation.step

    def counted(*args):
        nonlocal steps
        steps += torch.is_grad_enabled()
        if steps == number and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(train_seg.Segmentation, "step", counted)


def stopped_and_resumed(newcomer, train, resume):
    with newcomer.monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Stopped):
            newcomer.run(train, epochs=2)
    newcomer.run(resume, epochs=2)
    assert [entry["epoch"] for entry in read_log(SEG / "log.jsonl")] == [1, 2]
    return load_checkpoint(SEG / "best.pth", "seg")


def test_the_page_has_the_six_changes():
    assert list(SECTIONS) == [
        "a variant",
        "a layer in DPConv's place",
        "a loss",
        "a metric",
        "a network",
        "DPConv to a network",
    ]


@pytest.mark.slow
@pytest.mark.long
def test_a_variant(newcomer):
    train, evaluate = newcomer.follow("a variant")
    newcomer.run(train)
    assert load_checkpoint(SEG / "best.pth", "seg")["model"]["segmenter.encode.nodes.2.0.conv1.weight"].shape[0] == 16
    newcomer.run(evaluate)
    assert "SRS on sample" in Path("report/report.html").read_text()


@pytest.mark.parametrize(
    ("widths", "depths", "rule"),
    [
        ((12, 16, 16, 64), (1, 1, 1, 1), "widths must be multiples of 8"),
        ((8, 16, 64), (1, 1, 1, 1), "4 rows, got 3 widths"),
        ((8, 16, 16, 64), (1, 1, 0, 1), "depths must be at least 1"),
        (
            (8, 16, 16, 72),
            (1, 1, 1, 1),
            "DPConv needs the channels of its result to be a multiple of those of its source",
        ),
    ],
)
def test_widths_that_do_not_fit_name_the_flag_and_the_rule(monkeypatch, widths, depths, rule):
    monkeypatch.setitem(models.VARIANTS, "odd", Variant(widths, depths))
    args = train_seg.settings(["--base_dir", "nowhere", "--variant", "odd"])
    said = f"^--variant odd: [^\n]*{rule}[^\n]*$"
    if "DPConv" in rule:  # what a layer wants of the last width is the layer's own rule
        with pytest.raises(UserError, match=said), naming_the_network(args):
            models.build(args.variant, layer=args.dynamic)
    else:
        for script in (train_recon, train_seg):
            with pytest.raises(UserError, match=said):
                script.main(args)


@pytest.mark.slow
@pytest.mark.long
def test_a_layer_in_dpconvs_place(newcomer):
    train, resume, evaluate, masks, exported = newcomer.follow("a layer in DPConv's place")
    checkpoint = stopped_and_resumed(newcomer, train, resume)
    assert checkpoint["settings"]["dynamic"] == "offset"
    names = {name for name in checkpoint["model"] if name.startswith("dpconv.")}
    assert names == {"dpconv.project.weight", "dpconv.project.bias"}
    with pytest.raises(UserError, match="dynamic was offset, now dpconv"):
        newcomer.run("train_seg.py --Dataset sample --variant srs_tiny --dynamic dpconv --resume", epochs=2)
    summary = newcomer.run(evaluate)
    assert summary["settings"]["dynamic"] == "offset"
    assert summary["mean_over_images"]["iou"] == pytest.approx(checkpoint["figures"]["iou"], rel=1e-5)
    page = Path("report/report.html").read_text()
    assert 'id="layer"' not in page and "Worst, median and best cases" in page
    assert newcomer.run(masks).predicted == 8
    assert newcomer.run(exported).is_file()


@pytest.mark.slow
@pytest.mark.long
def test_a_loss(newcomer):
    (train,) = newcomer.follow("a loss")
    newcomer.run(train)
    assert load_checkpoint(SEG / "last.pth", "seg")["settings"]["loss"] == "soft_iou"
    assert read_log(SEG / "log.jsonl")[-1]["train"]["loss"] < 1


@pytest.mark.slow
@pytest.mark.long
def test_a_figure_from_counts_and_one_from_masks(newcomer, capsys):
    train, evaluate, again, compare = newcomer.follow("a metric")
    newcomer.run(train)
    assert "FPR" in read_log(SEG / "log.jsonl")[-1]["val"]
    capsys.readouterr()
    newcomer.run(evaluate)
    printed = capsys.readouterr().out
    assert re.search(r"^  FPR +\d+\.\d\d %  \[.*\]$", printed, re.M)
    assert re.search(r"^  area error +\d+\.\d\d pixels  \[.*\], over 2 images$", printed, re.M)
    folder = Path("checkpoints/sample/evaluation/best-val")
    (first, second) = csv.DictReader((folder / "per_image.csv").open())
    means = json.loads((folder / "summary.json").read_text())["mean_over_images"]
    for name in ("FPR", "area_error"):
        assert means[name] == pytest.approx((float(first[name]) + float(second[name])) / 2)
    assert means["area_error_undefined"] == 0
    newcomer.run(again)
    newcomer.run(compare)
    compared = capsys.readouterr().out
    for page in (Path("report/report.html").read_text(), Path("comparison/comparison.html").read_text(), compared):
        assert "FPR (%)" in page and "area error" in page


@pytest.mark.slow
@pytest.mark.long
def test_a_network_of_another_library(newcomer):
    pytest.importorskip("monai")
    train, resume, evaluate, masks, tiles, exported = newcomer.follow("a network")
    assert "basic_unet" in models.networks() and "models.baselines.basic_unet" not in sys.modules
    shutil.rmtree("checkpoints/sample/recon")
    with pytest.raises(UserError, match=r"^--variant basic_unet has no phase 1[^\n]*$"):
        train_recon.main(train_recon.settings(["--Dataset", "sample", "--variant", "basic_unet"]))
    for flag, message in (
        ("--recon_weights x.pth", "--recon_weights: --variant basic_unet uses no pretrained encoder"),
        ("--dynamic static", "--variant basic_unet --dynamic static: [^\n]* a variant of SRS"),
        ("--encoder_bn batch", "--variant basic_unet: [^\n]* a variant of SRS"),
    ):
        with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
            newcomer.run(f"{train} {flag}")
    checkpoint = stopped_and_resumed(newcomer, train, resume)
    assert all(name.startswith("network.") for name in checkpoint["model"])
    summary = newcomer.run(evaluate)
    assert summary["mean_over_images"]["iou"] == pytest.approx(checkpoint["figures"]["iou"], rel=1e-5)
    page = Path("report/report.html").read_text()
    assert "basic_unet on sample" in page and 'id="layer"' not in page
    assert newcomer.run(masks).predicted == newcomer.run(tiles).predicted == 8
    assert newcomer.run(exported).is_file()
    for name in ("onnx", "openvino"):
        if importlib.util.find_spec(name):
            newcomer.run(exported.replace("torchscript", name))


@pytest.mark.slow
@pytest.mark.long
def test_dpconv_in_a_network_of_another_library(newcomer):
    need("segmentation_models_pytorch")
    train, swap = newcomer.follow("DPConv to a network")
    pretrained = load_checkpoint(Path("checkpoints/sample/recon/best.pth"), "recon")["model"]
    newcomer.run(train)
    state = load_checkpoint(SEG / "best.pth", "seg")["model"]
    name = next(name for name in state if name.startswith("encoder.") and name.endswith("conv1.weight"))
    assert torch.equal(state[name], pretrained["encode." + name.removeprefix("encoder.")])
    shutil.rmtree("checkpoints/sample/recon")
    assert newcomer.run(swap)["code"]["given"] == "swap", "the checkpoint contains the encoder"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("layer", ["none", "static"])
def test_a_layer_without_an_encoder_needs_no_phase_1(newcomer, layer):
    shutil.rmtree("checkpoints/sample/recon")
    command = f"train_seg.py --Dataset sample --variant srs_tiny --dynamic {layer}"
    with pytest.raises(UserError, match=r"^--recon_weights: [^\n]* uses no pretrained encoder. Omit --recon_weights$"):
        newcomer.run(f"{command} --recon_weights x.pth")
    newcomer.run(command)
    state = load_checkpoint(SEG / "best.pth", "seg")["model"]
    assert not [name for name in state if name.startswith("encoder.")]
    newcomer.run("evaluation.py --Dataset sample --report report")
    assert "What DPConv does" not in Path("report/report.html").read_text()
