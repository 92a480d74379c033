"""From network inputs to probabilities at the images' size: one way for prediction, the page and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datasets.resizing import Shift, restore
from utils.common.progress import Progress
from utils.networks.tiles import Strip, strips

# Images (B, 3, H, W) float32, normalised, to logits (B, 1, H, W) float32, both on one device.
Network = Callable[[Tensor], Tensor]

_EIGHT = [(turns, flip) for flip in (False, True) for turns in range(4)]


@torch.inference_mode()
def probabilities(
    network: Network, images: Tensor, sizes: Sequence[tuple[int, int]], shift: Shift | None, tta: bool
) -> list[Tensor]:
    """The probability of each pixel to be target, (height, width) float32, of each image at its size.

    The logits of a view are resized (`datasets.resizing.restore`) and converted to probabilities, which are averaged
    over the views. Averaging logits would be worse: the Dice loss makes them large, so that one wrong view could
    outweigh seven correct ones. All pixels of an image are NaN if the network's output for one of its views is not
    finite.

    Args:
        images: (B, 3, h, w), on the network's device.
        sizes: (height, width) of each.
        shift: see `datasets.resizing.restore`.
        tta: average the eight rotations and flips of the square.
    """
    views = _EIGHT if tta else _EIGHT[:1]
    totals = [torch.zeros(*size, device=images.device) for size in sizes]
    for turns, flip in views:
        logits = network(torch.rot90(images.flip(3) if flip else images, turns, (2, 3)))
        finite = logits.isfinite().flatten(1).all(1).tolist()
        for total, of_image, is_finite, (height, width) in zip(totals, logits, finite, sizes, strict=True):
            if not is_finite:
                total.fill_(torch.nan)
                continue
            # The network has learned its shift on upright images: it is undone before the view is turned back.
            seen = restore(of_image[None], (width, height) if turns % 2 else (height, width), shift)
            seen = torch.rot90(torch.sigmoid(seen[0, 0]), -turns, (0, 1))
            total += seen.flip(1) if flip else seen
    return [total / len(views) for total in totals]


def in_tiles(
    size: tuple[int, int],
    tile: int,
    overlap: int,
    at_once: int,
    predict: Callable[[list[tuple[Strip, Strip]]], Sequence[Tensor]],
    progress: bool = False,
) -> Tensor:
    """The probabilities of a large image, (height, width) float32 on the CPU: those of its tiles, joined by weights.

    Args:
        size: (height, width) of the image.
        tile, overlap: see `utils.networks.tiles.strips`.
        at_once: tiles that are predicted together.
        predict: from the places of some tiles (rows and columns) to their probabilities.
        progress: show a progress bar.
    """
    rows, columns = (strips(side, tile, overlap) for side in size)
    tiles = [(row, column) for row in rows for column in columns]
    result = torch.zeros(size)
    with Progress(total=len(tiles), desc="tiles", unit="tile", leave=False, disable=not progress) as bar:
        for first in range(0, len(tiles), at_once):
            batch = tiles[first : first + at_once]
            for (row, column), found in zip(batch, predict(batch), strict=True):
                inside = found[: len(row.weights), : len(column.weights)].cpu()
                weights = torch.from_numpy(row.weights)[:, None] * torch.from_numpy(column.weights)
                result[row.inside, column.inside] += weights * inside
            bar.update(len(batch))
    return result
