"""Plain PNG headers are read without Pillow: what is said of a file is the same."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from raw_sets import picture

from datasets import decode as module
from datasets.decode import decode
from utils.common.errors import UserError


def saved(path, mode, **options):
    if mode == "I;16":
        Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(path, **options)
    else:
        Image.fromarray(picture(9)).convert(mode).save(path, **options)
    return path


def chunk(name, data):
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P", "1", "LA"])
@pytest.mark.parametrize("extra", [{}, {"dpi": (300, 300)}])
def test_kinds_are_those_of_pillow(tmp_path, mode, extra):
    path = saved(tmp_path / "a.png", mode, **extra)
    with Image.open(path) as image:
        assert decode(path).kind == f"PNG {image.mode}"
    plain = mode in ("L", "RGB", "RGBA", "I;16")
    assert (module._plain_png(path.read_bytes()) == (f"PNG {mode}", 1)) is plain


def test_an_orientation_before_or_behind_the_pixels_is_as_before(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path / "a.png", "RGB", exif=exif)
    assert decode(path).orientation == 6
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x")
    data = saved(path, "RGB", pnginfo=info).read_bytes()
    assert module._plain_png(data) is None and decode(path).orientation == 1


def test_damaged_headers_and_animations_are_refused(tmp_path):
    path = saved(tmp_path / "a.png", "L")
    data = path.read_bytes()
    path.write_bytes(data[:18] + b"\7" + data[19:])  # another width, under the old checksum
    with pytest.raises(UserError, match=r"a\.png"):
        decode(path)
    path.write_bytes(data[:30])
    with pytest.raises(UserError, match=r"a\.png"):
        decode(path)
    wide = chunk(b"IHDR", (60000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0]))
    path.write_bytes(data[:8] + wide + data[33:])
    with pytest.raises(UserError, match="megapixels"):
        decode(path)
    frames = [Image.fromarray(picture(i)) for i in (1, 2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="must contain one frame"):
        decode(path)
