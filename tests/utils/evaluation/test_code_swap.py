"""evaluation.py --code: a network made so that the code matters, and one so that it does not."""

from __future__ import annotations

import copy
import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import small_srs
from torch import nn

import evaluation
import models
from datasets.prepare.sample import make_sample
from models.protocols import code_maker
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.evaluation.code_swap import CodeTest, partners, run_code_test
from utils.evaluation.paired_tests import Paired
from utils.networks.checkpoints import save_checkpoint

CPU = torch.device("cpu")


class Reads(nn.Module):
    """A layer whose code is the mean of its source, and whose term is `strength` * code at every pixel."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def code(self, deep):
        return deep.mean((2, 3))

    def with_code(self, x, code):
        return x * 0 + self.strength * code[:, :, None, None]

    def forward(self, x, deep):
        return self.with_code(x, self.code(deep))


class Brightness(nn.Module):
    """Predicts pixels that are brighter than the image's mean, which it learns through the layer alone."""

    def __init__(self, strength):
        super().__init__()
        self.dpconv = Reads(strength)

    def deep_features(self, image):
        return image.mean(1, keepdim=True)

    def forward(self, image):
        x = image.mean(1, keepdim=True)
        return x + self.dpconv(x, self.deep_features(image))


class Images:
    """A loader of images of different brightness; their masks are the pixels over the mean."""

    def __init__(self, count=16, batch=5):
        torch.manual_seed(0)
        self.images = torch.randn(count, 3, 16, 16) + 3 * torch.arange(count)[:, None, None, None]
        gray = self.images.mean(1, keepdim=True)
        self.masks = (gray > gray.mean((2, 3), keepdim=True)).float()
        self.batch, self.dataset = batch, self
        self.cases = [type("Case", (), {"name": f"image{i}"}) for i in range(count)]

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        for i in range(0, len(self), self.batch):
            part = slice(i, i + self.batch)
            names = [case.name for case in self.cases[part]]
            yield {"image": self.images[part], "mask": self.masks[part], "name": names}


def run(network, given, loader=None, seed=41):
    return run_code_test(network, loader or Images(), Precision("off", CPU), given, seed)


@pytest.mark.parametrize("given", ["swap", "mean", "zero"])
def test_a_network_whose_code_matters(given):
    network = Brightness(-1)
    before = copy.deepcopy(network.state_dict())
    test = run(network, given)
    (row,) = (row for row in test.found if row.column == "iou")
    assert row.means[0] == pytest.approx(1) and row.difference < -0.3 and row.p < 0.01 and row.high < 0
    assert test.verdict().startswith("The image's own code matters: ") and test.words in test.verdict()
    assert ("No training image had such a code." in test.verdict()) == (given == "zero")
    assert test.changed >= 14
    assert network.state_dict().keys() == before.keys() and type(network.dpconv) is Reads


@pytest.mark.parametrize("given", ["swap", "mean"])
def test_the_images_with_both_codes_in_files(tmp_path, given):
    test = run(Brightness(-1), given)
    test.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"per_image-{name}.csv" for name in sorted(("own", given))
    ]
    own, other = (list(csv.DictReader((tmp_path / f"per_image-{name}.csv").open())) for name in ("own", given))
    assert [row["name"] for row in own] == [row["name"] for row in other] == [f"image{i}" for i in range(16)]
    differences = [float(b["iou"]) - float(a["iou"]) for a, b in zip(own, other, strict=True)]
    (row,) = (row for row in test.found if row.column == "iou")
    assert np.mean(differences) == pytest.approx(row.difference) and row.difference < -0.3


@pytest.mark.parametrize("given", ["swap", "mean", "zero"])
def test_a_network_whose_code_does_not_matter(given):
    test = run(Brightness(0), given)
    assert test.changed == 0 and all(row.difference == 0 and row.p == 1 for row in test.found)
    assert test.verdict().startswith("No change: with ") and "all 16 predictions" in test.verdict()


def test_a_difference_that_may_be_chance_is_no_effect():
    row = Paired("iou", "swap", 12, (0.50, 0.49), -0.01, -0.03, 0.01, 0.4, 5, 6)
    words = CodeTest("swap", [], [row], 11, [0.1], [], []).verdict()
    assert words == (
        "No effect was found: with another image's code, 11 of 12 predictions change, and IoU by -1.00 points on "
        "average (p 0.4, 95 % interval -3.00 to +1.00), which may be due to chance."
    )
    for p, high in ((0.4, -0.001), (0.01, 0.01)):
        words = CodeTest("swap", [], [replace(row, p=p, high=high)], 11, [0.1], [], []).verdict()
        assert words.startswith("Undecided: ") and words.endswith("; the test and the interval disagree.")


def test_a_code_of_another_image_may_be_the_better_one():
    loader = Images()
    loader.masks = 1 - loader.masks
    test = run(Brightness(-1), "swap", loader)
    assert test.verdict().startswith("The image's own code is not better")


def test_what_each_image_gets():
    """Through the layer, in the order of the list, whatever the batches are."""
    loader, network = Images(), Brightness(-1)
    own = loader.images.mean((1, 2, 3))
    order = partners(16, 7)
    seen = []
    with_code = Reads.with_code
    Reads.with_code = lambda self, x, code: seen.append(code.flatten()) or with_code(self, x, code)
    try:
        run(network, "swap", loader, seed=7)
    finally:
        Reads.with_code = with_code
    codes = torch.cat(seen)
    torch.testing.assert_close(codes[-16:], own[torch.from_numpy(order)])
    torch.testing.assert_close(codes[-32:-16], own)


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_every_image_serves_once_and_none_itself(count):
    found = partners(count, 3)
    assert sorted(found) == list(range(count)) and not (found == np.arange(count)).any()
    assert (partners(count, 3) == found).all()
    if count > 3:
        assert (partners(count, 4) != found).any()


