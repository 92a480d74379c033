"""Groups of an experiment's images: small and large targets, and kinds, which names begin with ("benign (1)")."""

from __future__ import annotations

import re
from collections.abc import Set

import numpy as np

from utils.common.tables import markdown
from utils.reproduction.experiment_summary import Summary, of_images
from utils.reproduction.image_statistics import Figures, mean_of_runs, over_images
from utils.reproduction.per_image_files import SHARE
from utils.reproduction.result_lines import EPOCH_RULES
from utils.reproduction.table_cells import NONE, count, interval, shown

SIZES = ("small", "medium", "large")
KINDS = range(2, 7)  # of fewer or more first words, a name does not tell the kind
LEAST = 10  # images of a group
RULE = EPOCH_RULES[0]


def target_shares(summary: Summary, on: str) -> dict[str, float]:
    """The targets' share of the pixels of each image of a list, without the images that have none."""
    return {
        name: share
        for of in summary.files.values()
        for images in of_images(of, on, "last", SHARE).values()
        for name, share in images.items()
        if share > 0
    }


def by_target_size(shares: dict[str, float], count: int) -> list[set[str]]:
    """The images from the smallest target to the largest, in `count` groups of equally many."""
    order = sorted(shares, key=lambda name: (shares[name], name))
    return [set(part) for part in np.array_split(np.array(order, dtype=object), count)]


def by_kind(names: Set[str]) -> dict[str, set[str]]:
    """The images by the word that their names begin with; empty unless each is of one of a few kinds."""
    words = {name: found.group() for name in names if (found := re.match(r"[^\W\d_]+", name))}
    kinds = {word: {name for name in words if words[name] == word} for word in sorted(set(words.values()))}
    told = len(words) == len(names) and len(kinds) in KINDS and all(len(of) >= LEAST for of in kinds.values())
    return kinds if told else {}


def only(values: Figures, names: Set[str]) -> Figures:
    """The figures of these images; a run without any of them is left out."""
    found = {run: {name: value for name, value in of.items() if name in names} for run, of in values.items()}
    return {run: of for run, of in found.items() if of}


def group_table(summary: Summary, on: str) -> str:
    """The IoU of each group at the best epoch, a row for each arm with runs; "" with too few images."""
    shares = target_shares(summary, on)
    if len(shares) < len(SIZES) * LEAST:
        return ""
    groups = dict(zip(SIZES, by_target_size(shares, len(SIZES)), strict=True)) | by_kind(shares.keys())
    rows = []
    for arm in summary.arms_with_runs:
        of_arm = of_images(summary.files[arm], on, RULE, "iou")
        parts = {name: part for name, of in groups.items() if (part := only(of_arm, of))}
        ends = over_images(parts)
        cells = {name: f"{shown(mean_of_runs(of), 'iou')} {interval(ends[name], 'iou')}" for name, of in parts.items()}
        n = count(summary.cells[on, "iou", arm, RULE].spread)
        rows.append([arm, n, *(cells.get(name, NONE) for name in groups)])
    headings = ["arm", "n", *(f"{name} ({len(of)})" for name, of in groups.items())]
    ranges = [sorted(100 * shares[name] for name in groups[size]) for size in SIZES]
    sizes = ", ".join(f"{size} {of[0]:.1f} to {of[-1]:.1f} %" for size, of in zip(SIZES, ranges, strict=True))
    words = f"IoU at the best epoch, with 95 % (images). Targets, by their share of the image: {sizes}."
    return f"{words}\n\n{markdown(headings, rows)}"
