"""The method imports torch and itself; scripts run without models/fast."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest
import waiting

from datasets.prepare.sample import make_sample

ROOT = Path(__file__).resolve().parents[2]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_method_imports_torch_and_itself():
    files = sorted([*(ROOT / "models").glob("*.py"), *(ROOT / "models" / "dynamic").glob("*.py")])
    assert {"blocks.py", "nested.py", "dpconv.py", "srs.py", "authors.py", "registry.py"} <= {f.name for f in files}
    for path in files:
        for name in imported(path):
            top = name.split(".")[0]
            assert top in {"torch", "models"} or top in sys.stdlib_module_names, f"{path.name}: {name}"
            assert not name.startswith("models.fast"), path.name


def test_one_place_calls_the_fast_modules():
    callers = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("**/*.py")
        if not {".venv", "tests"} & set(path.parts)
        and "models/fast" not in path.as_posix()
        and any(word in path.read_text() for word in ("fast.for_training(", "fast.for_prediction("))
    ]
    assert callers == ["utils/networks/speed.py"]


@pytest.mark.slow
@pytest.mark.long
def test_scripts_run_without_the_fast_modules(tmp_path):
    root = tmp_path / "project"
    ignored = shutil.ignore_patterns("fast", "__pycache__", ".*", "tests", "DataSet", "checkpoints", "docs")
    shutil.copytree(ROOT, root, ignore=ignored)
    make_sample(tmp_path / "data", count=6, size=32)
    common = ["--base_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    training = ["--variant", "srs_tiny", "--img_size", "32", "--batch_size", "2", "--epochs", "1", "--workers", "0"]
    best = tmp_path / "out" / "seg" / "best.pth"
    for command in (
        ["train_recon.py", *common, *training],
        ["train_seg.py", *common, *training],
        ["evaluation.py", *common, "--weights", str(best), "--workers", "0"],
        ["predict.py", str(tmp_path / "data" / "images"), "--weights", str(best), "--output", str(tmp_path / "masks")],
        ["export.py", "--weights", str(best), "--format", "torchscript"],
        ["benchmark.py", "profile", "--only", "seg_step", "--variant", "srs_tiny", "--img_size", "16", "--repeat", "1"],
    ):
        done = waiting.run([sys.executable, *command], cwd=root)
        assert done.returncode == 0, (command, done.stderr)
        slower = "models/fast was not found: the slower plain network runs" in done.stdout
        assert slower == (command[0] not in ("export.py", "benchmark.py")), (command, done.stdout)
