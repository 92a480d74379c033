"""The protocol card of an evaluation: all that must be alike before its figures stand beside another one's.

A field is None where it is not known: of the authors' weights, or of a checkpoint that has not recorded it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from datasets.known_divisions import facts
from utils.evaluation.benchmark_pooling import BATCH

THRESHOLD = 0.5
POOLING = (
    "mean_over_images, nIoU, Dice, HD95: of each image, then averaged; pooled_iou, mIoU, Pd, Fa: over the data set; "
    f"benchmark: over consecutive batches of {BATCH}, weighted by their size"
)
EMPTY_IMAGES = "an empty mask is empty: IoU and Dice are 1 if nothing is predicted, else 0; SE, PC and F1 are 0"
LISTS = ("evaluated_list", "training_list", "epoch_list")


def protocol_card(
    args: argparse.Namespace, evaluated: Iterable[str], checkpoint: Mapping[str, Any] | None, list_hash: str | None
) -> dict[str, Any]:
    """The card.

    Args:
        args: the settings of evaluation.py.
        evaluated: the names of the cases.
        checkpoint: of ours; None for the authors' files.
        list_hash: the SHA-256 of the file of the evaluated list.
    """
    came_from = (checkpoint or {}).get("provenance", {})
    lists = came_from.get("divisions", {})
    chose = came_from.get("lists", {}).get("val_file_dir")
    return {
        "evaluated_list": facts(evaluated),
        "training_list": lists.get("train_file_dir"),
        "epoch_list": lists.get("val_file_dir"),
        "epoch_rule": None if checkpoint is None else _epoch_rule(checkpoint, chose, list_hash),
        "size": _size(args),
        "threshold": THRESHOLD,
        "pooling": POOLING,
        "empty_images": EMPTY_IMAGES,
        "normalization": args.normalization,
    }


def _size(args: argparse.Namespace) -> str:
    if args.resize == "keep":
        return "each image's own size"
    sizes = f"{args.img_size}x{args.img_size} pixels"
    if args.resize == "back":
        return f"each image's own size, predicted at {sizes}"
    return f"{sizes}, masks by {args.mask_interpolation}"


def _epoch_rule(checkpoint: Mapping[str, Any], chose: str | None, list_hash: str | None) -> str | None:
    epoch, best = checkpoint.get("epoch"), checkpoint.get("best")
    if epoch is None:
        return None
    if "optimizer" in checkpoint:  # last.pth
        return "last epoch" if epoch >= checkpoint["settings"].get("epochs", 0) else f"epoch {epoch}, training not done"
    if not best or best.get("epoch") != epoch:
        return f"epoch {epoch}"
    figure = next(name for name in best if name != "epoch")
    where = "a list not known" if None in (chose, list_hash) else "this list" if chose == list_hash else "another list"
    return f"best {figure}, chosen on {where}"


def words(card: Mapping[str, Any]) -> list[str]:
    """The card as the terminal shows it, without what is the same for every evaluation."""
    shown = (*LISTS, "epoch_rule", "size", "normalization")
    return ["protocol:"] + [f"  {name.replace('_', ' '):<15} {_shown(card.get(name))}" for name in shown]


def unlike(cards: Sequence[tuple[str, Mapping[str, Any] | None]]) -> tuple[list[str], list[str]]:
    """How named cards differ, and what is not known of them; a sentence each."""
    known = [(name, card) for name, card in cards if isinstance(card, Mapping)]
    missing = [name for name, card in cards if not isinstance(card, Mapping)]
    unknown = [f"{', '.join(missing)}: no protocol card, whether the protocol is the same is unknown"] * bool(missing)
    differing = []
    for field in dict.fromkeys(field for _, card in known for field in card):
        values = [(name, card.get(field)) for name, card in known]
        if without := [name for name, value in values if value is None]:
            unknown.append(f"{', '.join(without)}: {field.replace('_', ' ')} unknown")
        given = [(name, value) for name, value in values if value is not None]
        if any(_same(a, b) is False for (_, a), (_, b) in combinations(given, 2)):
            differing.append(f"{field.replace('_', ' ')}: " + ", ".join(f"{name} {_shown(v)}" for name, v in given))
    return differing, unknown


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.get("sha256") == other.get("sha256")
    return one == other


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("known") or f"{value.get('cases')} cases, {str(value.get('sha256'))[:8]}")
    return "unknown" if value is None else str(value)
