"""The runs of an experiment that can be compared, according to their protocol cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from utils.evaluation.protocol_card import LISTS, unlike
from utils.reproduction.result_lines import EPOCH_RULES, Line
from utils.reproduction.run_statistics import Run

# Where these differ, two figures are not of the same pixels, and are not subtracted.
SAME_PIXELS = ("evaluated_list", "size", "threshold", "pooling", "empty_images")

Runs = Mapping[str, Mapping[Run, Line]]  # the lines of each arm, by division and seed
_Card = Mapping[str, Any]


def comparable(first: Mapping[Run, Line], other: Mapping[Run, Line], on: str) -> list[Run]:
    """The runs that both arms have, evaluated on the same pixels of the list `on`."""
    both = [
        run for run in sorted(first.keys() & other.keys()) if all(on in arm[run]["figures"] for arm in (first, other))
    ]
    return [
        run for run in both if not unlike([("", _part(arm[run], on, "last", SAME_PIXELS)) for arm in (first, other)])[0]
    ]


def differing_protocols(runs: Runs, on: str) -> list[str]:
    """A sentence about each field in which the cards of the list `on` differ; lists are compared within a division."""
    lines = [(arm, run[0], line) for arm, of in runs.items() for run, line in of.items() if on in line["figures"]]
    found: list[str] = []
    for rule in EPOCH_RULES:
        fields = [name for name in dict.fromkeys(_fields(lines, on, rule)) if name not in LISTS]
        found += unlike(_grouped([(arm, _part(line, on, rule, fields)) for arm, _, line in lines]))[0]
        for division in sorted({division for _, division, _ in lines}):
            cards = [(arm, _part(line, on, rule, LISTS)) for arm, of, line in lines if of == division]
            found += [f"division {division}, {sentence}" for sentence in unlike(_grouped(cards))[0]]
    return [f"the protocols differ: {sentence}" for sentence in dict.fromkeys(found)]


def _fields(lines: Sequence[tuple[str, int, Line]], on: str, rule: str) -> list[str]:
    return [name for _, _, line in lines for name in line["protocol"][on][rule]]


def _part(line: Line, on: str, rule: str, fields: Sequence[str]) -> _Card:
    card = line["protocol"][on][rule]
    return {name: card.get(name) for name in fields}


def _grouped(cards: Sequence[tuple[str, _Card]]) -> list[tuple[str, _Card]]:
    """Each card once, named by the arms that have it."""
    groups: dict[str, tuple[dict[str, None], _Card]] = {}
    for arm, card in cards:
        groups.setdefault(json.dumps(card, sort_keys=True), ({}, card))[0][arm] = None
    return [(" and ".join(arms), card) for arms, card in groups.values()]
