"""Reading of TIFF and BigTIFF files with tifffile, because OpenCV and Pillow misread many of them.

TIFF has more sample formats than any reader supports. Files with a unique interpretation are read; ambiguous files, and
files that cannot be used as images, are rejected with the reason.
"""

from __future__ import annotations

import logging
import struct
from math import prod
from pathlib import Path

import numpy as np
from PIL import Image

from utils.common.errors import UserError

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
MOST_PIXELS = 179_000_000  # as for all other images: about the limit of memory

# Numbers of the TIFF specification.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {4: "transparency masks", 8: "CIELAB", 9: "ICC LAB", 10: "ITU LAB", 32803: "raw mosaics", 34892: "raw data"}
_COLOURS |= {32844: "LogL", 32845: "LogLuv", _YCBCR: "YCbCr without JPEG"}
_JPEG = 7
_FAX = (2, 3, 4)
# None, fax, LZW, JPEG, deflate (8 and 32946), PackBits, LZMA, Zstandard.
_COMPRESSIONS = (1, *_FAX, 5, _JPEG, 8, 32946, 32773, 34925, 50000)
_UNSPECIFIED, _ASSOCIATED, _ALPHA = 0, 1, 2  # meanings of an extra sample
_ORIENTATION = 274


def read_tiff(path: Path) -> tuple[np.ndarray, int, bool]:
    """The pixels, the orientation tag (1: upright), which is not applied, and whether the file is WhiteIsZero.

    (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA; uint16 for 16-bit files, otherwise uint8 in 0..255: 1, 2 and 4 bits
    are scaled to that range. Three samples are always RGB, interleaved or planar. WhiteIsZero is inverted, and palettes
    are applied. Extra samples of RGB other than alpha are dropped.

    Raises:
        UserError: if the file is damaged, has more than one page, is larger than MOST_PIXELS, or is not an image; one
            line with the reason.
    """
    with _opened(path) as tif:
        page = tif.pages.first
        if reason := _refusal(tif, page):
            raise UserError(f"{path}: {reason}")
        inverted = page.photometric == _WHITE_IS_ZERO
        if page.compression in _FAX:
            return _by_pillow(path), 1, inverted
        # (planes, 1, H, W, samples)
        stored = page.asarray(squeeze=False, maxworkers=1)[:, 0]
        pixels = stored[0] if stored.shape[0] == 1 else np.moveaxis(stored[..., 0], 0, -1)
        return np.ascontiguousarray(_colours(pixels, page, path)), _orientation(page), inverted


def tiff_size(path: Path) -> tuple[int, int]:
    """(height, width) according to the header. Raises UserError if it is damaged."""
    with _opened(path) as tif:
        return tif.pages.first.imagelength, tif.pages.first.imagewidth


