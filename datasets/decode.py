"""Decoding of image and mask files; `datasets.targets` decides which pixels of a mask are target."""

import hashlib
import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.targets import target_pixels
from datasets.tiff import MAGICS, read_tiff, tiff_size
from utils.common.errors import UserError

# The data-loading workers run in parallel already. Additional threads of OpenCV would oversubscribe the cores, and a
# worker that is forked after they were started hangs at its first OpenCV call.
cv2.setNumThreads(0)

# Pillow's error enforces the size limit; its warning at half the limit is not needed.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_JPEG = b"\xff\xd8"
_ORIENTATION = 274  # EXIF tag
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {(8, 0): "L", (8, 2): "RGB", (8, 6): "RGBA", (16, 0): "I;16"}  # Pillow's, by bits and colour type
_PNG_PLAIN = {b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"tIME", b"bKGD"}  # chunks that do not affect the pixels


def read_image(path: Path, white_level: int | None = None) -> np.ndarray:
    """Decode an image to (H, W, 3) RGB.

    8-bit files: uint8. 16-bit files: float32 in 0..255 (value / 257), which keeps the precision of 16-bit infrared
    images; with a `white_level`, this value and all above become 255. Gray becomes three equal channels, alpha is
    dropped, palettes and 1-bit files are decoded. EXIF orientation is ignored: masks do not have it, so rotated images
    would not match them. TIFF is read by `datasets.tiff`, GIF by Pillow, all other formats by OpenCV.

    Raises UserError if the file cannot be read or decoded, is truncated, animated, CMYK, larger than 179 megapixels,
    or is neither 8-bit nor 16-bit; and for a path that is a pipe or a device.
    """
    return to_rgb(read_pixels(path), white_level)


