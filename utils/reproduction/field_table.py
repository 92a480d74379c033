"""The field's table of BUSI: published networks (splits/published.json), and an experiment's arms, counted in two ways.

The published table's code pools pixels over batches of 8; a mean over single images is another figure. Where IoU and F1
are of one pool, IoU = F1 / (2 - F1). Of several pools the mean IoU is larger (the function is convex), and more so the
smaller the pools are. This excess tells how a pair of figures was counted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from scipy import stats

from utils.common.tables import markdown
from utils.evaluation.intervals import LEVEL
from utils.evaluation.published import ledger
from utils.reproduction.experiment_summary import Summary
from utils.reproduction.result_lines import Line
from utils.reproduction.table_cells import NONE, count, interval, shown, t_interval, with_deviation

BENCHMARK = "BUSI"  # the table's title in splits/published.json begins with it
EPOCHS, DIVISIONS = 300, 3  # of the published rows
COUNTED = {"batches of 8": ("benchmark_iou", "benchmark_F1"), "single images": ("iou", "F1")}


def field_table(summary: Summary) -> str:
    """The published table, that of the arms, and sentences: how they were counted, where each arm is, what differs."""
    table = _published()
    source = f"Published: {table['source']}; {table['protocol']}. {EPOCHS} epochs, {DIVISIONS} divisions; ± and the "
    source += "interval are over the divisions. Excess: IoU - F1 / (2 - F1)."
    headings = ["network", "params M", "GMACs", "IoU", "95 % (t)", "F1", "excess"]
    rows = [[name, *of[:3], _published_interval(of[2]), of[3], _points(_excess(*_means(of)))] for name, of in _rows()]
    parts = [source, markdown(headings, rows)]
    if arms := summary.arms_with_runs:
        headings = ["ours", "params M", "GMACs", "epochs", "n", "counted over"]
        headings += ["best epoch: IoU", "95 % (t)", "F1", "excess", "last epoch: IoU", "95 % (t)", "F1", "excess"]
        parts.append(markdown(headings, [row for arm in arms for row in _arm_rows(summary, arm)]))
        parts.append(summary.not_run_yet)
        parts.append("\n".join([f"- {_counting(summary, arms)}", *(f"- {_standing(summary, arm)}" for arm in arms)]))
    return "\n\n".join(part for part in parts if part)


def _published() -> dict[str, Any]:
    return next(table for table in ledger()["benchmarks"] if table["title"].startswith(BENCHMARK))


def _rows() -> Iterable[tuple[str, list[str]]]:
    """Name and cells: parameters, MACs, IoU, F1."""
    return _published()["rows"].items()


def _means(cells: list[str]) -> tuple[float, float]:
    """The published means of IoU and F1, as fractions."""
    iou, f1 = (float(cell.split(" ± ")[0]) / 100 for cell in cells[2:4])
    return iou, f1


def _published_interval(cell: str) -> str:
    """The t interval of a published "mean ± deviation"."""
    mean, deviation = (float(number) / 100 for number in cell.split(" ± "))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, DIVISIONS - 1)) * deviation / math.sqrt(DIVISIONS)
    return interval([mean - half, mean + half], "iou")


def _excess(iou: float, f1: float) -> float:
    """By how much a mean IoU is above that of a single pool with this F1."""
    return iou - f1 / (2 - f1)


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _arm_rows(summary: Summary, arm: str) -> list[list[str]]:
    """A row for each way of counting."""
    line = next(iter(summary.runs[arm].values()))
    parameters, macs = line["network"]["parameters"], line["network"]["macs"]
    size = f"{(parameters['trained'] + parameters['frozen']) / 1e6:.2f}"
    rows = []
    for counted, figures in COUNTED.items():
        row = [f"**{arm}**", size, NONE if macs is None else f"{macs / 1e9:.2f}", str(line["epochs"]["last"])]
        row += [count(summary.cells["val", "iou", arm, "best"].spread), counted]
        for rule in ("best", "last"):
            iou, f1 = (summary.cells["val", figure, arm, rule].spread for figure in figures)
            row += [with_deviation(iou, "iou"), t_interval(iou, "iou"), with_deviation(f1, "F1")]
            row.append(NONE if iou is None or f1 is None else _points(_excess(iou.mean, f1.mean)))
        rows.append(row)
    return rows


def _counting(summary: Summary, arms: list[str]) -> str:
    """Which of our ways of counting has the excess of the published rows."""
    theirs = [_excess(*_means(cells)) for _, cells in _rows()]
    ours = {}
    for counted, figures in COUNTED.items():
        spreads = [[summary.cells["val", figure, arm, "best"].spread for figure in figures] for arm in arms]
        ours[counted] = [_excess(iou.mean, f1.mean) for iou, f1 in spreads if iou and f1]
    middle = sum(theirs) / len(theirs)
    nearest = min(ours, key=lambda counted: min((abs(value - middle) for value in ours[counted]), default=math.inf))
    ranges = ", ".join(f"over {counted} {_range(values)}" for counted, values in ours.items())
    return (
        f"The published rows have an excess of {_range(theirs)} points, ours {ranges}. "
        f"So the published figures look like means over {nearest}."
    )


def _range(values: list[float]) -> str:
    ends = dict.fromkeys(map(_points, (min(values), max(values)))) if values else {NONE: None}
    return " to ".join(ends)


def _standing(summary: Summary, arm: str) -> str:
    """Where an arm's IoU is among the published means, and what of its protocol is not theirs."""
    published = {name: _means(cells)[0] for name, cells in _rows()}
    found = []
    for counted, (figure, _) in COUNTED.items():
        ours = summary.cells["val", figure, arm, "best"].spread
        if ours is None:
            continue
        below = [name for name, value in published.items() if value <= ours.mean]
        text = f"over {counted} {shown(ours.mean, 'iou')}, at or above the published mean of {_named(below, published)}"
        if ours.low is not None:
            within = [name for name, value in published.items() if ours.low <= value <= ours.high]
            text += f" (its interval contains that of {_named(within, published)})"
        found.append(text)
    divisions = len({division for division, _ in summary.runs[arm]})
    differing = [f"{divisions} of the {DIVISIONS} divisions"] * (divisions < DIVISIONS)
    differing += [sentence for line in summary.runs[arm].values() for sentence in _unlike_theirs(line)]
    unlike = f". Not alike: {'; '.join(dict.fromkeys(differing))}" if differing else ""
    return f"`{arm}`: {'; '.join(found) or 'no figure'}{unlike}."


def _named(names: Sequence[str], published: Collection[str]) -> str:
    return "every network" if len(names) == len(published) else ", ".join(names) or "no network"


def _unlike_theirs(line: Line) -> list[str]:
    """What differs from the published rows' protocol."""
    card, settings = line["protocol"]["val"]["best"], line["settings"]["seg"]
    found = []
    if (epochs := line["epochs"]["last"]) != EPOCHS:
        found.append(f"{epochs} epochs, not {EPOCHS}")
    if not str((card.get("evaluated_list") or {}).get("known")).startswith("BUSI, field division"):
        found.append("the list is not one of the published divisions")
    if card.get("normalization") != "authors":
        found.append(f"normalization {card.get('normalization')}, not authors")
    if not str(card.get("size")).startswith("256x256"):
        found.append(f"compared at {card.get('size')}, not at 256x256")
    if settings.get("batch_size") not in (8, None):
        found.append(f"batch size {settings['batch_size']}, not 8")
    if (precision := settings.get("amp")) not in ("off", None):
        found.append(f"trained in {precision}, not float32")
    if line["encoder"]:
        found.append("a phase 1 before")
    return found
