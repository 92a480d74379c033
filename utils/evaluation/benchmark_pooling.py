"""The figures as in the field's breast ultrasound benchmark: pooled over batches, then averaged.

Eight consecutive images of the list form a batch. The pixels of a batch are added up and give one IoU and one F1; the
means over the batches are weighted by batch size. The result depends on the order of the list. This is the definition
of FengheTan9/Medical-Image-Segmentation-Benchmarks, with 8 images in its command and 4 by default.
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
    import torch  # here, so that the names of figures are available without it

    pooled = figures({name: torch.stack([part.sum() for part in of]) for name, of in parts.items()})
    sizes = torch.tensor([len(part) for part in next(iter(parts.values()))])
    return {name: pooled[name] for name in NAMES}, sizes


def benchmark(counts: dict[str, Tensor]) -> dict[str, float]:
    """The two figures of a list, and the batch size."""
    pooled, sizes = of_batches(counts)
    means = {name: ((values * sizes).sum() / sizes.sum()).item() for name, values in pooled.items()}
    return {**means, "batch": BATCH}
