"""TIFF and BigTIFF files to arrays, by tifffile: OpenCV and Pillow take many of them for what they are not.

TIFF says how samples are laid out in more ways than there are readers that know them all. What has one meaning here is
read; what has several, or none that a network could use, is refused with its reason.
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
MOST_PIXELS = 179_000_000  # as for all other images: about what fits into memory

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


def read_tiff(path: Path) -> tuple[np.ndarray, int]:
    """Pixels as they are shown, upright or not, and the orientation tag (1: upright), which is not applied.

    (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA; uint16 for 16-bit files, else uint8 in 0..255: 1, 2 and 4 bits are
    spread over that range. Three samples are RGB whatever the file calls them, one after the other or plane by plane.
    WhiteIsZero is turned round, a palette is looked up. Extra samples that are no alpha are dropped beside RGB.

    Raises:
        UserError: for what is damaged, has more than one page, is larger than MOST_PIXELS, or cannot be a picture: with
            the reason, in one line.
    """
    with _opened(path) as tif:
        page = tif.pages.first
        if reason := _refusal(tif, page):
            raise UserError(f"{path}: {reason}")
        if page.compression in _FAX:
            return _by_pillow(path), 1
        # (planes, 1, H, W, samples)
        stored = page.asarray(squeeze=False, maxworkers=1)[:, 0]
        pixels = stored[0] if stored.shape[0] == 1 else np.moveaxis(stored[..., 0], 0, -1)
        return np.ascontiguousarray(_colours(pixels, page, path)), _orientation(page)


def tiff_size(path: Path) -> tuple[int, int]:
    """(height, width) as the header says. Raises UserError if it is damaged."""
    with _opened(path) as tif:
        return tif.pages.first.imagelength, tif.pages.first.imagewidth


class _opened:
    """A TIFF file for a `with`; whatever goes wrong inside becomes a UserError about the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self):
        import tifffile  # here: it takes longer to import than most images to read, and many sets have none

        # It writes about each odd tag to the terminal. What is wrong with the pixels is an exception all the same.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
        try:
            self.file = tifffile.TiffFile(self.path)
            self.file.pages.first  # noqa: B018 - read now, so that its errors are those of opening
        except Exception as error:
            raise _damaged(self.path, error) from error
        return self.file

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.file.close()
        # tifffile and its decoders raise whatever a damaged file leads them to.
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise _damaged(self.path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    what = " ".join((str(error) or type(error).__name__).split())[:120]
    return UserError(f"{path}: cannot be decoded, the TIFF is truncated or damaged ({what}). Copy it again.")


def _refusal(tif, page) -> str | None:
    """Why the file is not read; None if it is. From the header alone."""
    next_page = _next_page(tif, page)
    if next_page >= tif.filehandle.size:
        return "truncated, its second page is missing. Copy it again."
    stack = tif.imagej_metadata or {}
    shapes = tif.shaped_metadata or ()
    if next_page or stack.get("images", 1) > 1 or any(prod(of["shape"]) > page.size for of in shapes if "shape" in of):
        return "more than one page in one file. Save each as a file of its own."
    if page.imagedepth > 1:
        return f"a volume of {page.imagedepth} slices. Save each as a file of its own."
    tile = max(page.tilewidth, 1) * max(page.tilelength, 1)
    if max(page.imagewidth * page.imagelength, tile) > MOST_PIXELS:
        return f"larger than {MOST_PIXELS // 10**6} megapixels, which would not fit into memory. Cut it into tiles."
    if page.compression in _FAX and _orientation(page) > 1:
        return "fax compression and an orientation other than upright. Save it as PNG."
    return _unknown_samples(page) or _missing_parts(tif, page)


def _next_page(tif, page) -> int:
    """Where the file says that its second page begins, 0 for none: pages are not counted, there may be thousands."""
    layout, file = tif.tiff, tif.filehandle

    def number(at: int, form: str, size: int) -> int:
        file.seek(at)
        return struct.unpack(form, file.read(size))[0]

    tags = number(page.offset, layout.tagnoformat, layout.tagnosize)
    return number(page.offset + layout.tagnosize + tags * layout.tagsize, layout.offsetformat, layout.offsetsize)


def _unknown_samples(page) -> str | None:
    """Why the samples are no picture: their type, their colours or what is packed how."""
    if page.photometric == _CMYK:
        return "CMYK, the colours of print. Save it as RGB or gray."
    if page.dtype is not None and (page.dtype.kind not in "ub" or page.dtype.itemsize > 2):
        return f"pixels are {page.dtype}; only 8-bit and 16-bit files are read. Convert it."
    samples, extras = page.samplesperpixel, _extras(page)
    bits = page.bitspersample
    gray = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    one = (gray or page.photometric == _PALETTE) and samples == 1
    if page.dtype is None or bits not in ((1, 2, 4, 8, 16) if one else (8, 16)):
        return f"{bits} bits a sample; only 8-bit and 16-bit files are read. Convert it."
    if page.compression not in _COMPRESSIONS:
        return f"the compression {_name(page.compression)} is not read. Save it uncompressed, or as PNG."
    if page.photometric == _PALETTE:
        known = one and bits <= 8 and page.colormap is not None
    elif gray:
        known = samples == 1
        if page.photometric == _BLACK_IS_ZERO:
            # Many programs write RGB as three samples of no named kind.
            known |= (samples == 2 and extras in ((_ASSOCIATED,), (_ALPHA,))) or (samples == 3 and not any(extras))
    elif page.photometric == _RGB or (page.photometric == _YCBCR and page.compression == _JPEG):
        known = samples == 3 or (samples == 4 and len(extras) <= 1)
    else:
        return f"the colours are {_COLOURS.get(page.photometric, _name(page.photometric))}. Save it as RGB or gray."
    if not known:
        return f"{samples} samples a pixel of which the file does not say what they are. Save it as gray, RGB or RGBA."
    return None


def _missing_parts(tif, page) -> str | None:
    """What tifffile would fill up without a word: parts that are not stored, and JPEGs that end early."""
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
                return "truncated or damaged, a part of it ends early. Copy it again."
    return None


def _extras(page) -> tuple[int, ...]:
    return tuple(map(int, page.extrasamples))


def _colours(pixels: np.ndarray, page, path: Path) -> np.ndarray:
    """Stored samples (H, W, C) to gray, RGB or RGBA as shown."""
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
        raise UserError(f"{path}: its colours are multiplied by its alpha. Save it without alpha.")
    return pixels if channels == 4 else np.dstack([pixels[..., 0]] * 3 + [alpha])


def _by_pillow(path: Path) -> np.ndarray:
    """A fax, (H, W) in {0, 255}: tifffile reads it with Python 3.11 and newer only."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _orientation(page) -> int:
    tag = page.tags.get(_ORIENTATION)
    return tag.value if tag is not None and tag.value in range(1, 9) else 1


def _name(value: int) -> str:
    return getattr(value, "name", None) or str(value)
