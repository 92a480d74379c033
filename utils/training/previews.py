"""Previews of some validation images after each epoch: a picture, and distributions for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.folder import SegmentationFolder
from utils.common.pictures import caption, grid
from utils.common.runtime import Batch, to_device

DRAWN = 4  # images in a preview
SAMPLED = 16  # images whose distributions are shown


@torch.inference_mode()
def preview(
    draw: Callable[[Batch], Sequence[Sequence[Tensor]]],
    loader: DataLoader,
    device: torch.device,
    columns: Sequence[str] = (),
) -> np.ndarray:
    """A picture (H, W, 3) uint8 with a row of tiles for each of some images, drawn by `draw` with batch size 1.

    The names of the columns, if given, are printed above. A tile is a normalised image (3, H, W), which the data set
    turns into a picture, or a map (1, H, W) in 0..1.
    """
    batches = (to_device(loader.collate_fn([loader.dataset[i]]), device) for i in _spread(loader, DRAWN))
    picture = grid([[_picture(tile, loader.dataset) for tile in row] for batch in batches for row in draw(batch)])
    return np.vstack([caption(" | ".join(columns), picture.shape[1]), picture]) if columns else picture


def _picture(tile: Tensor, dataset: SegmentationFolder) -> np.ndarray:
    return dataset.picture(tile) if len(tile) == 3 else tile[0].float().cpu().numpy()


@torch.inference_mode()
def distributions(
    of: Callable[[Batch], dict[str, Tensor]], loader: DataLoader, device: torch.device
) -> dict[str, Tensor]:
    """The results of `of`, each (1, K), for batches of one image, stacked: (SAMPLED or fewer, K), by name.

    "NAME_spread_over_images", (K,), is the standard deviation of each of the K over the images.
    """
    batches = (to_device(loader.collate_fn([loader.dataset[i]]), device) for i in _spread(loader, SAMPLED))
    samples = [of(batch) for batch in batches]
    values = {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}
    return values | {f"{name}_spread_over_images": value.std(0, correction=0) for name, value in values.items()}


def _spread(loader: DataLoader, count: int) -> list[int]:
    """The numbers of up to `count` images, evenly spread over the list, its first and last among them."""
    return np.unique(np.linspace(0, len(loader.dataset) - 1, count).astype(int)).tolist()
