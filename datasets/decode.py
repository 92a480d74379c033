"""Image and mask files to arrays; `datasets.targets` has the rules by which a mask's pixels are target."""

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

# The loader's processes are the parallelism. OpenCV's own threads on top of them would oversubscribe the cores, and a
# loader forked after they were started hangs at its first OpenCV call.
cv2.setNumThreads(0)

# The size limit is Pillow's error; at half of it, it would warn on the terminal.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_JPEG = b"\xff\xd8"
_ORIENTATION = 274  # EXIF tag
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {(8, 0): "L", (8, 2): "RGB", (8, 6): "RGBA", (16, 0): "I;16"}  # Pillow's, by bits and colour type
_PNG_PLAIN = {b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"tIME", b"bKGD"}  # change nothing in how pixels are read


def read_image(path: Path, white_level: int | None = None) -> np.ndarray:
    """Decode an image to (H, W, 3) RGB.

    8-bit files: uint8. 16-bit files: float32 in 0..255 (value / 257), which keeps the precision of 16-bit infrared
    that a cut to 8 bits would lose; with a `white_level`, that value of a 16-bit file is 255, and so is all above. Gray
    becomes three equal channels, alpha is dropped, palettes and 1-bit files are decoded. EXIF orientation is not
    applied: masks do not carry it, so pixels would no longer lie on their mask. TIFF is read by `datasets.tiff`, GIF by
    Pillow, all else by OpenCV.

    Raises UserError if the file cannot be read or decoded, is truncated, animated, CMYK, larger than 179 megapixels,
    or is neither 8-bit nor 16-bit; and for a path that is a pipe or a device.
    """
    return to_rgb(read_pixels(path), white_level)


def read_pixels(path: Path) -> np.ndarray:
    """What `read_image` decodes, as it is stored: (H, W) gray or (H, W, 3) RGB, uint8 or uint16.

    For parts of a large image: `to_rgb` of a part is that part of `read_image`. Raises as `read_image` does.
    """
    return decode(path).colours


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of what `read_image` decodes; from the header alone, where Pillow understands it."""
    return header_size(path) or read_pixels(path).shape[:2]


def header_size(path: Path) -> tuple[int, int] | None:
    """(height, width) as the header says; None if it says nothing that is understood."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            if file.read(4) in MAGICS:
                return tiff_size(path)
        with Image.open(path) as header:
            return header.height, header.width
    except Exception:  # Pillow's parsers raise whatever a damaged header leads them to; decoding will name the error
        return None


def to_rgb(pixels: np.ndarray, white_level: int | None = None) -> np.ndarray:
    """(H, W) or (H, W, 3), uint8, uint16 or float in 0..255, as `read_image` returns it: (H, W, 3) uint8 or float32."""
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
    - gray, every value within 32/255 of black or of white, with both present: edges of a JPEG, also if it was saved
      as another format since; split in the middle. Not so 0, 1, ..., k and full white in a lossless file, which is a
      class map with 255 for "ignore".

    Anything else is ambiguous. With `threshold`, pixels with gray > threshold are target and nothing is ambiguous;
    gray is the largest colour channel (alpha if only alpha varies), in the file's own values: up to 255 in 8-bit
    files, up to 65535 in 16-bit files.

    Raises UserError if a file cannot be decoded (see `read_image`) or is ambiguous, or if the sizes of the files
    differ.
    """
    return decode_mask(paths, threshold)[0]


def decode_mask(paths: Sequence[Path], threshold: float | None = None) -> tuple[np.ndarray, int]:
    """What `read_mask` returns, and the orientation tag of the files: 1 where all are upright."""
    union, orientation = None, 1
    for path in paths:
        decoded = decode(path)
        orientation = max(orientation, decoded.orientation)
        target = target_pixels(decoded.pixels, path, threshold, decoded.kind.startswith(("JPEG", "MPO")))
        if union is None:
            union = target
        elif union.shape != target.shape:
            raise UserError(
                f"{path}: {_size(target)} pixels, but {paths[0]} of the same case has {_size(union)}. Masks of one "
                "case must have one size."
            )
        else:
            union |= target
    if union is None:
        raise ValueError("read_mask needs at least one path")
    return union.astype(np.uint8), orientation


def digest(image: np.ndarray) -> str:
    """The SHA-256 of a decoded image: equal for the same picture, whatever its file's name and format."""
    of_pixels = hashlib.sha256(np.ascontiguousarray(image))
    of_pixels.update(str(image.shape).encode())
    return of_pixels.hexdigest()


