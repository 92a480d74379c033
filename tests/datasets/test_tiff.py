"""TIFF over a grid of ways to write it: a cell is what Pillow and tifffile say it is, or is refused with a reason."""

from __future__ import annotations

import io
import itertools
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.decode import decode, image_size, read_image, read_mask
from utils.common.errors import UserError

SHAPE = (40, 56)
RNG = np.random.default_rng(0)
PALETTE = RNG.integers(0, 256, (3, 256), dtype=np.uint16) * 257

COMPRESSIONS = ("none", "deflate", "lzw", "packbits", "jpeg", "zstd", "lzma", "webp")
GRAY_OR_RGB = ("miniswhite", "minisblack", "rgb")
EXTRAS = {"unspecified": 0, "associated": 1, "alpha": 2}
PLACES = {
    "strips": {"rowsperstrip": 16},
    "tiles": {"tile": (16, 32)},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "predictor": {"predictor": True},
}
# What may be said of a cell that is not read.
REASONS = ("samples per pixel is unknown", "premultiplied alpha", "is not supported", "the colours must be")


def cells(samples, bits, photometrics, compressions, planars, orientations, alphas, places):
    """Every combination that tifffile can write."""
    for samples_, bits_, photometric, compression, planar, orientation, alpha, place in itertools.product(
        samples, bits, photometrics, compressions, planars, orientations, alphas, places
    ):
        if photometric == "palette" and (samples_, bits_) != (1, 8):
            continue
        if photometric == "rgb" and samples_ < 3:
            continue
        if planar == "separate" and samples_ == 1:
            continue
        if (samples_ in (2, 4)) != (alpha is not None):
            continue
        if compression in ("jpeg", "webp") and (
            bits_ != 8 or photometric != "rgb" or samples_ != 3 or planar != "contig"
        ):
            continue
        if place == "predictor" and (compression not in ("deflate", "lzw", "zstd", "lzma") or photometric == "palette"):
            continue
        yield samples_, bits_, photometric, compression, planar, orientation, alpha, place


SMALL = (
    *cells((1, 3, 4), (8, 16), ("minisblack", "rgb"), COMPRESSIONS[:3], ("contig",), (1,), (None, "alpha"), ["strips"]),
    *cells((1, 3), (8, 16), GRAY_OR_RGB, ("none",), ("separate", "contig"), (1, 6), (None,), PLACES),
    *cells((1, 3), (8,), ("palette", "rgb"), COMPRESSIONS, ("contig",), (1,), (None,), ("strips", "tiles")),
)
FULL = tuple(
    cells(
        (1, 2, 3, 4),
        (1, 4, 8, 16),
        ("minisblack", "miniswhite", "rgb", "palette"),
        COMPRESSIONS[:6],
        ("contig", "separate"),
        (1, 6),
        (None, *EXTRAS),
        PLACES,
    )
)


def write(path, samples, bits, photometric, compression, planar, orientation, alpha, place, soft_alpha=False):
    """Writes a cell; returns its samples as they are in the file, (H, W, samples)."""
    rng = np.random.default_rng(samples * 100 + bits)
    high = 2 ** (8 if photometric == "palette" else bits)
    stored = rng.integers(0, high, (*SHAPE, samples)).astype(np.uint16 if bits == 16 else np.uint8)
    if alpha and not soft_alpha:
        stored[..., -1] = np.where(stored[..., -1] % 2, high - 1, 0)
        stored[..., :-1] *= stored[..., -1:] > 0  # so that straight and associated alpha are one
    if compression == "jpeg":
        stored = np.repeat(np.repeat(stored[:10, :14], 4, 0), 4, 1)
    layout = stored[..., 0] if samples == 1 else stored if planar == "contig" else np.moveaxis(stored, -1, 0)
    options = {"bitspersample": bits} if bits < 8 else {}
    if samples > 1:
        options["planarconfig"] = planar
    if alpha:
        unnamed = samples - 1 - (3 if photometric == "rgb" else 1)
        options["extrasamples"] = [0] * unnamed + [EXTRAS[alpha]]
    if photometric == "palette":
        options["colormap"] = PALETTE
    if compression == "jpeg":
        options["compressionargs"] = {"level": 95}
    tifffile.imwrite(
        path,
        layout if bits > 1 else layout.astype(bool),
        photometric=photometric,
        compression=None if compression == "none" else {"deflate": "zlib"}.get(compression, compression),
        metadata=None,
        extratags=[(274, "H", 1, orientation, True)],
        **options,
        **PLACES[place],
    )
    return stored


