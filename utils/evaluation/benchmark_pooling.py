"""The figures as the field's breast ultrasound benchmark counts them: pooled over batches, then averaged.

Each eight consecutive images of the list are a batch. The pixels of a batch are added up first and give one IoU and one
F1; their means are weighted by the batches' sizes. The order of the list matters: another order is another figure.
FengheTan9/Medical-Image-Segmentation-Benchmarks counts so, with 8 images in its command and 4 by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.evaluation.pixel_metrics import figures

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 8
NAMES = ("iou", "F1")


def of_batches(counts: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """The figures of each batch, by name, and the number of its images, from the counts of the images in list order."""
    parts = {name: values.split(BATCH) for name, values in counts.items()}
    import torch  # here: names of figures are known without it

    pooled = figures({name: torch.stack([part.sum() for part in of]) for name, of in parts.items()})
    sizes = torch.tensor([len(part) for part in next(iter(parts.values()))])
    return {name: pooled[name] for name in NAMES}, sizes


def benchmark(counts: dict[str, Tensor]) -> dict[str, float]:
    """The two figures of a list, and the images in a batch."""
    pooled, sizes = of_batches(counts)
    means = {name: ((values * sizes).sum() / sizes.sum()).item() for name, values in pooled.items()}
    return {**means, "batch": BATCH}