def test_the_spread_is_of_codes_and_kernels():
    network = small_srs()
    loader = Images(count=4, batch=2)
    test = run(network, "mean", loader)
    with torch.no_grad():
        deep = network.deep_features(loader.images)
        code, kernels = network.dpconv.code(deep), network.dpconv.kernels(deep)
    for found, each in ((test.code_distance, code), (test.kernel_distance, kernels)):
        mean = each.mean(0)
        expected = [((one - mean).norm() / mean.norm()).item() for one in each]
        assert found == pytest.approx(expected, rel=1e-3)
    assert "code" in test.spread() and "kernel" in test.spread()
    plain = run(Brightness(1), "mean")
    assert plain.kernel_distance == plain.kernel_change == [] and plain.summary()["kernel_change"] is None


@pytest.mark.parametrize("given", ["swap", "mean", "zero"])
def test_how_much_the_given_code_changes_the_kernel(given):
    network = small_srs()
    loader = Images(count=4, batch=2)
    test = run(network, given, loader, seed=5)
    with torch.no_grad():
        code = network.dpconv.code(network.deep_features(loader.images))
        others = {"swap": code[torch.from_numpy(partners(4, 5))], "mean": code.mean(0).expand_as(code)}
        others["zero"] = torch.zeros_like(code)
        own, changed = (network.dpconv.kernels_of(codes).flatten(1) for codes in (code, others[given]))
    expected = (changed - own).norm(dim=1) / own.norm(dim=1)
    assert test.kernel_change == pytest.approx(expected.tolist(), rel=1e-3) and min(test.kernel_change) > 0
    assert test.summary()["kernel_change"]["largest"] == pytest.approx(expected.max().item(), rel=1e-3)
    assert "changes a kernel by" in test.spread()


@pytest.mark.parametrize("layer", ["dpconv", "gate", "condconv", "odconv", "dyconv", "dcd", "film"])
def test_every_layer_with_a_source_takes_other_codes(layer):
    network = models.build("srs_tiny", layer=layer).eval()
    test = run(network, "swap", Images(count=2))
    assert test.code_distance and all(math.isfinite(row.difference) for row in test.found if row.column == "iou")


class Halved(models.DPConv):
    """Its forward differs from with_code of the image's code."""

    def forward(self, x, deep):
        return super().forward(x, deep) / 2


class WithoutCode(Halved):
    with_code = property()


class CodeIsAPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.code = nn.Linear(64, 8)

    def forward(self, x, deep):
        return x * self.code(deep.mean((2, 3))).mean()


def test_a_layer_that_computes_something_else_is_refused():
    network = models.build("srs_tiny").eval()
    network.dpconv.__class__ = Halved
    with torch.no_grad():
        network.dpconv.expand.weight.normal_()
    with pytest.raises(UserError, match=r"Halved\.forward\(x, deep\) must be with_code\(x, code\(deep\)\)"):
        run(network, "swap")
    network.dpconv.__class__ = WithoutCode
    with pytest.raises(UserError, match=r"requires a layer with a method with_code\(x, code\); WithoutCode has none"):
        run(network, "swap")
    network.dpconv = CodeIsAPart()
    assert code_maker(network) is None
    with pytest.raises(UserError, match="requires a layer with a source"):
        run(network, "swap")


def test_what_is_refused():
    for layer in ("none", "static", "conv"):
        with pytest.raises(UserError, match=r"^--code swap requires a layer with a source[^\n]*$"):
            run(models.build("srs_tiny", layer=layer), "swap")
    with pytest.raises(UserError, match="at least two images"):
        run(Brightness(1), "swap", Images(count=1))
    assert run(Brightness(1), "zero", Images(count=1)).found


@pytest.mark.slow
def test_from_the_command_line_to_the_page(tmp_path, capsys):
    make_sample(tmp_path / "set", count=10, size=32)
    torch.manual_seed(0)
    network = models.build("srs_tiny")
    weights = tmp_path / "best.pth"
    settings = {"variant": "srs_tiny", "img_size": 32, "normalization": "imagenet", "encoder_bn": "frozen"}
    save_checkpoint(weights, {"phase": "seg", "model": network.state_dict(), "settings": settings})
    argv = ["--base_dir", str(tmp_path / "set"), "--weights", str(weights), "--output_dir", str(tmp_path / "out")]
    argv += ["--code", "swap", "--workers", "0", "--device", "cpu", "--report", str(tmp_path / "report")]
    summary = evaluation.main(evaluation.settings(argv))
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "out" / "evaluation").iterdir()
    assert folder.name == "best-val-swap"
    written = json.loads((folder / "summary.json").read_text())
    assert written["code"] == json.loads(json.dumps(summary["code"]))
    assert set(written["code"]["figures"]["iou"]) >= {"own", "swap", "difference", "low", "high", "p", "n"}
    own = written["mean_over_images"]["iou"]
    assert written["code"]["figures"]["iou"]["own"] == pytest.approx(own, abs=1e-3)
    assert "per_image.csv, per_image-own.csv, per_image-swap.csv, sweep.csv" in printed
    assert {"per_image.csv", "per_image-own.csv", "per_image-swap.csv"} <= {*written["files"]}
    page = (tmp_path / "report" / "report.html").read_text()
    for text in (printed, page.replace("&#39;", "'")):
        assert written["code"]["verdict"] in text and "from the mean kernel" in text
    assert "Does the image's own code matter?" in page.replace("&#39;", "'") and "Spread of the kernel" in page
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(UserError, match=r"^--code swap requires --engine torch"):
            evaluation.main(evaluation.settings([*argv, "--engine", engine]))