def shown(stored, bits, photometric, alpha):
    """What a viewer shows of the samples, by the TIFF specification; None where it does not say."""
    samples = stored.shape[2]
    full = 65535 if bits == 16 else 255
    if photometric == "palette":
        return np.moveaxis(PALETTE // 257, 0, -1).astype(np.uint8)[stored[..., 0]]
    stored = stored * (full // (2**bits - 1)) if bits < 8 else stored
    stored = stored.astype(np.uint16 if bits == 16 else np.uint8)
    if photometric == "miniswhite":
        if samples != 1:
            return None
        stored = full - stored
    if samples == 1:
        return stored[..., 0]
    if photometric == "minisblack" and samples == 2:
        return None if alpha == "unspecified" else stored[..., [0, 0, 0, 1]]
    if samples == 4 and photometric == "minisblack":
        return None
    return stored[..., :3] if alpha == "unspecified" else stored


def by_pillow(path):
    """The array, or None where Pillow does not read it."""
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            if mode in ("1", "P", "LA", "PA"):
                image = image.convert({"1": "L", "P": "RGB"}.get(mode, "RGBA"))
            return np.asarray(image)
    except Exception:
        return None


def check(cell, tmp_path, counts):
    samples, bits, photometric, compression, planar, orientation, alpha, _ = cell
    path = tmp_path / "a.tif"
    try:
        stored = write(path, *cell)
    except (ValueError, TypeError, NotImplementedError, RuntimeError):
        counts["not writable"] = counts.get("not writable", 0) + 1
        return
    expected = shown(stored, bits, photometric, alpha)
    try:
        decoded = decode(path)
    except UserError as error:
        assert "\n" not in str(error)
        common = photometric != "miniswhite" and compression in COMPRESSIONS[:3] and expected is not None
        gray_white = photometric == "miniswhite" and samples == 1
        assert any(reason in str(error) for reason in REASONS) or (bits < 8 and "bits per sample" in str(error)), cell
        assert (not common and not gray_white) or (bits < 8 and samples > 1), f"{cell}: {error}"
        counts["refused"] = counts.get("refused", 0) + 1
        return
    pixels = decoded.pixels
    assert decoded.orientation == orientation and image_size(path) == pixels.shape[:2]
    raw = tifffile.imread(path)
    if planar == "separate":
        raw = np.moveaxis(raw, 0, -1)
    if compression == "jpeg":
        np.testing.assert_array_equal(pixels, raw, err_msg=str(cell))
    else:
        assert expected is not None, f"{cell} was read, but has no one meaning"
        np.testing.assert_array_equal(pixels, expected, err_msg=str(cell))
        np.testing.assert_array_equal(np.squeeze(stored), raw.astype(stored.dtype), err_msg=str(cell))
    counts["equal"] = counts.get("equal", 0) + 1
    pillow = by_pillow(path)
    # Pillow applies the orientation, and not where it maps the file into memory: compared where there is none.
    if pillow is None or pillow.dtype != pixels.dtype or orientation > 1:
        return
    if not np.array_equal(pillow, pixels):
        # Pillow takes the first of several gray samples, and turns WhiteIsZero round in 8 bits only.
        first_only = photometric == "minisblack" and samples > 1
        assert first_only or (photometric == "miniswhite" and bits == 16), cell
        counts["unlike Pillow"] = counts.get("unlike Pillow", 0) + 1
    else:
        counts["equal to Pillow"] = counts.get("equal to Pillow", 0) + 1


def test_tiff_over_a_small_grid(tmp_path):
    counts = {}
    for cell in SMALL:
        check(cell, tmp_path, counts)
    assert counts["equal"] > 140 and counts["equal to Pillow"] > 50


@pytest.mark.slow
@pytest.mark.long
def test_tiff_over_the_full_grid(tmp_path):
    counts = {}
    for cell in FULL:
        check(cell, tmp_path, counts)
    assert counts["equal"] > 1600 and counts["equal to Pillow"] > 300


def test_three_unnamed_samples_are_rgb(tmp_path):
    array = np.empty((*SHAPE, 3), np.uint8)
    array[...] = (200, 100, 50)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="contig")
    assert read_image(tmp_path / "a.tif")[3, 5].tolist() == [200, 100, 50]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_turned_round_in_8_and_16_bits(tmp_path, dtype):
    array = np.arange(SHAPE[0] * SHAPE[1], dtype=dtype).reshape(SHAPE)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    np.testing.assert_array_equal(decode(tmp_path / "a.tif").pixels, np.iinfo(dtype).max - array)


@pytest.mark.parametrize("colour", ["rgb", "ycbcr"])
@pytest.mark.parametrize("place", ["strips", "tiles"])
def test_jpeg_in_tiff_is_what_pillow_reads(tmp_path, colour, place):
    array = np.asarray(Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 90).convert("RGB"))
    options = {"compressionargs": {"level": 90, "outcolorspace": colour}}
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", compression="jpeg", **options, **PLACES[place])
    found, pillow = read_image(tmp_path / "a.tif"), by_pillow(tmp_path / "a.tif")
    assert np.abs(found.astype(int) - pillow).max() <= 2  # two JPEG decoders round differently
    assert np.abs(found.astype(int) - array).mean() < 4


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_lzw", "packbits", None])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_one_bit_files_of_pillow(tmp_path, compression, white_is_zero):
    target = np.zeros(SHAPE, bool)
    target[5:20, 9:31] = True
    one_bit = Image.fromarray(target)
    one_bit.save(tmp_path / "a.tif", compression=compression, tiffinfo={262: 0} if white_is_zero else {})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], target * 255)
    if not white_is_zero:  # otherwise refused as a mask
        np.testing.assert_array_equal(read_mask([tmp_path / "a.tif"]), target)


