"""From decoded arrays to network tensors, the same way in training, evaluation and prediction.

image (H, W, 3) RGB, 0..255  ->  resize (bilinear)  ->  training only: rotate, flip  ->  normalise  ->  (3, S, S)
mask  (H, W) in {0, 1}       ->  resize (nearest)   ->  training only: rotate, flip                 ->  (1, S, S)
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks the network for a newer version
import albumentations as A
import cv2

NORMALIZATIONS = ("imagenet", "authors")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The released code divides the normalised image by 255 once more; its weights have seen no other input.
_DIVISOR = {"imagenet": 1.0, "authors": 255.0}


class Transform:
    """Resize, optionally augment, normalise.

    The augmentation is the paper's: with p = 0.5 a rotation by a random multiple of 90 degrees, and with p = 0.5 a flip
    along one axis or both.

    Args:
        size: side S of the square the image is resized to, pixels; None leaves it as it is.
        normalization: "imagenet" (mean and standard deviation of ImageNet) or "authors" (the same, then divided by 255
            a second time as the released code does).
        augment: whether to rotate and flip.

    Raises:
        ValueError: for an unknown normalization.
    """

    def __init__(self, size: int | None, normalization: str = "imagenet", augment: bool = False) -> None:
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization {normalization!r} is not one of {', '.join(NORMALIZATIONS)}")
        self.divisor = _DIVISOR[normalization]
        steps = []
        if size is not None:
            steps.append(A.Resize(size, size, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST))
        if augment:
            # `Flip` of older albumentations, which 2.x no longer has: one of the three flips, equally likely.
            both = A.Sequential([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], p=1)
            steps += [A.RandomRotate90(p=0.5), A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1), both], p=0.5)]
        self.geometry = A.Compose(steps)
        self.normalize = A.Normalize(IMAGENET_MEAN, IMAGENET_STD, max_pixel_value=255.0)

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None = None, seed: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Transforms one image and its mask; the same seed gives the same rotation and flip.

        Args:
            image: (H, W, 3) RGB, uint8, or float32 in 0..255.
            mask: (H, W) in {0, 1}, or None.
            seed: of the augmentation of this call.

        Returns:
            image (3, S, S) float32 and mask (1, S, S) float32 in {0, 1}, or None; H and W in place of S without size.
        """
        if seed is not None:
            # One seed for the whole pipeline would make its steps decide alike: hardly any image rotated and flipped.
            steps = self.geometry.transforms
            for step, step_seed in zip(steps, np.random.SeedSequence(seed).generate_state(len(steps)), strict=True):
                step.set_random_seed(int(step_seed))
        arrays = {"image": image} if mask is None else {"image": image, "mask": mask}
        arrays = self.geometry(**arrays)
        normalized = self.normalize(image=arrays["image"])["image"] / self.divisor
        image_tensor = torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1), dtype=np.float32))
        if mask is None:
            return image_tensor, None
        return image_tensor, torch.from_numpy(arrays["mask"].astype(np.float32))[None]


def denormalize(image: Tensor, normalization: str) -> np.ndarray:
    """A network tensor (3, H, W) back to a picture (H, W, 3) RGB uint8."""
    array = image.detach().float().cpu().numpy().transpose(1, 2, 0) * _DIVISOR[normalization]
    array = (array * np.float32(IMAGENET_STD) + np.float32(IMAGENET_MEAN)) * 255
    return np.clip(np.rint(array), 0, 255).astype(np.uint8)
