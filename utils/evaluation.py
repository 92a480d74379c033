"""Figures of a trained network on a list of images: for each image, for the paper's table, for the eye."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.transforms import denormalize
from utils.distributed import gather, is_writer, world_size
from utils.files import replacing
from utils.metrics import COUNTS, PAPER_FIGURES, confusion, figures, pooled_iou
from utils.pictures import errors, grid
from utils.precision import Precision
from utils.runtime import to_device

EXAMPLES = 6  # images that are drawn, from the worst to the best


@dataclass(frozen=True)
class Results:
    """Counts and figures of each image, on the CPU, in the order of the list."""

    names: list[str]
    counts: dict[str, Tensor]  # TP, FP, FN, TN
    figures: dict[str, Tensor]  # `utils.metrics.PAPER_FIGURES`

    def summary(self) -> dict[str, Any]:
        """The means over the images, the IoU over the data set, and how many images there were."""
        return {
            "images": len(self.names),
            "images_without_target": int((self.counts["TP"] + self.counts["FN"] == 0).sum()),
            "mean_over_images": {name: values.mean().item() for name, values in self.figures.items()},
            "pooled_iou": pooled_iou(self.counts),
        }

    def ranked(self) -> list[int]:
        """The images' numbers, from the lowest IoU to the highest."""
        return torch.argsort(self.figures["iou"], stable=True).tolist()


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader, device: torch.device, precision: Precision) -> Results:
    """Runs the network over the loader; the counts stay on the device until the end (collective).

    Several processes have a loader of their share each; all get the results of the whole list.
    """
    model.eval()
    total = len(loader.dataset)
    parts: list[dict[str, Tensor]] = []
    with tqdm(total=total, desc="evaluating", unit="img", leave=False, disable=not is_writer()) as bar:
        for batch in loader:
            batch = to_device(batch, device)
            with precision.autocast():
                logits = model(batch["image"])
            parts.append(confusion(logits, batch["mask"]))
            bar.update(min(len(batch["name"]) * world_size(), total - bar.n))
    counts = {name: torch.empty(total, dtype=torch.int64) for name in COUNTS}
    for process, shares in enumerate(gather([{name: part[name].cpu() for name in COUNTS} for part in parts])):
        for name in COUNTS:
            counts[name][process :: world_size()] = torch.cat([counts[name][:0], *(share[name] for share in shares)])
    return Results([case.name for case in loader.dataset.cases], counts, figures(counts))


def table(summary: dict[str, Any]) -> str:
    """The summary as the terminal shows it, every figure with its name and the way it is averaged, in percent."""
    means = summary["mean_over_images"]
    shown = {"iou": "IoU", "dice": "Dice"}
    lines = [f"the paper's figures, of each image, then averaged over {summary['images']} images (%):"]
    lines += [f"  {shown.get(name, name):<5} {100 * means[name]:6.2f}" for name in PAPER_FIGURES]
    lines += [
        "over the data set, the pixels of all images together (%):",
        f"  IoU   {100 * summary['pooled_iou']:6.2f}",
    ]
    if empty := summary["images_without_target"]:
        lines.append(
            f"{empty} images have no target: their SE, PC and F1 are 0; their IoU is 1 if nothing is predicted, else 0"
        )
    return "\n".join(lines)


def write_results(results: Results, summary: dict[str, Any], folder: Path) -> None:
    """`per_image.csv`: a row for each image, from the lowest IoU to the highest; `summary.json`."""
    columns = {**results.figures, **results.counts}
    with replacing(folder / "per_image.csv") as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *columns])
        for i in results.ranked():
            writer.writerow([results.names[i], *(f"{values[i].item():.10g}" for values in columns.values())])
    with replacing(folder / "summary.json") as beside:
        beside.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


@torch.inference_mode()
def predict_case(
    model: nn.Module, loader: DataLoader, index: int, device: torch.device, normalization: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image of the loader's data set: the picture (H, W, 3) RGB uint8, target and prediction (H, W) bool."""
    batch = to_device(loader.collate_fn([loader.dataset[index]]), device)
    prediction = model(batch["image"])[0, 0] > 0
    image = denormalize(batch["image"][0], normalization)
    return image, (batch["mask"][0, 0] > 0.5).cpu().numpy(), prediction.cpu().numpy()


def draw_examples(
    model: nn.Module, loader: DataLoader, results: Results, device: torch.device, normalization: str
) -> np.ndarray:
    """Image | target | prediction | errors, of images from the worst to the best; a picture (H, W, 3) uint8."""
    ranked = results.ranked()
    chosen: Sequence[int] = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, EXAMPLES).astype(int))]
    rows, captions = [], []
    for i in chosen:
        image, target, prediction = predict_case(model, loader, i, device, normalization)
        rows.append([image, target.astype(float), prediction.astype(float), errors(image, target, prediction)])
        captions.append(f"{results.names[i]}: IoU {100 * results.figures['iou'][i].item():.1f}")
    return grid(rows, captions)
