"""`Predictor` segments images, for scripts, notebooks and the page of demo.py.

predict = Predictor("checkpoints/BUSI/seg/best.pth", tta=True)
mask = predict("case.png")                             # (H, W) bool, at the size of the image
probability = predict.probability("case.png")          # (H, W) float32 in 0..1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.decode import decode, to_rgb
from datasets.levels import bits_in_use
from datasets.resizing import Shift, restore
from datasets.transforms import Transform
from models import STRIDE
from utils.common.devices import pick_device
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.evaluation.thresholds import logit
from utils.networks.inference_engines import load_engine
from utils.networks.load_weights import load_trained
from utils.networks.tiles import Strip, cut
from utils.networks.views import Network, in_tiles, probabilities
from utils.settings.arguments import PRECISIONS
from utils.settings.config import trained_resize
from utils.settings.recorded import recorded_settings
from utils.settings.refusals import SMALLEST, check_threshold, check_tiles

RESIZE = ("img_size", "keep")
NOT_FINITE = "the output of the network is not finite. Try --amp off, which computes in float32"


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    size: height and width, pixels.
    pixels: as stored, (H, W) or (H, W, 3); None if they are no longer needed.
    tensor: the network input, (3, h, w); None for an image that is predicted in tiles, which are converted one after
        the other, so that a large image needs no float copy.
    bits: see `datasets.levels.bits_in_use`.
    """

    size: tuple[int, int]
    pixels: np.ndarray | None
    tensor: Tensor | None
    orientation: int = 1
    bits: int = 0


