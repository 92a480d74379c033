"""Image and mask files to arrays.

Masks are where data sets differ and where a wrong guess destroys a training without an error message: a 0/1 mask read
as 8-bit gray is black, a mask saved as JPEG has gray pixels along its edges, a class map is not a target. `read_mask`
takes what has one meaning only and refuses the rest.
"""

import hashlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.errors import UserError

# The loader's processes are the parallelism. OpenCV's own threads on top of them would oversubscribe the cores, and a
# loader forked after they were started hangs at its first OpenCV call.
cv2.setNumThreads(0)

_NOISE = 32  # of 255: how far JPEG compression moves pixels away from black and white, and channels from each other
_SHOWN = 6  # values named in a message
_ORIENTATION = 274  # TIFF tag


def read_image(path: Path) -> np.ndarray:
    """Decode an image to (H, W, 3) RGB.

    8-bit files: uint8. 16-bit files: float32 in 0..255 (value / 257), which keeps the precision of 16-bit infrared
    that a cut to 8 bits would lose. Gray becomes three equal channels, alpha is dropped, palettes and 1-bit files are
    decoded. EXIF orientation is not applied: masks do not carry it, so pixels would no longer lie on their mask.

    Raises UserError if the file cannot be read or decoded, is truncated, animated, CMYK, larger than 179 megapixels,
    or is neither 8-bit nor 16-bit.
    """
    return to_rgb(read_pixels(path))


def read_pixels(path: Path) -> np.ndarray:
    """What `read_image` decodes, as it is stored: (H, W) gray or (H, W, 3) RGB, uint8 or uint16.

    For parts of a large image: `to_rgb` of a part is that part of `read_image`. Raises as `read_image` does.
    """
    pixels, _ = _decode(path)
    return pixels if pixels.ndim == 2 else pixels[..., :3]


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of what `read_image` decodes; from the header alone, where Pillow understands it."""
    try:
        with Image.open(path) as header:
            return header.height, header.width
    except Exception:  # Pillow's parsers raise whatever a damaged header leads them to; decoding will name the error
        height, width = read_pixels(path).shape[:2]
        return height, width


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3), uint8, uint16 or float in 0..255, as `read_image` returns it: (H, W, 3) uint8 or float32."""
    if pixels.dtype != np.uint8:
        scale = 257 if pixels.dtype == np.uint16 else 1
        pixels = pixels.astype(np.float32)
        pixels /= scale
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
    union = None
    for path in paths:
        pixels, is_jpeg = _decode(path)
        target = _target(pixels, is_jpeg, path, threshold)
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
    return union.astype(np.uint8)


def digest(image: np.ndarray) -> str:
    """The SHA-256 of a decoded image: equal for the same picture, whatever its file's name and format."""
    return hashlib.sha256(image.tobytes() + str(image.shape).encode()).hexdigest()


def _decode(path: Path) -> tuple[np.ndarray, bool]:
    """Pixels as stored, (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16; and whether it is a JPEG."""
    try:
        # Not cv2.imread, which cannot open non-ASCII paths on Windows.
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check that the file is there.") from error
    if not data:
        raise UserError(f"{path}: the file is empty (0 bytes). Copy it again.")
    is_jpeg = data.startswith(b"\xff\xd8")
    _check_header(data, path)
    _check_end(data, is_jpeg, path)
    data = _upright_tiff(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UserError(f"{path}: cannot be decoded ({error.err}). Save it again as PNG.") from error
    if pixels is None:
        raise UserError(f"{path}: cannot be decoded: truncated, damaged or not an image. Copy it again.")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path}: pixels are {pixels.dtype}; only 8-bit and 16-bit files are read. Convert it.")
    if pixels.ndim == 2:
        return pixels, is_jpeg
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), is_jpeg
    if pixels.shape[2] == 4:
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), is_jpeg
    raise UserError(f"{path}: {pixels.shape[2]} channels; only gray, RGB and RGBA are read. Convert it.")


def _check_header(data: bytes, path: Path) -> None:
    """UserError for what a file says of itself before a pixel is decoded: too large, CMYK, animated."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            mode, frames = header.mode, getattr(header, "n_frames", 1)
    except UnidentifiedImageError:
        return  # a kind that OpenCV may know all the same; its own limit is set in datasets/__init__.py
    except Image.DecompressionBombError as error:
        most = f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{path}: larger than {most}, which would not fit into memory. Cut it into tiles.") from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged header leads them to
        raise UserError(f"{path}: its header is damaged. Copy it again, or save it as PNG.") from error
    if frames > 1:
        raise UserError(f"{path}: {frames} frames or pages in one file. Save each as a file of its own.")
    if mode == "CMYK":
        raise UserError(f"{path}: CMYK, the colours of print. Save it as RGB or gray.")


def _check_end(data: bytes, is_jpeg: bool, path: Path) -> None:
    """UserError if a JPEG or PNG stops early: OpenCV 4 fills the missing part with gray and says nothing."""
    # A JPEG may hold a thumbnail with an end marker of its own, hence the end marker after the last start of scan.
    cut_jpeg = is_jpeg and data.rfind(b"\xff\xd9") < max(data.rfind(b"\xff\xda"), 0)
    cut_png = data.startswith(b"\x89PNG") and b"IEND" not in data
    if cut_jpeg or cut_png:
        raise UserError(f"{path}: truncated, the file ends before the image does. Copy it again.")


def _upright_tiff(data: bytes) -> bytes:
    """`data` with the orientation tag of a TIFF set to "as stored": OpenCV applies it even with IMREAD_UNCHANGED."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return data
    upright = bytearray(data)
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            if struct.unpack_from(order + "H", data, entry)[0] == _ORIENTATION:
                struct.pack_into(order + "H", upright, entry + 8, 1)
    except struct.error:
        return data  # truncated: left for the decoder to refuse
    return bytes(upright)


def _target(pixels: np.ndarray, is_jpeg: bool, path: Path, threshold: float | None) -> np.ndarray:
    """(H, W) bool of one mask file, by the rules of `read_mask`."""
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
