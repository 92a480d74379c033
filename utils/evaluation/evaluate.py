"""Evaluation of a trained network on a list of images: all figures of each image, and example pictures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datasets.resizing import Shift, resize_image, restore
from utils.common.distributed import gather
from utils.common.errors import UserError
from utils.common.pictures import errors, grid
from utils.common.precision import Precision
from utils.common.processes import is_writer, world_size
from utils.common.progress import Progress
from utils.common.runtime import Batch, to_device
from utils.evaluation.mask_figures import MASK_FIGURES
from utils.evaluation.pixel_metrics import confusion, figures
from utils.evaluation.results import Results
from utils.evaluation.target_metrics import count_targets
from utils.evaluation.threshold_sweep import SCORES, above_thresholds, count_scores
from utils.networks.tiles import Strip, cut
from utils.networks.views import in_tiles, probabilities

EXAMPLES = 6  # images that are drawn, from the worst to the best


@dataclass(frozen=True)
class MaskLogits:
    """A network that is ready for inference, with the resizing of its logits to the size of the masks.

    Attributes:
        network: images (B, 3, h, w) to logits (B, 1, h, w), e.g. from `utils.networks.inference_engines.load_engine`.
        precision: its device and number format.
        shift: see `datasets.resizing.restore`; zero to compare with masks that were resized as in training.
        tta: average the probabilities of eight views, as predict.py --tta does.
        tile, overlap: predict images over `tile` pixels, which keep their size, in tiles, as predict.py --tile does.
    """

    network: nn.Module
    precision: Precision
    shift: Shift | None = (0.0, 0.0)
    tta: bool = False
    tile: int | None = None
    overlap: int = 0

    def __call__(self, batch: Batch) -> Tensor:
        """The logits of a batch on the device, (B, 1, H, W) float32, at the size of its masks.

        Averaged probabilities are given as the logits that they belong to.

        Raises:
            UserError: for an image that the network does not accept.
        """
        size = tuple(batch["mask"].shape[-2:])
        try:
            if self.tile and max(size) > self.tile:
                found = [self._in_tiles(image, size) for image in batch["image"]]
            elif self.tta:
                found = self._average(batch["image"], [size] * len(batch["image"]))
            else:
                return restore(self._logits(batch["image"]), size, self.shift)
        except ValueError as error:
            raise UserError(f"{', '.join(batch['name'])}: {error}") from error
        # The weights of tiles add up to 1, but for rounding.
        return torch.logit(torch.stack(found)[:, None].to(batch["image"].device).clamp(0, 1))

    def _logits(self, images: Tensor) -> Tensor:
        with self.precision.autocast():
            return self.network(images).float()

    def _average(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        return probabilities(self._logits, images, sizes, self.shift, self.tta)

    def _in_tiles(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        pixels = image.movedim(0, 2).cpu().numpy()

        def predict(tiles: list[tuple[Strip, Strip]]) -> list[Tensor]:
            cuts = [torch.from_numpy(cut(pixels, *place, self.tile)).movedim(2, 0) for place in tiles]
            return self._average(torch.stack(cuts).to(image.device), [cuts[0].shape[1:]] * len(tiles))

        return in_tiles(size, self.tile, self.overlap, 1, predict)


@torch.inference_mode()
def evaluate(predict: MaskLogits, loader: DataLoader) -> Results:
    """Runs the network over the loader (collective).

    Each batch is measured in a thread on the CPU while the network processes the next one. In a multi-process job each
    process has a loader of its share, and all get the results of the whole list.

    Raises:
        UserError: for an image that the network does not accept, or logits that are NaN, with the names of the images.
    """
    total = len(loader.dataset)
    scores = np.zeros(SCORES, np.int64)
    pending: list[Future] = []
    with (
        ThreadPoolExecutor(1) as pool,
        Progress(total=total, desc="evaluating", unit="img", leave=False, disable=not is_writer()) as bar,
    ):
        for batch in loader:
            batch = to_device(batch, predict.precision.device)
            logits = predict(batch)
            counts = confusion(logits, batch["mask"])
            if pending:
                pending[-1].result()  # no more than one batch waits in memory
            pending.append(pool.submit(_measure, logits, batch, counts, scores))
            bar.update(min(len(batch["name"]) * world_size(), total - bar.n))
        measured = [image for part in pending for image in part.result()]
    images: list[dict[str, Any]] = [{}] * total
    for process, (share, _) in enumerate(shares := gather((measured, scores))):
        images[process :: world_size()] = share
    columns = {name: np.stack([image[name] for image in images]) for name in images[0]}
    tensors = {name: torch.from_numpy(columns[name]) for name in columns}
    counts = {name: tensors[name] for name in ("TP", "FP", "FN", "TN")}
    return Results(
        names=[case.name for case in loader.dataset.cases],
        counts=counts,
        figures=figures(counts),
        targets={name: tensors[name] for name in ("targets", "found", "false_alarm_pixels")},
        of_masks={name: tensors[name] for name in MASK_FIGURES},
        scores=sum(of_process for _, of_process in shares),
        above=columns["above"],
    )


def _measure(logits: Tensor, batch: Batch, counts: dict[str, Tensor], scores: np.ndarray) -> list[dict[str, Any]]:
    """The measurements of each image of a batch; its scores are added to `scores`.

    Uses numpy on one core, because torch would start additional threads next to those of the network.
    """
    logits, masks = logits.cpu().numpy(), batch["mask"].cpu().numpy() > 0.5
    counts = {name: values.cpu().numpy() for name, values in counts.items()}
    measured = []
    for i, name in enumerate(batch["name"]):
        if np.isnan(logits[i]).any():
            raise UserError(f"{name}: the output of the network is NaN. With mixed precision, try --amp off")
        of_image = count_scores(logits[i], masks[i])
        np.add(scores, of_image, out=scores)
        predicted, target = logits[i, 0] > 0, masks[i, 0]
        measured.append(
            {
                **{count: values[i] for count, values in counts.items()},
                **count_targets(predicted, target),
                **{name: float(figure.of(predicted, target)) for name, figure in MASK_FIGURES.items()},
                "above": above_thresholds(of_image),
            }
        )
    return measured


@torch.inference_mode()
def predict_case(predict: MaskLogits, loader: DataLoader, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image of the loader: the picture (H, W, 3) RGB uint8, target and prediction (H, W) bool."""
    batch = to_device(loader.collate_fn([loader.dataset[index]]), predict.precision.device)
    target = batch["mask"][0, 0].cpu().numpy() > 0.5
    prediction = (predict(batch)[0, 0] > 0).cpu().numpy()
    image = loader.dataset.picture(batch["image"][0])
    if image.shape[:2] != target.shape:
        image = resize_image(image, target.shape)
    return image, target, prediction


def draw_examples(predict: MaskLogits, loader: DataLoader, results: Results) -> np.ndarray:
    """Image | target | prediction | errors, of images from the worst to the best; a picture (H, W, 3) uint8."""
    ranked = results.ranked()
    chosen: Sequence[int] = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, EXAMPLES).astype(int))]
    rows, captions = [], []
    for i in chosen:
        image, target, prediction = predict_case(predict, loader, i)
        rows.append([image, target.astype(float), prediction.astype(float), errors(image, target, prediction)])
        captions.append(f"{results.names[i]}: IoU {100 * results.figures['iou'][i].item():.1f}")
    return grid(rows, captions)