class Predictor:
    """Predicts masks of images of any size with trained weights.

    Args:
        weights: a checkpoint of phase 2; or the authors' 'SRS_S', with `recon_weights`.
        recon_weights: the authors' 'SRS_R'. The released weights require encoder_bn="batch", normalization="authors".
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        amp: "auto", "off", "bf16", "fp16", see `utils.common.precision` (default: as in training).
        encoder_bn, normalization, img_size: default: as in training ("frozen", "imagenet", 256 for the authors' files).
            encoder_bn="batch" uses batch size 1.
        white_level: white level of 16-bit images (default: as in training, 65535 for the authors' files).
        resize: "img_size" resizes each image to img_size x img_size, and the logits back (bilinear); "keep" predicts at
            the original size (default: as in training).
        tta: test-time augmentation: average the probabilities of the eight rotations and flips.
        tile: tile size in pixels, a multiple of 8. Larger images are predicted in tiles, and all images at their
            original size (resize is "keep").
        overlap: overlap of neighbouring tiles in pixels, a multiple of 8, at most half of it (default: a quarter).
        batch_size: batch size for images of img_size x img_size; larger images and tiles have batches with as many
            pixels, at least one image.
        engine, threads: see `utils.networks.inference_engines.load_engine`.
        threshold: pixels with a higher probability are target.
        progress: show a progress bar over the tiles of an image.

    `network` may be replaced by another callable of the same form.

    Raises:
        UserError: if the weights are missing or invalid, or the device or precision is not available.
        ValueError: for invalid settings, also in combination.
    """

    network: Network

    def __init__(
        self,
        weights: str | Path,
        *,
        recon_weights: str | Path | None = None,
        device: str = "auto",
        amp: str | None = None,
        encoder_bn: str | None = None,
        normalization: str | None = None,
        white_level: int | None = None,
        img_size: int | None = None,
        resize: str | None = None,
        tta: bool = False,
        tile: int | None = None,
        overlap: int | None = None,
        batch_size: int = 8,
        engine: str = "torch",
        threads: int | None = None,
        threshold: float = 0.5,
        progress: bool = False,
    ) -> None:
        self.overlap = check_tiles(tile, overlap)
        self.tile = tile
        self.threshold = check_threshold(threshold)
        for name, value, known in (("resize", resize, RESIZE), ("amp", amp, PRECISIONS)):
            if value not in (None, *known):
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        for name, value in (("img_size", img_size), ("batch_size", batch_size), ("white_level", white_level)):
            if value is not None and not 1 <= value <= 65535:
                raise ValueError(f"{name} must be between 1 and 65535, got {value}")
        self.tta = tta
        self.batch_size = batch_size
        self.progress = progress
        model, trained_with = load_trained(Path(weights), recon_weights and Path(recon_weights), encoder_bn)
        self.trained_with = trained_with = recorded_settings(trained_with, Path(weights))
        self.model = model
        self.resize = "keep" if tile else resize or trained_resize(trained_with)
        self.img_size = img_size or trained_with.get("img_size", 256)
        self.normalization = normalization or trained_with.get("normalization", "imagenet")
        self.white_level = white_level or trained_with.get("white_level")
        self.mask_shift: Shift | None = trained_with.get("mask_shift")  # None: the authors', see `restore`
        self.device = pick_device(device)
        self.precision = Precision(amp or trained_with.get("amp", "auto"), self.device)
        self.transform = Transform(self.img_size if self.resize == "img_size" else None, self.normalization)
        self.engine = engine
        self.network = load_engine(engine, model, self.precision, threads, self.normalization)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, besides the weights, that affect a prediction."""
        names = ("img_size", "normalization", "resize", "tta", "tile", "overlap", "engine", "threshold")
        settings = {name: getattr(self, name) for name in names}
        if self.white_level:  # only if there is one, so that predictions of older versions can be continued
            settings["white_level"] = self.white_level
        settings["mask_shift"] = self.mask_shift and list(self.mask_shift)  # a list, as in JSON
        if hasattr(self.model, "encoder_bn"):
            settings["encoder_bn"] = self.model.encoder_bn
        return {**settings, "amp": self.precision.name}

    def __call__(self, image: str | Path | np.ndarray) -> np.ndarray:
        """The mask, (H, W) bool, of an image; see `probability`."""
        return self.predictions([self.read(image)])[0][1]

    def probability(self, image: str | Path | np.ndarray) -> np.ndarray:
        """The probability of each pixel to be target, (H, W) float32 in 0..1.

        Args:
            image: a file, or an array (H, W) or (H, W, 3) RGB: uint8, uint16, or float in 0..255.

        Raises:
            UserError: for a file that cannot be read (`datasets.decode.read_image`).
            ValueError: for another array.
        """
        return self.probabilities([self.read(image)])[0]

    def read(self, image: str | Path | np.ndarray, keep_pixels: bool = True) -> Picture:
        """Decodes an image, once; for `probabilities`. Raises as `probability` does.

        Without `keep_pixels`, a picture that is not predicted in tiles contains only its tensor.
        """
        if isinstance(image, np.ndarray):
            pixels, orientation = _checked(image), 1
        else:
            decoded = decode(Path(image))
            pixels, orientation = decoded.colours, decoded.orientation
        size, bits = pixels.shape[:2], bits_in_use(pixels)
        if self.tile and max(size) > self.tile:
            return Picture(size, pixels, None, orientation, bits)
        array = to_rgb(pixels, self.white_level)
        if self.resize == "keep":
            array = self._large_enough(array)
        return Picture(size, pixels if keep_pixels else None, self.transform(array)[0], orientation, bits)

    def batch_of(self, height: int, width: int) -> int:
        """The batch size for network inputs of that size."""
        if getattr(self.model, "encoder_bn", None) == "batch":
            return 1
        return min(self.batch_size, max(1, self.batch_size * self.img_size**2 // (height * width)))

    def probabilities(self, pictures: Sequence[Picture]) -> list[np.ndarray]:
        """The probabilities, (H, W) float32 each, of pictures from `read`: one, or several of one tensor shape.

        Raises:
            UserError: if the network's output for one of them is not finite.
        """
        return [probability for probability, _ in self.predictions(pictures)]

    def predictions(self, pictures: Sequence[Picture]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The same, each with its mask, (H, W) bool.

        A threshold of `sweep.csv` gives the masks that `evaluation.py` counted, except that it rounds logits.
        """
        if pictures[0].tensor is None:
            return [self._with_mask(self._in_tiles(picture.pixels)) for picture in pictures]
        images = torch.stack([picture.tensor for picture in pictures])
        # Small images at their original size may have been padded.
        sizes = [images.shape[-2:] if self.resize == "keep" else picture.size for picture in pictures]
        if self.tta:
            found = [self._with_mask(of_image.cpu().numpy()) for of_image in self._forward(images, sizes)]
        else:
            found = self._one_view(images, sizes)
        return [
            tuple(array[: picture.size[0], : picture.size[1]] for array in arrays)
            for arrays, picture in zip(found, pictures, strict=True)
        ]

    @torch.inference_mode()
    def _one_view(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`predictions` without an average, whose masks are those of the logits."""
        logits = self.network(images.to(self.device))
        if not logits.isfinite().all():
            raise UserError(NOT_FINITE)
        seen = (restore(one[None], size, self.mask_shift)[0, 0] for one, size in zip(logits, sizes, strict=True))
        return [(one.sigmoid().cpu().numpy(), (one > logit(self.threshold)).cpu().numpy()) for one in seen]

    def _with_mask(self, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An average of probabilities and its mask; in float32 the threshold might be rounded to 1."""
        return probability, probability > np.float64(self.threshold)

    def _in_tiles(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        at_once = self.batch_of(min(height, self.tile), min(width, self.tile))

        def predict(tiles: list[tuple[Strip, Strip]]) -> Sequence[Tensor]:
            images = torch.stack([self._tile(pixels, *tile) for tile in tiles])
            return self._forward(images, [images.shape[-2:]] * len(tiles))

        return in_tiles((height, width), self.tile, self.overlap, at_once, predict, self.progress).numpy()

    def _tile(self, pixels: np.ndarray, row: Strip, column: Strip) -> Tensor:
        return self.transform(self._large_enough(to_rgb(cut(pixels, row, column, self.tile), self.white_level)))[0]

    def _large_enough(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3), padded to the size that the network requires by repeating the last row and column."""
        smallest = [max(STRIDE, side) for side in image.shape[:2]]
        if smallest == [STRIDE, STRIDE] and getattr(self.model, "encoder_bn", None) == "batch":
            smallest = [SMALLEST, SMALLEST]
        missing = [size - side for size, side in zip(smallest, image.shape[:2], strict=True)]
        return np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge") if any(missing) else image

    def _forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        found = probabilities(self.network, images.to(self.device), sizes, self.mask_shift, self.tta)
        if any(of_image.isnan().any() for of_image in found):
            raise UserError(NOT_FINITE)
        return found


def _checked(image: np.ndarray) -> np.ndarray:
    """The array, if `datasets.decode.to_rgb` accepts it.

    Raises:
        ValueError: for an invalid shape, type or range.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"expected an image (H, W) or (H, W, 3), got {image.shape}")
    if image.dtype in (np.uint8, np.uint16):
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"expected uint8, uint16 or float pixels, got {image.dtype}")
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 255):
        raise ValueError(f"float pixels must be between 0 and 255, got {low:g} to {high:g}")
    if 0 < high <= 1:
        raise ValueError(
            f"float pixels must be between 0 and 255, but the largest is {high:g}: multiply an image in 0..1 by 255"
        )
    return image