def test_a_damaged_or_turned_fax(tmp_path, capfd):
    one_bit = Image.fromarray(RNG.integers(0, 2, (64, 64)).astype(bool))
    one_bit.save(tmp_path / "a.tif", compression="group4")
    content = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        start, count = tif.pages.first.dataoffsets[0], tif.pages.first.databytecounts[0]
    refused(tmp_path / "a.tif", content[: start + count // 2] if start > 200 else content[:150], "truncated", capfd)
    one_bit.save(tmp_path / "a.tif", compression="group4", tiffinfo={274: 6})
    refused(tmp_path / "a.tif", (tmp_path / "a.tif").read_bytes(), "fax compression with a rotated orientation", capfd)


def test_a_palette_of_8_bit_values(tmp_path):
    # The specification wants 16 bits; some programs write 8.
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = PALETTE // 257
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.moveaxis(colours, 0, -1)[indices])


def test_soft_associated_alpha_is_refused_and_soft_straight_alpha_is_not(tmp_path):
    for alpha in ("associated", "alpha"):
        stored = write(tmp_path / "a.tif", 4, 8, "rgb", "none", "contig", 1, alpha, "strips", soft_alpha=True)
        if alpha == "alpha":
            np.testing.assert_array_equal(decode(tmp_path / "a.tif").pixels, stored)
        else:
            with pytest.raises(UserError, match="premultiplied alpha"):
                decode(tmp_path / "a.tif")


def rgb_tiff(**options):
    """The bytes of a TIFF of 8 parts, and where the parts are."""
    buffer = io.BytesIO()
    array = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    tifffile.imwrite(buffer, array, photometric="rgb", metadata=None, **{"rowsperstrip": 8, **options})
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as tif:
        page = tif.pages.first
        tags = {tag.name: (tag.valueoffset, tag.dtype) for tag in page.tags}
        return bytearray(buffer.getvalue()), list(zip(page.dataoffsets, page.databytecounts, strict=True)), tags


def refused(path, content, match, capfd):
    path.write_bytes(content)
    for read in (read_image, lambda path: read_mask([path])):
        with pytest.raises(UserError, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    written = capfd.readouterr()
    assert written.out == written.err == ""


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "packbits", "jpeg", "zstd"])
@pytest.mark.parametrize("layout", ["strips", "tiles"])
def test_truncated_anywhere(tmp_path, capfd, compression, layout):
    names = {"none": None, "deflate": "zlib"}
    options = {"tile": (16, 16), "rowsperstrip": None} if layout == "tiles" else {}
    content, parts, _ = rgb_tiff(compression=names.get(compression, compression), **options)
    start, count = parts[-1]
    for length in (6, 20, parts[0][0] + 5, len(content) // 2, start, start + count // 2, start + count - 3):
        refused(tmp_path / "a.tif", content[:length], "truncated", capfd)


def test_parts_that_are_missing(tmp_path, capfd):
    content, _, tags = rgb_tiff(compression="zlib")
    at, kind = tags["StripByteCounts"]
    struct.pack_into("<H" if kind == 3 else "<I", content, at, 0)
    refused(tmp_path / "a.tif", content, "parts of the image are missing", capfd)
    content, parts, _ = rgb_tiff(compression="jpeg")
    start, count = parts[0]
    content[start + count // 2 : start + count] = bytes(count - count // 2)
    refused(tmp_path / "a.tif", content, "a part of the image ends early", capfd)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_are_not_counted(tmp_path, capfd, bigtiff):
    # 20,000 pages that share their pixels: the IFD of the first one over and over.
    one = io.BytesIO()
    tifffile.imwrite(one, np.zeros((8, 8), np.uint8), metadata=None, bigtiff=bigtiff)
    data = one.getvalue()
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        start, link = tif.pages.first.offset, tif.pages.next_page_offset
        form, size = tif.tiff.offsetformat, tif.tiff.offsetsize
    ifd = data[start:link]
    many = bytearray(data[:link] + struct.pack(form, len(data)) + data[link + size :])
    for page in range(20_000):
        following = len(many) + len(ifd) + size
        many += ifd + struct.pack(form, 0 if page == 19_999 else following)
    path = tmp_path / "a.tif"
    path.write_bytes(many)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 20_001
    began = time.process_time()
    refused(path, many, "must contain one page", capfd)
    assert time.process_time() - began < 0.5


def test_other_ways_to_hold_several_pictures(tmp_path, capfd):
    stack = np.zeros((5, 16, 16), np.uint8)
    for name, options in {
        "ImageJ": {"imagej": True},
        "tifffile's own": {"truncate": True},
        "volume": {"volumetric": True, "tile": (16, 16, 16), "metadata": None},
        "sub-image": {},
    }.items():
        path = tmp_path / "a.tif"
        if name == "sub-image":
            with tifffile.TiffWriter(path) as file:
                file.write(stack[0], metadata=None)
                file.write(stack[1, ::2, ::2], subfiletype=1, metadata=None)
        else:
            tifffile.imwrite(path, stack, photometric="minisblack", **options)
        refused(path, path.read_bytes(), "must contain one page|got 5 slices", capfd)


REFUSED = {
    "CMYK": (np.zeros((8, 8, 4), np.uint8), {"photometric": "separated"}, "CMYK"),
    "CIELAB": (np.zeros((8, 8, 3), np.uint8), {"photometric": "cielab"}, "CIELAB"),
    "float": (np.zeros((8, 8), np.float32), {}, "float32"),
    "signed": (np.zeros((8, 8), np.int16), {}, "int16"),
    "32 bits": (np.zeros((8, 8), np.uint32), {}, "uint32"),
    "complex": (np.zeros((8, 8), np.complex64), {}, "complex64"),
    "12 bits packed": (np.zeros((8, 8), np.uint16), {"bitspersample": 12}, "12 bits per sample"),
    "five samples": (np.zeros((8, 8, 5), np.uint8), {"photometric": 1, "planarconfig": "contig"}, "5 samples"),
    "JPEG 2000": (np.zeros((32, 32), np.uint8), {"compression": "jpeg2000"}, "JPEG2000"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_refused_with_its_reason(tmp_path, capfd, kind):
    array, options, reason = REFUSED[kind]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    refused(tmp_path / "a.tif", buffer.getvalue(), reason, capfd)


def test_a_tiff_that_claims_to_be_huge(tmp_path, capfd):
    for tag in ("ImageWidth", "TileWidth"):
        content, _, tags = rgb_tiff(tile=(16, 16), rowsperstrip=None)
        for name in (tag, tag.replace("Width", "Length")):
            struct.pack_into("<H" if tags[name][1] == 3 else "<I", content, tags[name][0], 65_520)
        refused(tmp_path / "a.tif", content, "megapixels", capfd)


SEEDS = [bytes(rgb_tiff(compression=name)[0]) for name in (None, "zlib", "lzw", "jpeg", "packbits")]
SEEDS += [bytes(rgb_tiff(tile=(16, 16), rowsperstrip=None, bigtiff=True, compression="lzw", predictor=True)[0])]


@st.composite
def damaged(draw):
    """A TIFF with bytes changed, mostly of its header and tags."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        end = draw(st.sampled_from([min(400, len(content)), len(content)]))
        content[draw(st.integers(4, end - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=damaged())
def test_damaged_tiffs_are_read_or_refused_in_silence(capfd, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.tif"
        path.write_bytes(content)
        try:
            array = read_image(path)
        except UserError as error:
            assert "case.tif" in str(error) and "\n" not in str(error)
        else:
            assert array.ndim == 3 and array.size < 1e8
    written = capfd.readouterr()
    assert written.out == written.err == ""


# All else than TIFF is read by OpenCV, which is held to Pillow.

OTHERS = {
    ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    ".bmp": ("1", "L", "P", "RGB", "RGBA"),
    ".jpg": ("L", "RGB"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in OTHERS.items() for mode in modes])
@pytest.mark.parametrize("orientation", [1, 6])
def test_other_formats_are_what_pillow_reads(tmp_path, suffix, mode, orientation):
    rgba = Image.fromarray(RNG.integers(0, 256, (*SHAPE, 4), dtype=np.uint8), "RGBA")
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65536, SHAPE, dtype=np.uint16))
    else:
        image = rgba if mode == "RGBA" else rgba.convert("LA" if mode == "LA" else "RGB").convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    image.save(path, **({} if suffix == ".bmp" else {"exif": exif}))
    decoded = decode(path)
    assert decoded.orientation == (1 if suffix == ".bmp" else orientation)
    assert image_size(path) == decoded.pixels.shape[:2] == SHAPE
    expected = by_pillow(path)
    difference = np.abs(decoded.pixels.astype(int) - expected)
    assert difference.max() <= (2 if suffix == ".jpg" else 0)
    assert decoded.kind.split()[0] in ("PNG", "BMP", "JPEG")
