"""What scripts import before they know that there is work: nothing that takes long."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest
import waiting

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in ROOT.glob("[!_]*.py"))
HEAVY = {"torch", "torchvision", "numpy", "cv2", "PIL", "albumentations", "sklearn", "scipy", "onnx", "onnxruntime"}
HEAVY |= {"openvino", "tensorboard", "jinja2", "gradio", "tqdm"}
SECONDS = 0.6  # of CPU; it takes a tenth of that

# Runs a script as `python SCRIPT` does, and prints what it has imported in the end.
RUN = """
import atexit, json, runpy, sys
root, script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
sys.path.insert(0, root)
atexit.register(lambda: print("\\n" + json.dumps(sorted(name for name in sys.modules if "." not in name))))
runpy.run_path(f"{root}/{script}", run_name="__main__")
"""


def run(script, argv, folder):
    """The exit code, what was printed as an error, the modules that were imported, and the seconds of CPU."""
    command = [sys.executable, "-c", RUN, str(ROOT), script, *map(str, argv)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = waiting.run(command, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stderr, set(json.loads(done.stdout.splitlines()[-1])), seconds


@pytest.fixture
def folder(tmp_path):
    """A data folder of the right form, in which nothing can be read; a run; a file that is not a checkpoint."""
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for name in ("train.txt", "val.txt"):
        (tmp_path / "set" / name).write_text("case\n")
    (tmp_path / "set" / "images" / "case.png").touch()
    (tmp_path / "run" / "recon").mkdir(parents=True)
    (tmp_path / "set" / "images" / "case.png").touch()
    (tmp_path / "run" / "recon" / "last.pth").touch()
    return tmp_path


def test_there_are_scripts():
    assert {"train_recon.py", "train_seg.py", "evaluation.py", "predict.py"} < set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script, tmp_path):
    code, errors, imported, seconds = run(script, ["--help"], tmp_path)
    assert code == 0, errors
    assert not imported & HEAVY
    assert seconds < SECONDS


@pytest.mark.parametrize(
    ("script", "argv", "message"),
    [
        ("train_recon.py", [], "no data given"),
        ("train_recon.py", ["--Dataset", "NOPE"], "BUSI"),
        ("train_recon.py", ["--base_dir", "set", "--variant", "huge"], "srs_tiny"),
        ("train_recon.py", ["--base_dir", "set", "--amp", "int8"], "bf16"),
        ("train_seg.py", ["--base_dir", "set", "--dynamic", "odd"], "static"),
        ("train_seg.py", ["--base_dir", "set", "--loss", "l1"], "focal_tversky"),
        ("train_recon.py", ["--base_dir", "nowhere"], "nowhere"),
        ("train_recon.py", ["--base_dir", "set", "--val_file_dir", "val2.txt"], "val2.txt"),
        ("train_recon.py", ["--base_dir", "set", "--output_dir", "run"], "--resume"),
        ("train_recon.py", ["--base_dir", "set", "--output_dir", "new", "--resume"], "nothing to resume"),
        ("train_recon.py", ["--base_dir", "set", "--init_from", "no.pth"], "no.pth"),
        ("train_seg.py", ["--base_dir", "set", "--output_dir", "new"], "train_recon.py"),
        ("evaluation.py", ["--Dataset", "BUS"], "DataSet/bus"),
        ("evaluation.py", ["--base_dir", "set", "--output_dir", "new"], "train_seg.py"),
        ("evaluation.py", ["--weights", "no.pth"], "no.pth"),
        ("evaluation.py", ["--base_dir", "set", "--recon_weights", "a", "--seg_weights", "b"], "--recon_weights a"),
        ("evaluation.py", ["--compare", "run"], "two runs"),
        ("predict.py", ["set", "--output", "out"], "no weights given"),
        ("predict.py", ["set", "--output", "out", "--weights", "no.pth"], "no.pth"),
        ("predict.py", ["set", "--output", "out", "--weights", "no.pth", "--tile", "100"], "multiple of 8"),
        ("predict.py", ["set", "--output", "out", "--weights", "no.pth", "--engine", "tvm"], "openvino"),
        ("export.py", ["--format", "onnx"], "no weights given"),
        ("export.py", ["--format", "onnx", "--weights", "no.pth"], "no.pth"),
        ("prepare_data.py", ["busi", "nowhere", "out"], "benign"),
        ("prepare_data.py", ["split", "nowhere"], "nowhere"),
        ("reproduce.py", ["--Dataset", "BUS"], "DataSet/bus"),
        ("reproduce.py", ["--base_dir", "set"], "train1.txt"),
        ("benchmark.py", ["--only", "everything"], "predict"),
    ],
)
def test_refusals_import_nothing_heavy(script, argv, message, folder):
    code, errors, imported, seconds = run(script, argv, folder)
    assert code == 2 and message in errors and "Traceback" not in errors
    assert not imported & HEAVY
    assert seconds < SECONDS


def test_names_are_those_of_what_is_imported_later():
    from datasets import transforms
    from models import STRIDE, nested
    from utils.networks import EXPORT_FORMATS, export

    assert set(transforms._DIVISOR) == set(transforms.NORMALIZATIONS)
    assert set(export.FORMATS) == set(EXPORT_FORMATS)
    assert STRIDE == 2 ** (nested.ROWS - 1)
