"""The line of a run in the terminal after each epoch: its figures, and a warning once it has collapsed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = ("loss", "iou", "F1")  # log.jsonl contains all figures
RECENT = 5  # epochs from which the time left is estimated
COLLAPSED = 10  # epochs of collapsed predictions after which the run prints a warning
COLLAPSE_ADVICE = (
    f"warning: for {COLLAPSED} epochs the network has predicted nothing, or everything, on every validation image. "
    "Check the targets in validation.png (are they empty, or do they vanish at --img_size?). A lower --base_lr, more "
    "images for phase 1, or --init_from with a run that worked usually help"
)


def epoch_line(
    watch: str, entry: Mapping[str, Any], epochs: int, best: Mapping[str, float] | None, left: float = 0.0
) -> str:
    """An entry of log.jsonl in one line.

    Args:
        watch: the figure that selects the best epoch.
        left: seconds to the end of the run.
    """
    parts = [
        f"{part} " + " ".join(f"{name} {short(value)}" for name, value in entry[part].items() if name in SHOWN)
        for part in ("train", "val")
    ]
    chosen = f"best {watch} {short(best[watch])} (epoch {best['epoch']})" if best else "no best yet"
    times = duration(entry["seconds"]) + (f", {duration(left)} left" if left else "")
    return f"epoch {entry['epoch']:3}/{epochs} | {' | '.join(parts)} | {chosen} | {times}"


def time_left(seconds: Sequence[float], epochs: int) -> float:
    """The seconds that so many further epochs will take, from the median duration of the last RECENT ones."""
    return epochs * statistics.median(seconds[-RECENT:])


def duration(seconds: float) -> str:
    """A duration in its two largest units: "45 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    first = next(i for i, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def has_collapsed(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the predictions have been collapsed for exactly COLLAPSED epochs: true once per collapse."""
    trivial = [entry["val"].get("predicted") in (0, 1) for entry in entries[-COLLAPSED - 1 :]]
    return len(trivial) >= COLLAPSED and all(trivial[-COLLAPSED:]) and trivial != [True] * (COLLAPSED + 1)


def short(value: float) -> str:
    return f"{value:.4g}"
