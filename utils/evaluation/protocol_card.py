"""The protocol card of an evaluation: everything that must agree before two evaluations can be compared.

A field is None if it is unknown: for the authors' weights, or if the checkpoint has not recorded it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from datasets.known_divisions import facts
from utils.evaluation.benchmark_pooling import BATCH
from utils.settings.inference_arguments import view_words

THRESHOLD = 0.5
POOLING = (
    "mean_over_images, nIoU, Dice, HD95: of each image, then averaged; pooled_iou, mIoU, Pd, Fa: over the data set; "
    f"benchmark: over consecutive batches of {BATCH}, weighted by their size"
)
EMPTY_IMAGES = "an empty mask is empty: IoU and Dice are 1 if nothing is predicted, else 0; SE, PC and F1 are 0"
LISTS = ("evaluated_list", "training_list", "epoch_list")


def protocol_card(args: argparse.Namespace, evaluated: Iterable[str], run: Mapping[str, Any]) -> dict[str, Any]:
    """The card.

    Args:
        args: the settings of evaluation.py.
        evaluated: the names of the cases.
        run: `utils.networks.load_weights.run_facts`, or empty for the authors' files. The content of a checkpoint is
            untrusted; invalid values count as unknown.
    """
    came_from = _mapping(run.get("provenance"))
    lists = _mapping(came_from.get("divisions"))
    here, chose = facts(evaluated), _list_facts(lists.get("val_file_dir"))
    return {
        "evaluated_list": here,
        "training_list": _list_facts(lists.get("train_file_dir")),
        "epoch_list": chose,
        "epoch_rule": _epoch_rule(run, chose, here),
        "size": _size(args),
        "threshold": THRESHOLD,
        "pooling": POOLING,
        "empty_images": EMPTY_IMAGES,
        "normalization": args.normalization,
    }


def _size(args: argparse.Namespace) -> str:
    if args.resize == "keep":
        return f"each image's own size{view_words(args)}"
    sizes = f"{args.img_size}x{args.img_size} pixels"
    if args.resize == "back":
        return f"each image's own size, predicted at {sizes}{view_words(args)}"
    return f"{sizes}, masks by {args.mask_interpolation}{view_words(args)}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list_facts(found: Any) -> dict[str, Any] | None:
    """The facts of `datasets.known_divisions.facts` in a checkpoint; None for anything else."""
    kinds = {"cases": int, "sha256": str, "known": str | None}
    if not all(isinstance(_mapping(found).get(name, ...), kind) for name, kind in kinds.items()):
        return None
    return {name: found[name] for name in kinds}


def _epoch_rule(run: Mapping[str, Any], chose: Mapping[str, Any] | None, here: Mapping[str, Any]) -> str | None:
    epoch, best = run.get("epoch"), _mapping(run.get("best"))
    epochs = _mapping(run.get("settings")).get("epochs")
    if not isinstance(epoch, int):
        return None
    if run["is_last"]:
        done = isinstance(epochs, int) and epoch >= epochs
        return "last epoch" if done else f"epoch {epoch}, training not done"
    if best.get("epoch") != epoch or not (figures := [str(name) for name in best if name != "epoch"]):
        return f"epoch {epoch}"
    figure = figures[0]
    where = "a list not known" if chose is None else "this list" if _same(chose, here) else "another list"
    return f"best {figure}, chosen on {where}"


def words(card: Mapping[str, Any]) -> list[str]:
    """The card for the terminal, without the fields that are the same for every evaluation."""
    shown = (*LISTS, "epoch_rule", "size", "normalization")
    return ["protocol:"] + [f"  {name.replace('_', ' '):<15} {_shown(card.get(name))}" for name in shown]


def unlike(cards: Sequence[tuple[str, Mapping[str, Any] | None]]) -> tuple[list[str], list[str]]:
    """The differences between named cards, and their unknown fields; one sentence each."""
    known = [(name, card) for name, card in cards if isinstance(card, Mapping)]
    missing = [name for name, card in cards if not isinstance(card, Mapping)]
    unknown = [f"{', '.join(missing)}: no protocol card, so the protocol is unknown"] * bool(missing)
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
