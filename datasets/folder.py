"""The images/masks/list folder as a torch data set, and the loader that feeds a run from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.decode import read_image, read_mask
from datasets.pairing import Case
from datasets.transforms import Transform


class SegmentationFolder(Dataset):
    """Cases of one list, as {"image": (3, S, S), "mask": (1, S, S), "name": str}; no "mask" for cases without one.

    Indexed by a case's number, or by (number, seed) where the seed fixes the case's augmentation: a sample is then a
    function of the two alone, whatever the number of workers and whatever was drawn before.

    Args:
        cases: from `datasets.pairing.find_cases`.
        transform: what brings an image and its mask to tensors.
        fit_masks: resize a mask to its image (nearest) where their sizes differ.
        mask_threshold: see `datasets.decode.read_mask`.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        transform: Transform,
        fit_masks: bool = False,
        mask_threshold: float | None = None,
    ) -> None:
        self.cases = list(cases)
        self.transform = transform
        self.fit_masks = fit_masks
        self.mask_threshold = mask_threshold

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, draw: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = draw if isinstance(draw, tuple) else (draw, None)
        case = self.cases[index]
        image = read_image(case.image)
        mask = self._read_mask(case, image.shape[:2]) if case.masks else None
        image_tensor, mask_tensor = self.transform(image, mask, seed)
        sample = {"image": image_tensor, "name": case.name}
        return sample if mask_tensor is None else {**sample, "mask": mask_tensor}

    def _read_mask(self, case: Case, shape: tuple[int, int]) -> np.ndarray:
        mask = read_mask(case.masks, self.mask_threshold)
        if self.fit_masks and mask.shape != shape:
            mask = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)
        return mask


class EpochSampler(Sampler):
    """Draws every case once an epoch, in an order and with augmentation seeds that depend on (seed, epoch) alone."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.start(0)

    def start(self, epoch: int, drawn: int = 0) -> None:
        """Which epoch to draw, and how many of its cases were drawn before the run was interrupted."""
        self.epoch = epoch
        self.drawn = drawn

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order, seeds = rng.permutation(self.count), rng.integers(2**31, size=self.count)
        return iter(list(zip(order.tolist(), seeds.tolist(), strict=True))[self.drawn :])


def make_loader(
    dataset: SegmentationFolder, batch_size: int, workers: int, shuffle_seed: int | None = None
) -> DataLoader:
    """A loader over all cases (the last batch may be smaller): shuffled and augmented by the seed, else in order."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=None if shuffle_seed is None else EpochSampler(len(dataset), shuffle_seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # A generator of its own: each pass over a loader draws a number, and a run that was interrupted makes one more.
        generator=torch.Generator().manual_seed(0),
    )


def end_workers(loader: DataLoader) -> None:
    """Ends the loader's processes now; it may be used again.

    They end by themselves when the loader is forgotten, but when an exception still refers to it, that is whenever the
    garbage collector comes by, which then waits five seconds for each of them. torch has no public name for this.
    """
    iterator, loader._iterator = loader._iterator, None
    if loader.num_workers and iterator is not None:
        iterator._shutdown_workers()
