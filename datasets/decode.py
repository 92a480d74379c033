"""Image and mask files to arrays.

Masks are where data sets differ and where a wrong guess destroys a training without an error message: a 0/1 mask read
as 8-bit gray is black, a mask saved as JPEG has gray pixels along its edges, a class map is not a target. `read_mask`
takes what has one meaning only and refuses the rest.
"""

import hashlib
import io
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.tiff import MAGICS, read_tiff, tiff_size
from utils.common.errors import UserError

# The loader's processes are the parallelism. OpenCV's own threads on top of them would oversubscribe the cores, and a
# loader forked after they were started hangs at its first OpenCV call.
cv2.setNumThreads(0)

# The size limit is Pillow's error; at half of it, it would warn on the terminal.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_JPEG = b"\xff\xd8"
_NOISE = 32  # of 255: how far JPEG compression moves pixels away from black and white, and channels from each other
_SHOWN = 6  # values named in a message
_ORIENTATION = 274  # EXIF tag


def read_image(path: Path, white_level: int | None = None) -> np.ndarray:
    """Decode an image to (H, W, 3) RGB.

    8-bit files: uint8. 16-bit files: float32 in 0..255 (value / 257), which keeps the precision of 16-bit infrared
    that a cut to 8 bits would lose; with a `white_level`, that value of a 16-bit file is 255, and so is all above. Gray
    becomes three equal channels, alpha is dropped, palettes and 1-bit files are decoded. EXIF orientation is not
    applied: masks do not carry it, so pixels would no longer lie on their mask. TIFF is read by `datasets.tiff`, all
    else by OpenCV.

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
        target = _target(decoded, path, threshold)
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
    return hashlib.sha256(image.tobytes() + str(image.shape).encode()).hexdigest()


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
        # A FIFO or a device would be waited for, perhaps for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: a folder, pipe, socket or device, expected a file. Remove it.")
        # Not cv2.imread, which cannot open non-ASCII paths on Windows.
        with path.open("rb") as file:
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
    kind, orientation = _look_at_header(data, path)
    _check_end(data, path)
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


def _target(mask: Decoded, path: Path, threshold: float | None) -> np.ndarray:
    """(H, W) bool of one mask file, by the rules of `read_mask`."""
    pixels, is_jpeg = mask.pixels, mask.kind.startswith(("JPEG", "MPO"))
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = _without_alpha(pixels, path, check=threshold is None)
    if threshold is not None:
        return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) > threshold
    full = int(np.iinfo(pixels.dtype).max)
    margin = _NOISE * (full // 255)
    if pixels.ndim == 3:
        gray = pixels.max(axis=2)
        if int((gray - pixels.min(axis=2)).max()) > (margin if is_jpeg else 0):
            return _colour_target(pixels, path)
        pixels = gray
    values = np.unique(pixels)
    if len(values) == 1 and values[0] in (0, 1, 255, 65535):
        return pixels > 0
    if len(values) == 2 and values[0] == 0:
        return pixels > 0
    low, high = values[values <= margin], values[values >= full - margin]
    only_noise = len(low) > 0 and len(high) > 0 and len(low) + len(high) == len(values)
    class_map = high.tolist() == [full] and low.tolist() == list(range(len(low)))
    if only_noise and (is_jpeg or not class_map):
        return pixels > full // 2
    raise _ambiguous(path, "soft edges or several classes", values.tolist())


def _without_alpha(rgba: np.ndarray, path: Path, check: bool) -> np.ndarray:
    """The part of an RGBA mask that carries it: (H, W, 3) colour, or (H, W) alpha."""
    colour, alpha = rgba[..., :3], rgba[..., 3]
    if (alpha == alpha[0, 0]).all():
        return colour
    if (colour == colour[0, 0]).all():
        return alpha
    if check and ((alpha > 0) != (colour > 0).any(axis=2)).any():
        raise _ambiguous(path, "colour and alpha mark different pixels", np.unique(alpha).tolist(), "alpha values")
    return colour


def _colour_target(pixels: np.ndarray, path: Path) -> np.ndarray:
    """(H, W) bool: the one colour that is not black."""
    # One number per colour: np.unique of numbers is much faster than of rows.
    codes = (pixels.astype(np.int64) << np.array([32, 16, 0])).sum(axis=2)
    found = np.unique(codes)
    if len(found) == 2 and found[0] == 0:
        return codes > 0
    colours = [(code >> 32, code >> 16 & 0xFFFF, code & 0xFFFF) for code in found[: _SHOWN + 1].tolist()]
    what = "several colours, perhaps classes" if len(found) > 1 else "one colour that covers everything"
    raise _ambiguous(path, what, colours, "colours (R, G, B)", len(found))


def _ambiguous(path: Path, what: str, found: list, kind: str = "values", count: int | None = None) -> UserError:
    """The refusal of a mask; `found` are the values in it, `count` how many if `found` is cut."""
    count = len(found) if count is None else count
    shown = ", ".join(map(str, found[:_SHOWN])) + (f", ... ({count} in all)" if count > _SHOWN else "")
    return UserError(
        f"{path}: cannot tell target from background in this mask: {what}; {kind}: {shown}. "
        "--mask_threshold T takes pixels brighter than T as target."
    )


def _size(array: np.ndarray) -> str:
    """Width x height, as image viewers show it."""
    return f"{array.shape[1]}x{array.shape[0]}"
