"""The line of a run in the terminal after each epoch: its figures, and a warning once it has collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = ("loss", "iou", "F1")  # log.jsonl contains all figures
COLLAPSED = 10  # epochs of collapsed predictions after which the run prints a warning
COLLAPSE_ADVICE = (
    f"warning: for {COLLAPSED} epochs the network has predicted nothing, or everything, on every validation image. "
    "Check the targets in validation.png (are they empty, or do they vanish at --img_size?). A lower --base_lr, more "
    "images for phase 1, or --init_from with a run that worked usually help"
)


def epoch_line(watch: str, entry: Mapping[str, Any], epochs: int, best: Mapping[str, float] | None) -> str:
    """An entry of log.jsonl in one line; `watch` is the figure that selects the best epoch."""
    parts = [
        f"{part} " + " ".join(f"{name} {short(value)}" for name, value in entry[part].items() if name in SHOWN)
        for part in ("train", "val")
    ]
    chosen = f"best {watch} {short(best[watch])} (epoch {best['epoch']})" if best else "no best yet"
    return f"epoch {entry['epoch']:3}/{epochs} | {' | '.join(parts)} | {chosen} | {entry['seconds']:.0f} s"


def has_collapsed(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the predictions have been collapsed for exactly COLLAPSED epochs: true once per collapse."""
    trivial = [entry["val"].get("predicted") in (0, 1) for entry in entries[-COLLAPSED - 1 :]]
    return len(trivial) >= COLLAPSED and all(trivial[-COLLAPSED:]) and trivial != [True] * (COLLAPSED + 1)


def short(value: float) -> str:
    return f"{value:.4g}"
