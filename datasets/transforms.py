"""From decoded arrays to network tensors, the same way in training, evaluation and prediction.

image (H, W, 3) RGB, 0..255  ->  training only: rotate, flip  ->  resize (bilinear)  ->  normalise  ->  (3, S, S)
mask  (H, W) in {0, 1}       ->  training only: rotate, flip  ->  resize             ->             ->  (1, S, S)

This is the order of the released code. Training may take crops at the image's own size in place of the resized image.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from datasets import AUGMENT_ORDERS, MASK_INTERPOLATIONS
from datasets.resizing import resize_image, resize_mask

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks the network for a newer version
import albumentations as A
import cv2

from datasets import NORMALIZATIONS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The released code divides the normalised image by 255 once more; its weights have seen no other input.
_DIVISOR = {"imagenet": 1.0, "authors": 255.0}


class Transform:
    """Rotate and flip (training), resize or crop, normalise.

    The augmentation is the paper's: with p = 0.5 a rotation by a random multiple of 90 degrees, and with p = 0.5 a flip
    along one axis or both, at the image's own size.

    A crop holds, with p = 0.5, a random pixel of the target; otherwise, or where there is no target or no mask, it lies
    anywhere. Where an image is smaller than the crop, it is filled up at its bottom and right, as the network itself
    does to reach multiples of 8: its edge is repeated, and its mask is background there. (A mirrored edge would show
    targets that the mask does not have.)

    Args:
        size: side S of the square the image is resized to, pixels; None keeps its size.
        normalization: "imagenet" (mean and standard deviation of ImageNet) or "authors" (the same, then divided by 255
            a second time as the released code does).
        augment: whether to rotate and flip.
        crop: side of the square crops, pixels, at the image's own size; None for whole images. Not with a size.
        mask_interpolation: how a mask is resized: "exact" or "nearest", see `datasets.resizing.resize_mask`; None
            leaves it at its size, to compare a prediction there; not with augment or crop.
        augment_order: "before_resize" as the released code does, or "after_resize": the shift of "nearest" masks then
            points in eight directions in training and in one in validation.

    Raises:
        ValueError: for an unknown normalization, mask_interpolation or augment_order, or settings that exclude each
            other.
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
            raise ValueError(f"normalization {normalization!r} is not one of {', '.join(NORMALIZATIONS)}")
        if mask_interpolation not in (None, *MASK_INTERPOLATIONS):
            raise ValueError(
                f"mask_interpolation {mask_interpolation!r} is not one of {', '.join(MASK_INTERPOLATIONS)}"
            )
        if augment_order not in AUGMENT_ORDERS:
            raise ValueError(f"augment_order {augment_order!r} is not one of {', '.join(AUGMENT_ORDERS)}")
        if mask_interpolation is None and (augment or crop):
            raise ValueError("an image is augmented together with its mask, at one size")
        if size is not None and crop is not None:
            raise ValueError("crops are taken at the image's own size: size must be None")
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
            # `Flip` of older albumentations, which 2.x no longer has: one of the three flips, equally likely.
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
            seed: of the augmentation of this call.

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
            # One seed for the whole pipeline would make its steps decide alike: hardly any image rotated and flipped.
            # The first number was the resize's when that was a step: runs of that time resume with the same decisions.
            first = 0 if self.size is None else 1
            seeds = np.random.SeedSequence(seed).generate_state(first + len(steps))[first:]
            for step, step_seed in zip(steps, seeds, strict=True):
                step.set_random_seed(int(step_seed))
        # The crops read a mask; without a target in it they lie anywhere.
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
        """How many pixels it is short of the crop."""
        return max(0, self.crop - array.shape[axis])


def constants(normalization: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of R, G and B, with which input = (pixel / 255 - mean) / std; pixels in 0..255."""
    return list(IMAGENET_MEAN), [_DIVISOR[normalization] * std for std in IMAGENET_STD]