@dataclass(frozen=True)
class Decoded:
    """A decoded file.

    pixels: as stored, (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16.
    kind: format and mode, such as "PNG RGB".
    orientation: its EXIF or TIFF tag, 1 to 8, which is not applied; 1 is upright, or no tag.
    """

    pixels: np.ndarray
    kind: str
    orientation: int = 1

    @property
    def colours(self) -> np.ndarray:
        """The pixels without alpha."""
        return self.pixels if self.pixels.ndim == 2 else self.pixels[..., :3]


def decode(path: Path) -> Decoded:
    """The pixels of a file and what it says of itself. Raises as `read_image` does."""
    try:
        # A FIFO or a device would be waited for, perhaps for ever. Path's own stat and open cost as much as decoding a
        # tiny image.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise UserError(f"{path}: a folder, pipe, socket or device, expected a file. Remove it.")
        # Not cv2.imread, which cannot open non-ASCII paths on Windows.
        with open(path, "rb") as file:  # noqa: PTH123
            start = file.read(4)
            data = b"" if start in MAGICS else start + file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check that the file is there.") from error
    if not start:
        raise UserError(f"{path}: the file is empty (0 bytes). Copy it again.")
    if start in MAGICS:
        pixels, orientation = read_tiff(path)
        mode = {2: "L", 3: "RGB", 4: "RGBA"}[pixels.ndim if pixels.ndim == 2 else pixels.shape[2]]
        return Decoded(pixels, f"TIFF {mode}{';16' if pixels.dtype == np.uint16 else ''}", orientation)
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
        raise UserError(f"{path}: pixels are {pixels.dtype}; only 8-bit and 16-bit files are read. Convert it.")
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        raise UserError(f"{path}: {pixels.shape[2]} channels; only gray, RGB and RGBA are read. Convert it.")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return Decoded(pixels, kind, orientation)


def _plain_png(data: bytes) -> tuple[str, int] | None:
    """What `_look_at_header` returns, for a PNG with nothing unusual before its pixels; None for all else.

    Pillow takes longer for it than OpenCV takes for the pixels of a tiny image.
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
    except Exception as error:  # Pillow raises whatever a damaged file leads it to
        raise UserError(f"{path}: cannot be decoded, the GIF is truncated or damaged. Copy it again.") from error
    gray = not transparent and (pixels == pixels[..., :1]).all()
    return np.ascontiguousarray(pixels[..., 0] if gray else pixels)


def _look_at_header(data: bytes, path: Path) -> tuple[str, int]:
    """Kind and orientation. UserError for what a file says of itself: too large, CMYK, animated."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            mode, kind, animated = header.mode, header.format, getattr(header, "is_animated", False)
            # Pillow would decode a whole PNG to look for a tag behind its pixels.
            tagged = any(name in header.info for name in ("exif", "xmp", "XML:com.adobe.xmp"))
            orientation = header.getexif().get(_ORIENTATION, 1) if tagged else 1
    except UnidentifiedImageError:
        return path.suffix.lstrip(".").upper(), 1  # OpenCV may know it; its own limit is set in datasets/__init__.py
    except Image.DecompressionBombError as error:
        most = f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{path}: larger than {most}, which would not fit into memory. Cut it into tiles.") from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged header leads them to
        raise UserError(f"{path}: its header is damaged. Copy it again, or save it as PNG.") from error
    if animated:
        raise UserError(f"{path}: more than one frame in one file. Save each as a file of its own.")
    if mode == "CMYK":
        raise UserError(f"{path}: CMYK, the colours of print. Save it as RGB or gray.")
    return f"{kind} {mode}", orientation if orientation in range(1, 9) else 1


def _check_end(data: bytes, path: Path) -> None:
    """UserError if a JPEG or PNG stops early: OpenCV 4 fills the missing part with gray and says nothing."""
    is_jpeg = data.startswith(_JPEG)
    # A JPEG may hold a thumbnail with an end marker of its own, hence the end marker after the last start of scan.
    cut_jpeg = is_jpeg and data.rfind(b"\xff\xd9") < max(data.rfind(b"\xff\xda"), 0)
    cut_png = data.startswith(b"\x89PNG") and b"IEND" not in data
    if cut_jpeg or cut_png:
        raise UserError(f"{path}: truncated, the file ends before the image does. Copy it again.")


def _size(array: np.ndarray) -> str:
    """Width x height, as image viewers show it."""
    return f"{array.shape[1]}x{array.shape[0]}"
