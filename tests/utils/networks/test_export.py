"""Exported files against torch, in every format, on sizes and batches that the export has not seen."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import waiting
from small import need, small_srs

from datasets.transforms import Transform, constants
from utils.common.errors import UserError
from utils.common.files import replacing
from utils.common.libraries import library
from utils.networks import export
from utils.networks.export import FORMATS, METADATA, export_model
from utils.networks.exported_sessions import has_bfloat16, open_openvino

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",), "torchscript": ()}
SHAPES = [(1, 3, 32, 32), (4, 3, 33, 47), (1, 3, 8, 8), (2, 3, 16, 9)]
METADATA_OF_TEST = {"variant": "small", "mean": "[0.485, 0.456, 0.406]"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports once for each format and encoder_bn: the network, the file, the lines that were said."""
    made = {}

    def make(format, encoder_bn="frozen"):
        need(*LIBRARIES[format])
        if (format, encoder_bn) not in made:
            srs, lines = small_srs(encoder_bn), []
            path = tmp_path_factory.mktemp("export") / f"srs{FORMATS[format].suffix}"
            largest = export_model(srs, format, path, "imagenet", METADATA_OF_TEST, lines.append)
            made[format, encoder_bn] = srs, path, lines, largest
        return made[format, encoder_bn]

    return make


@torch.no_grad()
@pytest.mark.parametrize("encoder_bn", ["frozen", "batch"])
@pytest.mark.parametrize("format", FORMATS)
def test_any_size_and_batch(exported, format, encoder_bn):
    srs, path, _, _ = exported(format, encoder_bn)
    run = FORMATS[format].open(path, 1)
    for shape in SHAPES if encoder_bn == "frozen" else SHAPES[:2]:
        images = torch.randn(shape)
        expected, found = srs(images), run(images)
        assert found.shape == expected.shape and found.dtype == torch.float32
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), shape


@pytest.mark.parametrize("format", FORMATS)
def test_every_comparison_is_reported(exported, format):
    _, _, lines, largest = exported(format)
    assert len(lines) == 6 and "3 x 3 x 45 x 70" in lines[3]
    assert 0 <= largest < 1e-5 and f"{largest:.1e}" in " ".join(lines)


def test_metadata_of_onnx(exported):
    path = exported("onnx")[1]
    import onnx

    content = onnx.load(path)
    onnx.checker.check_model(content, full_check=True)
    assert {entry.key: entry.value for entry in content.metadata_props} == METADATA_OF_TEST
    axes = [axis.dim_param or axis.dim_value for axis in content.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]


def test_metadata_of_openvino(exported):
    path = exported("openvino")[1]
    content = library("openvino").Core().read_model(path)
    assert {name: content.get_rt_info(["srs", name]).value for name in METADATA_OF_TEST} == METADATA_OF_TEST
    assert content.input("image").partial_shape.is_dynamic and content.output("logits")


def test_metadata_of_torchscript(exported):
    files = {METADATA: ""}
    torch.jit.load(exported("torchscript")[1], _extra_files=files)
    assert json.loads(files[METADATA]) == METADATA_OF_TEST


def test_float32_of_openvino_is_float32(exported):
    """Left to itself it takes bfloat16 on a CPU that has it, which is wrong by some 1e-2."""
    srs, path, _, _ = exported("openvino")
    images = torch.randn(1, 3, 64, 64)
    expected = srs(images)
    choices = [False, True] if has_bfloat16() else [False]
    difference = {bf16: (open_openvino(path, 1, bf16)(images) - expected).abs().max() for bf16 in choices}
    assert difference[False] <= 1e-5 * expected.abs().max()
    if True in difference:
        assert difference[True] > 10 * difference[False]


def fail(network, path, metadata):
    raise IndexError("no such operator")


