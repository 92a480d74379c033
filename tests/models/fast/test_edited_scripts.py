"""A researcher edits models/blocks.py in a copy of the project: the scripts' figures are the edited network's.

Both phases, evaluation, prediction and export, each by its script's own `main`; as the project is, and with models/fast
removed from the same copy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.prepare.sample import make_sample

ROOT = Path(__file__).resolve().parents[3]
SIZE = 64
EDITS = {
    "nothing": ("", ""),
    "no spatial attention": (
        "return relu(self.spatial_attention(z) * z + self.shortcut(x))",
        "return relu(z + self.shortcut(x))",
    ),
    "channel attention": (
        "return torch.sigmoid(self.expand(relu(self.reduce(average))) + self.expand(relu(self.reduce(maximum))))",
        "return 2 * torch.sigmoid(self.expand(relu(self.reduce(average))))",
    ),
}
# Of the network without spatial attention the losses are 5e-4 to 4e-2 off, the area under the ROC curve is 0.03. A
# pixel may fall on either side of the threshold.
TOLERANCES = {"loss": {"rel": 1e-4}, "AUC": {"abs": 2e-3}, "IoU": {"abs": 0.01}}
SCRIPTS = f"""
import sys
from pathlib import Path

import evaluation, export, predict, train_recon, train_seg

data, out = sys.argv[1:]
common = ["--base_dir", data, "--output_dir", out, "--device", "cpu", "--workers", "0", "--threads", "1"]
training = ["--variant", "srs_tiny", "--img_size", "{SIZE}", "--batch_size", "2", "--epochs", "1", "--base_lr", "1e-4"]
train_recon.main(train_recon.parser().settings([*common, *training]))
train_seg.main(train_seg.parser().settings([*common, *training]))
best = out + "/seg/best.pth"
evaluation.main(evaluation.settings([*common, "--weights", best]))
wanted = ["--output", out + "/masks", "--probability", "16", "--device", "cpu"]
predict.main(predict.settings([data + "/images", "--weights", best, *wanted]))
export.main(export.parser().parse_args(["--weights", best, "--format", "torchscript", "--output", out + "/srs.pt"]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, and a data set of a few images."""
    folder = tmp_path_factory.mktemp("edited")
    root = folder / "project"
    ignored = shutil.ignore_patterns("__pycache__", ".*", "tests", "DataSet", "checkpoints", "docs")
    shutil.copytree(ROOT, root, ignore=ignored)
    make_sample(folder / "data", count=5, size=SIZE)
    return root, folder / "data"


def run(project, edit, fast, out):
    """All scripts, with that edit: what they printed."""
    root, data = project
    blocks, twins, aside = root / "models" / "blocks.py", root / "models" / "fast", root.parent / "fast"
    source = (ROOT / "models" / "blocks.py").read_text(encoding="utf-8")
    assert not EDITS[edit][0] or source.count(EDITS[edit][0]) == 1
    blocks.write_text(source.replace(*EDITS[edit]) if EDITS[edit][0] else source, encoding="utf-8")
    if not fast:
        twins.rename(aside)
    try:
        command = [sys.executable, "-B", "-c", SCRIPTS, str(data), str(out)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    finally:
        if not fast:
            aside.rename(twins)
    assert done.returncode == 0, done.stderr
    return done.stdout


def found(out):
    """Figures and maps that the scripts have left: of training and validation, evaluation, prediction and export."""
    figures = {}
    for phase in ("recon", "seg"):
        (entry,) = map(json.loads, (out / phase / "log.jsonl").read_text(encoding="utf-8").splitlines())
        figures |= {f"{phase} {part} loss": entry[part]["loss"] for part in ("train", "val")}
        figures |= {f"{phase} {part} IoU": entry[part]["iou"] for part in ("train", "val") if "iou" in entry[part]}
    (summary,) = out.glob("evaluation/*/summary.json")
    evaluated = json.loads(summary.read_text(encoding="utf-8"))
    figures["evaluation IoU"] = evaluated["mean_over_images"]["iou"]
    figures["evaluation AUC"] = evaluated["sweep"]["roc_auc"]
    paths = sorted(path for path in (out / "masks").rglob("*.png") if "prob" in str(path.relative_to(out)))
    maps = {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 65535 for path in paths}
    assert len(maps) == 5
    exported = torch.jit.load(str(out / "srs.pt"))
    images = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps["exported"] = exported(images).sigmoid().numpy()
    return figures, maps


def apart(maps, others):
    assert maps.keys() == others.keys()
    return max(float(np.abs(maps[name] - others[name]).max()) for name in maps)


@pytest.fixture(scope="module")
def unedited(project, tmp_path_factory):
    out = tmp_path_factory.mktemp("unedited")
    run(project, "nothing", False, out)
    return found(out)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_the_source_is_what_every_script_runs(edit, project, unedited, tmp_path):
    """Within rounding: three steps with a small learning rate do not add up to more."""
    printed = {fast: run(project, edit, fast, tmp_path / str(fast)) for fast in (False, True)}
    assert "models/fast was not found: the slower plain network runs" in printed[False]
    assert "fast modules" in printed[True]
    assert ("edited modules run in their slower plain form:" in printed[True]) == (edit != "nothing")
    (plain, plain_maps), (figures, maps) = (found(tmp_path / str(fast)) for fast in (False, True))
    assert (apart(plain_maps, unedited[1]) > 5e-4) == (edit != "nothing"), "the edit has no effect"
    assert apart(plain_maps, maps) < 1e-4
    assert plain.keys() == figures.keys()
    for name, value in plain.items():
        assert figures[name] == pytest.approx(value, **TOLERANCES[name.split()[-1]]), name