class _opened:
    """A context manager for a TIFF file; errors inside become a UserError about the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self):
        import tifffile  # here, because its import takes longer than reading most images, and many sets have no TIFF

        # tifffile logs every unusual tag. Errors that affect the pixels are still raised as exceptions.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
        try:
            self.file = tifffile.TiffFile(self.path)
            self.file.pages.first  # noqa: B018 - reads the first page, so that its errors are raised here
        except Exception as error:
            raise _damaged(self.path, error) from error
        return self.file

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.file.close()
        # tifffile and its decoders raise arbitrary errors for damaged files.
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise _damaged(self.path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    what = " ".join((str(error) or type(error).__name__).split())[:120]
    return UserError(f"{path}: cannot be decoded, the TIFF is truncated or damaged ({what}). Copy it again.")


def _refusal(tif, page) -> str | None:
    """The reason to reject the file, from its header; None if it is accepted."""
    next_page = _next_page(tif, page)
    if next_page >= tif.filehandle.size:
        return "truncated, the second page is missing. Copy it again."
    stack = tif.imagej_metadata or {}
    shapes = tif.shaped_metadata or ()
    if next_page or stack.get("images", 1) > 1 or any(prod(of["shape"]) > page.size for of in shapes if "shape" in of):
        return "the file must contain one page. Save each page as a separate file."
    if page.imagedepth > 1:
        return f"the file must contain one image, got {page.imagedepth} slices. Save each slice as a separate file."
    tile = max(page.tilewidth, 1) * max(page.tilelength, 1)
    if max(page.imagewidth * page.imagelength, tile) > MOST_PIXELS:
        return f"the image must have at most {MOST_PIXELS // 10**6} megapixels. Cut it into tiles."
    if page.compression in _FAX and _orientation(page) > 1:
        return "fax compression with a rotated orientation is not supported. Save it as PNG."
    return _unknown_samples(page) or _missing_parts(tif, page)


def _next_page(tif, page) -> int:
    """The offset of the second page according to the file, 0 for none. Counting thousands of pages would be slow."""
    layout, file = tif.tiff, tif.filehandle

    def number(at: int, form: str, size: int) -> int:
        file.seek(at)
        return struct.unpack(form, file.read(size))[0]

    tags = number(page.offset, layout.tagnoformat, layout.tagnosize)
    return number(page.offset + layout.tagnosize + tags * layout.tagsize, layout.offsetformat, layout.offsetsize)


def _unknown_samples(page) -> str | None:
    """The reason to reject the samples: their type, colours or compression; None if they are accepted."""
    if page.photometric == _CMYK:
        return "CMYK images are not supported. Save it as RGB or gray."
    if page.dtype is not None and (page.dtype.kind not in "ub" or page.dtype.itemsize > 2):
        return f"pixels must be 8-bit or 16-bit integers, got {page.dtype}. Convert the file."
    samples, extras = page.samplesperpixel, _extras(page)
    bits = page.bitspersample
    gray = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    one = (gray or page.photometric == _PALETTE) and samples == 1
    if page.dtype is None or bits not in ((1, 2, 4, 8, 16) if one else (8, 16)):
        return f"pixels must be 8-bit or 16-bit integers, got {bits} bits per sample. Convert the file."
    if page.compression not in _COMPRESSIONS:
        return f"the compression {_name(page.compression)} is not supported. Save it uncompressed, or as PNG."
    if page.photometric == _PALETTE:
        known = one and bits <= 8 and page.colormap is not None
    elif gray:
        known = samples == 1
        if page.photometric == _BLACK_IS_ZERO:
            # Many programs write RGB as three samples without naming their kind.
            known |= (samples == 2 and extras in ((_ASSOCIATED,), (_ALPHA,))) or (samples == 3 and not any(extras))
    elif page.photometric == _RGB or (page.photometric == _YCBCR and page.compression == _JPEG):
        known = samples == 3 or (samples == 4 and len(extras) <= 1)
    else:
        colours = _COLOURS.get(page.photometric, _name(page.photometric))
        return f"the colours must be RGB or gray, got {colours}. Convert the file."
    if not known:
        return f"the meaning of its {samples} samples per pixel is unknown. Save it as gray, RGB or RGBA."
    return None


def _missing_parts(tif, page) -> str | None:
    """The reason if parts of the image are missing, which tifffile would fill silently; None otherwise."""
    expected, size = prod(page.chunked), tif.filehandle.size
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if min(len(page.dataoffsets), len(page.databytecounts)) < expected or not all(
        count > 0 and start + count <= size for start, count in places[:expected]
    ):
        return "truncated or damaged, parts of the image are missing. Copy it again."
    if page.compression == _JPEG:
        for start, count in places[:expected]:
            tif.filehandle.seek(start)
            part = tif.filehandle.read(count)
            if part.rfind(b"\xff\xd9") < part.rfind(b"\xff\xda"):
                return "truncated or damaged, a part of the image ends early. Copy it again."
            width = page.tilewidth or page.imagewidth
            if (found := _jpeg_width(part)) != width:  # the decoder would fill up what is missing
                return f"damaged, a part of the image must be {width} pixels wide, got {found}. Copy it again."
    return None


def _jpeg_width(part: bytes) -> int | None:
    """The width in the frame header (SOF) of JPEG data, in pixels; None if there is no such header."""
    at = 2
    while at + 9 <= len(part):
        marker, length = struct.unpack(">HH", part[at : at + 4])
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            return struct.unpack(">H", part[at + 7 : at + 9])[0]
        at += 2 + length
    return None


def _extras(page) -> tuple[int, ...]:
    return tuple(map(int, page.extrasamples))


def _colours(pixels: np.ndarray, page, path: Path) -> np.ndarray:
    """Stored samples (H, W, C) converted to gray, RGB or RGBA."""
    if page.photometric == _PALETTE:
        table = np.asarray(page.colormap).T  # (colours, 3), 16-bit by the specification
        table = table.astype(np.uint8) if table.max() < 256 else (table >> 8).astype(np.uint8)
        return table[pixels[..., 0]]
    if page.bitspersample < 8:
        pixels = pixels.astype(np.uint8) * np.uint8(255 // (2**page.bitspersample - 1))
    channels = pixels.shape[2]
    if page.photometric == _WHITE_IS_ZERO:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if channels == 1:
        return pixels[..., 0]
    extras = _extras(page)
    if channels == 3 or extras == (_UNSPECIFIED,):
        return pixels[..., :3]
    alpha = pixels[..., -1]
    if extras == (_ASSOCIATED,) and ((alpha > 0) & (alpha < np.iinfo(alpha.dtype).max)).any():
        raise UserError(f"{path}: premultiplied alpha is not supported. Save it without alpha.")
    return pixels if channels == 4 else np.dstack([pixels[..., 0]] * 3 + [alpha])


def _by_pillow(path: Path) -> np.ndarray:
    """An image with fax compression, (H, W) in {0, 255}, which tifffile supports only with Python 3.11 and newer."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _orientation(page) -> int:
    tag = page.tags.get(_ORIENTATION)
    return tag.value if tag is not None and tag.value in range(1, 9) else 1


def _name(value: int) -> str:
    return getattr(value, "name", None) or str(value)
