"""From decoded arrays to network tensors, the same way in training, evaluation and prediction.

image (H, W, 3) RGB, 0..255  ->  resize (bilinear)  ->  training only: rotate, flip  ->  normalise  ->  (3, S, S)
mask  (H, W) in {0, 1}       ->  resize (nearest)   ->  training only: rotate, flip                 ->  (1, S, S)

Where the size is kept, training may take crops in place of the resized image.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks the network for a newer version
import albumentations as A
import cv2

from datasets import NORMALIZATIONS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The released code divides the normalised image by 255 once more; its weights have seen no other input.
_DIVISOR = {"imagenet": 1.0, "authors": 255.0}


class Transform:
    """Resize or crop, optionally augment, normalise.

    The augmentation is the paper's: with p = 0.5 a rotation by a random multiple of 90 degrees, and with p = 0.5 a flip
    along one axis or both.

    A crop holds, with p = 0.5, a random pixel of the target; otherwise, or where there is no target or no mask, it lies
    anywhere. Where an image is smaller than the crop, it is filled up at its bottom and right, as the network itself
    does to reach multiples of 8: its edge is repeated, and its mask is background there. (A mirrored edge would show
    targets that the mask does not have.)

    Args:
        size: side S of the square the image is resized to, pixels; None keeps its size.
        normalization: "imagenet" (mean and standard deviation of ImageNet) or "authors" (the same, then divided by 255
            a second time as the released code does).
        augment: whether to rotate and flip.
        crop: side of the square crops, pixels, at the size that `size` says; None for whole images.
        resize_mask: False leaves the mask at its size, to compare a prediction there; not with augment or crop.

    Raises:
        ValueError: for an unknown normalization, or a mask to be augmented without its image's size.
    """

    def __init__(
        self,
        size: int | None,
        normalization: str = "imagenet",
        augment: bool = False,
        crop: int | None = None,
        resize_mask: bool = True,
    ) -> None:
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization {normalization!r} is not one of {', '.join(NORMALIZATIONS)}")
        if not resize_mask and (augment or crop):
            raise ValueError("an image is augmented together with its mask, at one size")
        self.divisor = _DIVISOR[normalization]
        self.crop = crop
        self.resize_mask = resize_mask
        steps = []
        if size is not None:
            steps.append(A.Resize(size, size, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST))
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
        if seed is not None:
            # One seed for the whole pipeline would make its steps decide alike: hardly any image rotated and flipped.
            steps = self.geometry.transforms
            for step, step_seed in zip(steps, np.random.SeedSequence(seed).generate_state(len(steps)), strict=True):
                step.set_random_seed(int(step_seed))
        # The crops read a mask; without a target in it they lie anywhere.
        geometric = np.zeros(image.shape[:2], np.uint8) if mask is None and self.crop else mask
        together = {} if geometric is None or not self.resize_mask else {"mask": geometric}
        arrays = {"mask": mask, **self.geometry(image=image, **together)}
        normalized = self.normalize(image=arrays["image"])["image"] / self.divisor
        image_tensor = torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1), dtype=np.float32))
        if mask is None:
            return image_tensor, None
        return image_tensor, torch.from_numpy(arrays["mask"].astype(np.float32))[None]

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


def denormalize(image: Tensor, normalization: str) -> np.ndarray:
    """A network tensor (3, H, W) back to a picture (H, W, 3) RGB uint8."""
    array = image.detach().float().cpu().numpy().transpose(1, 2, 0) * _DIVISOR[normalization]
    array = (array * np.float32(IMAGENET_STD) + np.float32(IMAGENET_MEAN)) * 255
    return np.clip(np.rint(array), 0, 255).astype(np.uint8)