def test_an_exporter_that_fails_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "torchscript", export._Format(".pt", fail, FORMATS["torchscript"].open))
    with pytest.raises(UserError, match=r"srs\.pt was not written: .*no such operator"):
        export_model(small_srs(), "torchscript", tmp_path / "srs.pt", "imagenet", {})
    assert not list(tmp_path.iterdir())


def wrong(network, path, metadata):
    """Writes another network: one weight is another."""
    network.segmenter.decode.head.bias.add_(0.1)
    export._write_torchscript(network, path, metadata)


@pytest.mark.parametrize("broken", [wrong, lambda network, *more: wrong(spoil(network), *more)])
def test_a_file_that_does_not_agree_is_not_written(monkeypatch, tmp_path, broken):
    kind = export._Format(".pt", broken, FORMATS["torchscript"].open)
    monkeypatch.setitem(FORMATS, "torchscript", kind)
    path = tmp_path / "new" / "srs.pt"
    with pytest.raises(UserError, match=r"srs\.pt was not written: .* --normalization imagenet"):
        export_model(small_srs(), "torchscript", path, "imagenet", {}, lambda line: None)
    assert not list(tmp_path.iterdir())


def spoil(network):
    network.segmenter.decode.head.bias.fill_(float("nan"))
    return network


def test_what_was_there_survives_a_refusal(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "torchscript", export._Format(".pt", wrong, FORMATS["torchscript"].open))
    path = tmp_path / "srs.pt"
    path.write_text("before")
    with pytest.raises(UserError, match="not written"):
        export_model(small_srs(), "torchscript", path, "imagenet", {}, lambda line: None)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_both_files_of_openvino_are_replaced(exported, tmp_path):
    path = tmp_path / "srs.xml"
    path.write_text("old"), path.with_suffix(".bin").write_text("old")
    _, made, _, _ = exported("openvino")
    export._move(made, path)
    for suffix in (".xml", ".bin"):
        assert path.with_suffix(suffix).read_bytes() == made.with_suffix(suffix).read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_an_old_xml_never_meets_a_new_bin(exported, tmp_path, monkeypatch):
    path = tmp_path / "srs.xml"
    path.write_text("old"), path.with_suffix(".bin").write_text("old")
    _, made, _, _ = exported("openvino")

    @contextmanager
    def full_disk(target):
        with replacing(target) as beside:
            yield beside
            if target == path:
                raise OSError("no space")

    monkeypatch.setattr(export, "replacing", full_disk)
    with pytest.raises(UserError, match="no space"):
        export._move(made, path)
    assert [left.name for left in tmp_path.iterdir()] == ["srs.bin"]


def test_a_suffix_of_another_format_says_so(tmp_path):
    with pytest.raises(UserError, match=r"--format openvino must end in \.xml"):
        export_model(small_srs(), "openvino", tmp_path / "srs.onnx", "imagenet", {})


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_missing_library_names_the_command(monkeypatch, tmp_path, format):
    monkeypatch.setitem(sys.modules, LIBRARIES[format][0], None)
    with pytest.raises(
        UserError, match=rf"{LIBRARIES[format][0]} is required.*pip install -r requirements-export\.txt"
    ):
        export_model(small_srs(), format, tmp_path / f"srs{FORMATS[format].suffix}", "imagenet", {})
    assert not list(tmp_path.iterdir())


def test_openvino_does_not_report_home():
    need("openvino")
    code = "import sys; from utils.common.libraries import library; library('openvino'); print(sorted(sys.modules))"
    done = waiting.run([sys.executable, "-c", code], cwd=ROOT)
    assert "'openvino'" in done.stdout and "openvino_telemetry.main" not in done.stdout


@pytest.mark.parametrize("normalization", ["imagenet", "authors"])
def test_constants_are_those_of_the_transform(normalization):
    picture = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8)
    mean, std = constants(normalization)
    expected = ((picture / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)
    torch.testing.assert_close(Transform(16, normalization)(picture.numpy())[0], expected)