def read_pixels(path: Path) -> np.ndarray:
    """The pixels of `read_image` as stored: (H, W) gray or (H, W, 3) RGB, uint8 or uint16.

    `to_rgb` of a part of them equals the same part of `read_image`. Raises as `read_image` does.
    """
    return decode(path).colours


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the result of `read_image`; from the header alone, if Pillow can parse it."""
    return header_size(path) or read_pixels(path).shape[:2]


def header_size(path: Path) -> tuple[int, int] | None:
    """(height, width) according to the header; None if it cannot be parsed."""
    try:
        if not path.is_file():  # reading a pipe would block
            return None
        with path.open("rb") as file:
            if file.read(4) in MAGICS:
                return tiff_size(path)
        with Image.open(path) as header:
            return header.height, header.width
    except Exception:  # Pillow raises arbitrary errors for damaged headers; decoding will report the problem
        return None


def to_rgb(pixels: np.ndarray, white_level: int | None = None) -> np.ndarray:
    """(H, W) or (H, W, 3), uint8, uint16 or float in 0..255, to the format of `read_image`."""
    if pixels.dtype == np.uint16:
        white = white_level or 65535
        pixels = np.minimum(pixels, np.uint16(white)).astype(np.float32)
        pixels /= np.float32(white / 255)
    elif pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else np.ascontiguousarray(pixels)


def read_mask(paths: Sequence[Path], threshold: float | None = None) -> np.ndarray:
    """Decode the masks of one case to (H, W) uint8 in {0, 1}, 1 being target; several files are merged (union).

    Without `threshold`, each file must be one of these, checked in this order:

    - alpha channel: dropped if constant. If it varies and the colour does not, alpha is the mask. If both vary they
      must agree on what is not 0, and the colour is read.
    - colour (8-bit or 16-bit): black and exactly one other colour, which is target. A JPEG whose channels differ by at
      most 32 of 255 is gray with compression noise.
    - gray, one value: 0 is an empty mask; 1, 255 or 65535 is all target.
    - gray, 0 and one other value, whatever it is (0/1, 0/255, 0/65535): the other value is target.
    - gray, every value within 32/255 of black or of white, with both present: edges of a JPEG, even if it was later
      saved in another format; split in the middle. Exception: a single value near white in a lossless file, which may
      be a class map with 255 for "ignore".

    Anything else is ambiguous. With `threshold`, pixels with gray > threshold are target and nothing is ambiguous;
    gray is the largest colour channel (alpha if only alpha varies), in the file's own values: up to 255 in 8-bit
    files, up to 65535 in 16-bit files.

    Raises UserError if a file cannot be decoded (see `read_image`), is ambiguous or a WhiteIsZero TIFF, or if the sizes
    of the files differ.
    """
    return decode_mask(paths, threshold)[0]


def decode_mask(paths: Sequence[Path], threshold: float | None = None) -> tuple[np.ndarray, int]:
    """The result of `read_mask`, and the EXIF orientation of the files: 1 if all are upright."""
    union, orientation = None, 1
    for path in paths:
        decoded = decode(path)
        if decoded.inverted:  # as tifffile.imwrite writes boolean arrays, which tifffile.imread does not invert
            raise UserError(
                f"{path}: the mask is a WhiteIsZero TIFF, which some programs invert and others do not. Save it as PNG "
                '(with tifffile: photometric="minisblack").'
            )
        orientation = max(orientation, decoded.orientation)
        target = target_pixels(decoded.pixels, path, threshold, decoded.kind.startswith(("JPEG", "MPO")))
        if union is None:
            union = target
        elif union.shape != target.shape:
            raise UserError(
                f"{path}: all masks of a case must have the same size, but this one has {_size(target)} pixels and "
                f"{paths[0]} has {_size(union)}."
            )
        else:
            union |= target
    if union is None:
        raise ValueError("read_mask requires at least one path")
    return union.astype(np.uint8), orientation


def digest(image: np.ndarray) -> str:
    """The SHA-256 of a decoded image, which does not depend on the name and format of its file."""
    of_pixels = hashlib.sha256(np.ascontiguousarray(image))
    of_pixels.update(str(image.shape).encode())
    return of_pixels.hexdigest()


@dataclass(frozen=True)
class Decoded:
    """A decoded file.

    pixels: as stored, (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16.
    kind: format and mode, such as "PNG RGB".
    orientation: its EXIF or TIFF tag, 1 to 8, which is ignored; 1 is upright, or no tag.
    inverted: whether the file is a WhiteIsZero TIFF, whose pixels were inverted.
    """

    pixels: np.ndarray
    kind: str
    orientation: int = 1
    inverted: bool = False

    @property
    def colours(self) -> np.ndarray:
        """The pixels without alpha."""
        return self.pixels if self.pixels.ndim == 2 else self.pixels[..., :3]


def decode(path: Path) -> Decoded:
    """The pixels of a file, its kind and its orientation. Raises as `read_image` does."""
    try:
        # Reading a FIFO or a device could block forever. Path.stat and Path.open would cost as much as decoding a tiny
        # image.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise UserError(f"{path}: must be a file, but is a folder, pipe, socket or device. Remove it.")
        # Not cv2.imread, which cannot open non-ASCII paths on Windows.
        with open(path, "rb") as file:  # noqa: PTH123
            start = file.read(4)
            data = b"" if start in MAGICS else start + file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check that the file exists.") from error
    if not start:
        raise UserError(f"{path}: the file is empty (0 bytes). Copy it again.")
    if start in MAGICS:
        pixels, orientation, inverted = read_tiff(path)
        mode = {2: "L", 3: "RGB", 4: "RGBA"}[pixels.ndim if pixels.ndim == 2 else pixels.shape[2]]
        return Decoded(pixels, f"TIFF {mode}{';16' if pixels.dtype == np.uint16 else ''}", orientation, inverted)
    kind, orientation = _plain_png(data) or _look_at_header(data, path)
    _check_end(data, path)
    if start == b"GIF8":
        return Decoded(_gif_pixels(data, path), kind)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UserError(f"{path}: cannot be decoded ({error.err}). Save it again as PNG.") from error
    if pixels is None:
        raise UserError(f"{path}: cannot be decoded: truncated, damaged or not an image. Copy it again.")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path}: pixels must be 8-bit or 16-bit integers, got {pixels.dtype}. Convert the file.")
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        raise UserError(f"{path}: the image must be gray, RGB or RGBA, got {pixels.shape[2]} channels. Convert it.")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return Decoded(pixels, kind, orientation)


def _plain_png(data: bytes) -> tuple[str, int] | None:
    """The result of `_look_at_header` for a PNG without unusual chunks before its pixels; None for other files.

    Parsing the header with Pillow takes longer than decoding a tiny image with OpenCV.
    """
    if data[:8] != _PNG or data[8:16] != b"\0\0\0\rIHDR" or len(data) < 33:
        return None
    width, height, bits, colours = struct.unpack(">IIBB", data[16:26])
    mode = _PNG_MODES.get((bits, colours))
    whole = zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big")
    if mode is None or not whole or width * height > Image.MAX_IMAGE_PIXELS:
        return None
    at = 33
    while (name := data[at + 4 : at + 8]) in _PNG_PLAIN:
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return (f"PNG {mode}", 1) if name == b"IDAT" else None


def _gif_pixels(data: bytes, path: Path) -> np.ndarray:
    """A GIF of one frame: (H, W) where its palette is gray, else (H, W, 3), or (H, W, 4) with transparency."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            transparent = "transparency" in image.info
            pixels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    except Exception as error:  # Pillow raises arbitrary errors for damaged files
        raise UserError(f"{path}: cannot be decoded, the GIF is truncated or damaged. Copy it again.") from error
    gray = not transparent and (pixels == pixels[..., :1]).all()
    return np.ascontiguousarray(pixels[..., 0] if gray else pixels)


def _look_at_header(data: bytes, path: Path) -> tuple[str, int]:
    """Kind and orientation from the header. Raises UserError if it is too large, CMYK or animated."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            mode, kind, animated = header.mode, header.format, getattr(header, "is_animated", False)
            # Without this check, Pillow would decode a whole PNG to look for a tag after its pixels.
            tagged = any(name in header.info for name in ("exif", "xmp", "XML:com.adobe.xmp"))
            orientation = header.getexif().get(_ORIENTATION, 1) if tagged else 1
    except UnidentifiedImageError:
        return path.suffix.lstrip(".").upper(), 1  # OpenCV may support it, with the limit of datasets/__init__.py
    except Image.DecompressionBombError as error:
        most = f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{path}: the image must have at most {most}. Cut it into tiles.") from error
    except Exception as error:  # Pillow raises arbitrary errors for damaged headers
        raise UserError(f"{path}: the header is damaged. Copy the file again, or save it as PNG.") from error
    if animated:
        raise UserError(f"{path}: the file must contain one frame. Save each frame as a separate file.")
    if mode == "CMYK":
        raise UserError(f"{path}: CMYK images are not supported. Save it as RGB or gray.")
    return f"{kind} {mode}", orientation if orientation in range(1, 9) else 1


def _check_end(data: bytes, path: Path) -> None:
    """Raises UserError if a JPEG or PNG is truncated: OpenCV 4 silently fills the missing part with gray."""
    is_jpeg = data.startswith(_JPEG)
    # An embedded thumbnail has an end marker too, so it must come after the last start of scan.
    cut_jpeg = is_jpeg and data.rfind(b"\xff\xd9") < max(data.rfind(b"\xff\xda"), 0)
    cut_png = data.startswith(b"\x89PNG") and b"IEND" not in data
    if cut_jpeg or cut_png:
        raise UserError(f"{path}: truncated, the file ends before the image does. Copy it again.")


def _size(array: np.ndarray) -> str:
    """Width x height, the usual order in image viewers."""
    return f"{array.shape[1]}x{array.shape[0]}"
