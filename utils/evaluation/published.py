"""The ledger of published figures: `splits/published.json`, and the training logs that the SRS authors released.

    python -m utils.evaluation.published > docs/explanation/published.md      # the page, after a change of the data

Every number of that page is read from the data files or computed from them.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SPLITS = Path(__file__).resolve().parents[2] / "splits"


@dataclass(frozen=True)
class ReleasedLog:
    """A released training log of phase 2, by column: "train_loss", "val_iou", "val_F1", ...; figures are in 0..1.

    Epochs are counted from 0, as in the file.
    """

    columns: dict[str, list[float]]

    def __len__(self) -> int:
        return len(self.columns["epoch"])

    def at(self, epoch: int) -> dict[str, float]:
        return {name: values[epoch] for name, values in self.columns.items()}

    def best(self) -> int:
        """The epoch of the highest validation IoU, the first of several."""
        ious = self.columns["val_iou"]
        return ious.index(max(ious))


@lru_cache
def ledger() -> dict[str, Any]:
    """The content of splits/published.json."""
    return json.loads((SPLITS / "published.json").read_text(encoding="utf-8"))


def released_log(dataset: str) -> ReleasedLog | None:
    """The log that the authors released for this --Dataset (BUS or KBT2019); None for others."""
    for entry in ledger()["srs"]:
        if entry["dataset"] == dataset:
            with (SPLITS / entry["log"]).open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return ReleasedLog({name: [float(row[name]) for row in rows] for name in rows[0]})
    return None


def steps_an_epoch(images: int, batch_size: int) -> int:
    return -(-images // batch_size)


def highest_f1(iou: float) -> float:
    """The highest possible mean F1 at a mean IoU, both in percent.

    The F1 of an image is 2 IoU / (1 + IoU), a concave function: its mean is at most the function of the mean IoU.
    """
    return 200 * iou / (100 + iou)


def page() -> str:
    """docs/explanation/published.md."""
    parts = [_HEAD, *(_srs(entry) for entry in ledger()["srs"]), _OTHERS]
    for table in ledger()["benchmarks"]:
        rows = [["network", *table["columns"]], ["---"] * (1 + len(table["columns"]))]
        rows += [[name, *cells] for name, cells in table["rows"].items()]
        parts.append(f"### {table['title']}\n\nSource: {table['source']}. Counted as: {table['protocol']}.")
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts)


def _srs(entry: dict[str, Any]) -> str:
    name, log = entry["dataset"], released_log(entry["dataset"])
    best, last = log.best(), len(log) - 1
    steps = steps_an_epoch(entry["training_images"], entry["batch_size"])
    rows = [f"| published ({entry['stated']}) | {entry['iou']:.2f} | {entry['F1']:.2f} | {_bound(entry['iou'])} |"]
    for title, epoch in (("released log, best epoch", best), ("released log, last epoch", last)):
        iou, f1 = 100 * log.at(epoch)["val_iou"], 100 * log.at(epoch)["val_F1"]
        rows.append(f"| {title} ({epoch}) | {iou:.2f} | {f1:.2f} | {_bound(iou)} |")
    gaps = [
        highest_f1(100 * iou) - 100 * f1
        for iou, f1 in zip(log.columns["val_iou"], log.columns["val_F1"], strict=True)
        if iou > 0
    ]
    gap = highest_f1(entry["iou"]) - entry["F1"]
    fits = "fits" if gap >= math.floor(100 * min(gaps)) / 100 else "does not fit"
    return f"""## {name}

| {name} | IoU | F1 | highest F1 at this IoU |
|---|---|---|---|
{chr(10).join(rows)}

- The log has {len(log)} of {entry["epochs"]} epochs, counted from 0. Its learning rates are those of {steps} steps
  an epoch: {entry["training_images"]} training images in batches of {entry["batch_size"]}.
- A mean F1 is at most 2 IoU / (1 + IoU) of the mean IoU, reached where all images have the same IoU.
  The logged epochs are at least {min(gaps):.2f} points below it, the published pair {gap:.2f}: the published F1 {fits}.
- {entry["verdict"]}
- Data: `splits/published.json`, `splits/{entry["log"]}`; `evaluation.py --report` draws the log's curve
  beside a run of `--Dataset {name}`."""


def _bound(iou: float) -> str:
    return f"{highest_f1(iou):.2f}"


_HEAD = """# Published figures, and what is known of them

For everyone who compares a run with the paper or with the tables of the field. Figures are percent; Fa: millionths.
This page is written by `python -m utils.evaluation.published` from `splits/published.json` and the released logs; a
test compares them."""

_OTHERS = """## Other networks

Figures of other protocols. Put them beside yours only if your protocol card says the same
([metrics.md](../reference/metrics.md#protocol-card))."""

if __name__ == "__main__":
    print(page())
