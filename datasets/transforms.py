"""Conversion of decoded arrays to network tensors, shared by training, evaluation and prediction.

image (H, W, 3) RGB, 0..255  ->  training only: rotate, flip  ->  resize (bilinear)  ->  normalise  ->  (3, S, S)
mask  (H, W) in {0, 1}       ->  training only: rotate, flip  ->  resize             ->             ->  (1, S, S)

This is the order of the released code. Training can use crops at the original resolution instead of resized images.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from datasets import AUGMENT_ORDERS, MASK_INTERPOLATIONS
from datasets.resizing import resize_image, resize_mask

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import checks for a newer version online
import albumentations as A
import cv2

from datasets import NORMALIZATIONS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The released code divides the normalised image by 255 again, and the released weights require this.
_DIVISOR = {"imagenet": 1.0, "authors": 255.0}


class Transform:
    """Rotate and flip (training), resize or crop, normalise.

    The augmentation is that of the paper: with p = 0.5 a rotation by a random multiple of 90 degrees, and with p = 0.5
    a flip along one axis or both, at the original size.

    With p = 0.5 a crop contains a random pixel of the target; otherwise, or without a target or mask, its position is
    random. An image smaller than the crop is padded at the bottom and right, as the network does to reach multiples of
    8: its edge is repeated, and the mask is background there. (A mirrored edge would show targets that are not in the
    mask.)

    Args:
        size: side S of the square to which the image is resized, pixels; None keeps its size.
        normalization: "imagenet" (mean and standard deviation of ImageNet) or "authors" (the same, then divided by 255
            again, as in the released code).
        augment: whether to rotate and flip.
        crop: side of the square crops at the original resolution, pixels; None for whole images. Excludes size.
        mask_interpolation: "exact" or "nearest", see `datasets.resizing.resize_mask`; None keeps the size of the mask,
            to compare a prediction at that size; excludes augment and crop.
        augment_order: "before_resize" as in the released code, or "after_resize", with which the shift of "nearest"
            masks points in eight directions in training but in one in validation.

    Raises:
        ValueError: for an unknown normalization, mask_interpolation or augment_order, or excluding settings.
    """

    def __init__(
        self,
        size: int | None,
        normalization: str = "imagenet",
        augment: bool = False,
        crop: int | None = None,
        mask_interpolation: str | None = "exact",
        augment_order: str = "before_resize",
    ) -> None:
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
        if mask_interpolation not in (None, *MASK_INTERPOLATIONS):
            raise ValueError(
                f"mask_interpolation must be one of {', '.join(MASK_INTERPOLATIONS)}, got {mask_interpolation!r}"
            )
        if augment_order not in AUGMENT_ORDERS:
            raise ValueError(f"augment_order must be one of {', '.join(AUGMENT_ORDERS)}, got {augment_order!r}")
        if mask_interpolation is None and (augment or crop):
            raise ValueError("augment and crop require a mask_interpolation, because image and mask need the same size")
        if size is not None and crop is not None:
            raise ValueError("crop excludes size: crops are taken at the original resolution")
        self.size = None if size is None else (size, size)
        self.divisor = _DIVISOR[normalization]
        self.crop = crop
        self.mask_interpolation = mask_interpolation
        self.augment_order = augment_order
        steps = []
        if crop is not None:
            steps.append(A.Lambda(image=self._fill_up_image, mask=self._fill_up_mask, p=1))
            steps.append(A.OneOf([A.CropNonEmptyMaskIfExists(crop, crop, p=1), A.RandomCrop(crop, crop, p=1)], p=1))
        if augment:
            # `Flip` of older albumentations, removed in 2.x: one of the three flips with equal probability.
            both = A.Sequential([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], p=1)
            steps += [A.RandomRotate90(p=0.5), A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1), both], p=0.5)]
        self.geometry = A.Compose(steps)
        self.normalize = A.Normalize(IMAGENET_MEAN, IMAGENET_STD, max_pixel_value=255.0)

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None = None, seed: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Transforms one image and its mask; the same seed gives the same crop, rotation and flip.

        Args:
            image: (H, W, 3) RGB, uint8, or float32 in 0..255.
            mask: (H, W) in {0, 1}, or None.
            seed: random seed of the augmentation of this call.

        Returns:
            image (3, S, S) float32 and mask (1, S, S) float32 in {0, 1}, or None; (3, H, W) and (1, H, W) where the
            size is kept.
        """
        if self.augment_order == "after_resize":
            image, mask = self._resize(image, mask)
        image, mask = self._augment(image, mask, seed)
        if self.augment_order == "before_resize":
            image, mask = self._resize(image, mask)
        normalized = self.normalize(image=image)["image"] / self.divisor
        image_tensor = torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1), dtype=np.float32))
        if mask is None:
            return image_tensor, None
        return image_tensor, torch.from_numpy(mask.astype(np.float32))[None]

    def picture(self, image: Tensor) -> np.ndarray:
        """A network tensor (3, H, W) back as a picture (H, W, 3) RGB uint8."""
        array = image.detach().float().cpu().numpy().transpose(1, 2, 0) * self.divisor
        array = (array * np.float32(IMAGENET_STD) + np.float32(IMAGENET_MEAN)) * 255
        return np.clip(np.rint(array), 0, 255).astype(np.uint8)

    def _augment(
        self, image: np.ndarray, mask: np.ndarray | None, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Crop, rotation and flip."""
        steps = self.geometry.transforms
        if not steps:
            return image, mask
        if seed is not None:
            # With one seed for the whole pipeline, its steps would make correlated decisions. The first number belonged
            # to resizing when that was a step; it is skipped, so that older runs resume with the same decisions.
            first = 0 if self.size is None else 1
            seeds = np.random.SeedSequence(seed).generate_state(first + len(steps))[first:]
            for step, step_seed in zip(steps, seeds, strict=True):
                step.set_random_seed(int(step_seed))
        # Cropping requires a mask; without a target in it, positions are random.
        given = np.zeros(image.shape[:2], np.uint8) if mask is None and self.crop else mask
        arrays = self.geometry(image=image, **({} if given is None else {"mask": given}))
        return arrays["image"], None if mask is None else arrays["mask"]

    def _resize(self, image: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        if self.size is None:
            return image, mask
        if mask is not None and self.mask_interpolation is not None:
            mask = resize_mask(mask, self.size, self.mask_interpolation)
        return resize_image(image, self.size), mask

    def _fill_up_image(self, image: np.ndarray, **_: object) -> np.ndarray:
        return cv2.copyMakeBorder(image, 0, self._missing(image, 0), 0, self._missing(image, 1), cv2.BORDER_REPLICATE)

    def _fill_up_mask(self, mask: np.ndarray, **_: object) -> np.ndarray:
        return cv2.copyMakeBorder(mask, 0, self._missing(mask, 0), 0, self._missing(mask, 1), cv2.BORDER_CONSTANT)

    def _missing(self, array: np.ndarray, axis: int) -> int:
        """The number of pixels that it is smaller than the crop."""
        return max(0, self.crop - array.shape[axis])


def constants(normalization: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of R, G and B, with which input = (pixel / 255 - mean) / std; pixels in 0..255."""
    return list(IMAGENET_MEAN), [_DIVISOR[normalization] * std for std in IMAGENET_STD]
