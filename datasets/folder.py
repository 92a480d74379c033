"""The images/masks/list folder as a torch data set, and the loader that feeds a run from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.checks import THREADS
from datasets.decode import image_size, read_mask, read_pixels, to_rgb
from datasets.kept import Kept
from datasets.pairing import Case
from datasets.resizing import Shift, mask_shift, resize_mask
from datasets.transforms import Transform

_AT_ONCE = 64  # cases that are decoded before their sizes are compared with the budget


class SegmentationFolder(Dataset):
    """Cases of one list, as {"image": (3, S, S), "mask": (1, S, S), "name": str}; no "mask" for cases without one.

    Indexed by the number of a case, or by (number, seed), where the seed determines the augmentation. A sample depends
    on these two values only, not on the number of workers or on earlier samples.

    Args:
        cases: from `datasets.pairing.find_cases`.
        transform: converts an image and its mask to tensors.
        fit_masks: how to resize masks whose size differs from their image's, see `datasets.resizing.resize_mask`; None
            leaves them unchanged.
        mask_threshold: see `datasets.decode.read_mask`.
        white_level: see `datasets.decode.read_image`.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        transform: Transform,
        fit_masks: str | None = None,
        mask_threshold: float | None = None,
        white_level: int | None = None,
    ) -> None:
        self.cases = list(cases)
        self.transform = transform
        self.fit_masks = fit_masks
        self.mask_threshold = mask_threshold
        self.white_level = white_level
        self._decoded: list[tuple[np.ndarray, np.ndarray | None]] = []
        self._without_target: int | None = None

    def keep_decoded(self, budget: int, kept: Kept | None = None) -> int:
        """Decodes the first cases and keeps them in memory, up to `budget` bytes; returns the number of bytes used.

        For data sets that are read many times. Forked workers (Linux) share this memory; elsewhere each worker has its
        own copy. Cases that `kept` holds are not decoded again.
        """
        used = 0
        if kept is not None and all(case in kept.seen for case in self.cases):
            self._without_target = sum(kept.seen[case].empty is True for case in self.cases)

        if budget <= 0:
            return 0

        def decode(case: Case) -> tuple[np.ndarray, np.ndarray | None]:
            return self._decode(case, kept.take(case) if kept is not None else None)

        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, len(self.cases), _AT_ONCE):
                for decoded in pool.map(decode, self.cases[first : first + _AT_ONCE]):
                    size = sum(array.nbytes for array in decoded if array is not None)
                    if used + size > budget:
                        return used
                    self._decoded.append(decoded)
                    used += size
        return used

    def without_target(self) -> int:
        """The number of cases whose mask is empty, after resizing."""
        resizing = self.transform.mask_interpolation if self.transform.size else None
        if self._without_target is not None and "nearest" not in (resizing, self.fit_masks):  # targets do not vanish
            return self._without_target

        def is_empty(index: int) -> bool:
            if index < len(self._decoded):
                mask = self._decoded[index][1]
            elif self.fit_masks:
                mask = self._decode(self.cases[index])[1]
            else:
                mask = read_mask(self.cases[index].masks, self.mask_threshold)
            return not (resize_mask(mask, self.transform.size, resizing) if resizing == "nearest" else mask).any()

        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(is_empty, range(len(self.cases))))

    def picture(self, image: Tensor) -> np.ndarray:
        """An image of a sample, (3, H, W), as a picture (H, W, 3) RGB uint8."""
        return self.transform.picture(image)

    def mask_shift(self) -> Shift:
        """The mean offset of the resized masks against their images, which a network trained on them learns.

        Zero if augmentation follows resizing, because it rotates the offset in all directions.
        """
        transform = self.transform
        if transform.size is None or transform.mask_interpolation != "nearest":
            return 0.0, 0.0
        if transform.augment_order == "after_resize":
            return 0.0, 0.0
        sizes = [image.shape[:2] for image, _ in self._decoded]
        sizes += [image_size(case.image) for case in self.cases[len(sizes) :]]
        shifts = [mask_shift(size, transform.size, "nearest") for size in sizes]
        down, right = np.mean(shifts, axis=0).tolist()
        return down, right

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, draw: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = draw if isinstance(draw, tuple) else (draw, None)
        case = self.cases[index]
        image, mask = self._decoded[index] if index < len(self._decoded) else self._decode(case)
        image_tensor, mask_tensor = self.transform(image, mask, seed)
        sample = {"image": image_tensor, "name": case.name}
        return sample if mask_tensor is None else {**sample, "mask": mask_tensor}

    def _decode(
        self, case: Case, kept: tuple[np.ndarray, np.ndarray | None] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and mask; from `Kept.take`, or from the files."""
        pixels, mask = kept or (read_pixels(case.image), None)
        image = to_rgb(pixels, self.white_level)
        if not case.masks:
            return image, None
        if mask is None:
            mask = read_mask(case.masks, self.mask_threshold)
        return image, resize_mask(mask, image.shape[:2], self.fit_masks) if self.fit_masks else mask


class EpochBatches(Sampler):
    """The batches of an epoch, or one process's share of each, as lists of (case, augmentation seed).

    An epoch contains every case once. Order and seeds depend only on (seed, epoch), not on the number of processes or
    on the step from which an interrupted epoch is resumed.

    Args:
        count: number of cases.
        batch_size: batch size over all processes; the last batch of an epoch may be smaller.
        seed: random seed of order and augmentation.
        share: (number of this process, number of processes).
    """

    def __init__(self, count: int, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.processes = share
        self.start(0)

    def start(self, epoch: int, step: int = 0) -> None:
        """Sets the epoch to draw, and the number of its batches that were drawn before an interruption."""
        self.epoch = epoch
        self.step = step

    def size(self, step: int) -> int:
        """The number of cases in the batch of that step, over all processes."""
        return max(min(self.batch_size, self.count - step * self.batch_size), self.processes)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order, seeds = rng.permutation(self.count), rng.integers(2**31, size=self.count)
        draws = list(zip(order.tolist(), seeds.tolist(), strict=True))
        # Each process needs a case: a last batch with fewer cases than processes is filled with the first of the epoch.
        missing = self.processes - (self.count - 1) % self.batch_size - 1
        draws += itertools.islice(itertools.cycle(draws), max(0, missing))
        for step in range(self.step, len(self)):
            first = step * self.batch_size
            yield draws[first : first + self.size(step)][self.rank :: self.processes]


def make_loader(
    dataset: SegmentationFolder,
    batch_size: int,
    workers: int,
    shuffle_seed: int | None = None,
    share: tuple[int, int] = (0, 1),
    pin_memory: bool = False,
) -> DataLoader:
    """A loader over all cases (the last batch may be smaller), or over this process's share of them.

    With a seed, cases are shuffled and augmented by `EpochBatches`, and batch_size counts the cases of all processes.
    Without one, they are in order; this process gets every share[1]-th case from number share[0], and batch_size is
    per process. `pin_memory` allows asynchronous copies to a CUDA device.
    """
    rank, processes = share
    if shuffle_seed is None:
        drawn = {"sampler": range(rank, len(dataset), processes), "batch_size": batch_size}
    else:
        drawn = {"batch_sampler": EpochBatches(len(dataset), batch_size, shuffle_seed, share)}
    return DataLoader(
        dataset,
        **drawn,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        # A separate generator, because each pass over a loader draws a number, and a resumed run makes one pass more.
        generator=torch.Generator().manual_seed(0),
    )


def end_workers(loader: DataLoader) -> None:
    """Ends the workers of a loader now; the loader may be used again.

    They also end when the loader is deleted. But if an exception still refers to it, this happens in the garbage
    collector, which then waits five seconds for each worker. torch has no public function for this.
    """
    iterator, loader._iterator = loader._iterator, None
    if loader.num_workers and iterator is not None:
        iterator._shutdown_workers()
