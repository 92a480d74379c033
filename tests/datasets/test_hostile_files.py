"""Files with false headers: a one-line error each, never a crash, a hang or the end of the memory."""

from __future__ import annotations

import io
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from waiting import run

from datasets.decode import read_image, read_mask
from datasets.lists import read_list
from datasets.pairing import find_cases
from utils.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def png_of(width, height, rows=None):
    """A one-bit PNG that claims to be of this size; its pixels are zeros, which compress to nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(mode, kind, **options):
    buffer = io.BytesIO()
    Image.new(mode, (16, 16)).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "20,000 x 20,000 pixels": (png_of(20_000, 20_000), "megapixels"),
    "a bomb that claims 2 billion pixels": (png_of(60_000, 40_000, rows=1), "megapixels"),
    "fewer rows than it claims": (png_of(64, 64, rows=3), r"\.png"),
    "zero bytes": (b"", "empty"),
    "text": (b"hello, this is not a picture", "not an image"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "CMYK": (saved("CMYK", "JPEG"), "CMYK"),
    "an animated GIF": (
        saved("RGB", "GIF", save_all=True, append_images=[Image.new("RGB", (16, 16), "red")]),
        "must contain one frame",
    ),
    "a TIFF with two pages": (saved("L", "TIFF", save_all=True, append_images=[Image.new("L", (16, 16))]), "one page"),
    "a TIFF of not-a-numbers": (cv2.imencode(".tif", np.full((8, 8), np.nan, np.float32))[1].tobytes(), "float32"),
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_image(tmp_path, name):
    content, message = FILES[name]
    path = tmp_path / "case.png"
    path.write_bytes(content)
    for read in (read_image, lambda path: read_mask([path])):
        if name == "fewer rows than it claims":
            # Decoders differ: a refusal is fine, and so is the picture with its missing rows in black.
            try:
                assert read(path).shape[:2] == (64, 64)
            except UserError as error:
                assert "case.png" in str(error)
            continue
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert "case.png" in str(caught.value) and "\n" not in str(caught.value)


def test_opencv_itself_prints_nothing(tmp_path):
    path = tmp_path / "cut.bmp"
    path.write_bytes(saved("RGB", "BMP")[:300])
    code = f"from pathlib import Path; from datasets.decode import decode; decode(Path({str(path)!r}))"
    done = run([sys.executable, "-c", code], cwd=ROOT)
    assert "cut.bmp: cannot be decoded" in done.stderr and "loadsave" not in done.stderr


def test_the_wrong_extension_does_not_matter(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(saved("RGB", "PNG"))
    assert read_image(path).shape == (16, 16, 3)


SEEDS = [
    saved("RGB", "PNG"),
    saved("P", "PNG"),
    saved("1", "PNG"),
    saved("L", "JPEG"),
    saved("RGB", "TIFF"),
    saved("RGB", "BMP"),
    cv2.imencode(".tif", np.arange(256, dtype=np.uint16).reshape(16, 16))[1].tobytes(),
]


@st.composite
def damaged(draw):
    """A real file with bytes changed, cut out or appended."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 8))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))]) + draw(st.binary(max_size=8))


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=damaged())
def test_damaged_images_are_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.png"
        path.write_bytes(content)
        for read in (read_image, lambda path: read_mask([path])):
            try:
                array = read(path)
            except UserError as error:
                assert "case.png" in str(error)
            else:
                assert array.ndim >= 2 and array.size < 1e8


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    for folder in ("images", "masks"):
        (base / folder).mkdir()
    (base / "images" / "a.png").write_bytes(SEEDS[0])
    (base / "masks" / "a.png").write_bytes(SEEDS[2])
    (base.parent / "outside.png").write_bytes(SEEDS[0])
    return base


ENTRIES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["a", "a.png", "../outside", "../outside.png", "/etc/passwd", "C:\\x", "images/../../outside", "."]
    ),
)


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries=st.lists(ENTRIES, max_size=5), raw=st.binary(max_size=40))
def test_any_list_is_read_or_refused_and_never_leaves_the_folder(base, entries, raw):
    path = base / "fuzz.txt"
    path.write_bytes("\n".join(entries).encode("utf-8", "surrogatepass") + b"\n" + raw)
    try:
        cases, problems = find_cases(base, read_list(path))
    except UserError as error:
        assert "fuzz.txt" in str(error)
        return
    assert all(isinstance(problem, str) for problem in problems)
    for case in cases:
        for file in (case.image, *case.masks):
            assert file.resolve().is_relative_to(base.resolve())
