"""The field's table of BUSI: published networks (splits/published.json), and an experiment's arms counted the same way.

The published rows are the best epoch on the reported list, pooled over batches of 8. Ours stand beside them in these
columns alone; the last epoch and the mean over the images are other figures and have separate columns.
"""

from __future__ import annotations

import math
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


def field_table(summary: Summary) -> str:
    """The table, and a sentence for each arm that says where it stands and what is not alike."""
    table = _published()
    rows = [
        [name, *cells, str(EPOCHS), str(DIVISIONS), _published_interval(cells[2]), *[NONE] * 4]
        for name, cells in table["rows"].items()
    ]
    for arm, runs in summary.runs.items():
        if runs:
            rows.append(_row(summary, arm, next(iter(runs.values()))))
    headings = [
        "network",
        "params M",
        "GMACs",
        "IoU, batches of 8, best epoch",
        "F1, the same",
        "epochs",
        "n",
        "95 % (t) of the IoU",
    ]
    headings += ["last epoch: IoU, batches of 8", "mean over images: IoU, best epoch", "last epoch", "F1, last epoch"]
    source = f"Published rows: {table['source']}; {table['protocol']}. ±: over the divisions, "
    source += "from which their intervals are computed."
    sentences = [f"- {_standing(summary, arm)}" for arm, runs in summary.runs.items() if runs]
    return f"{source}\n\n{markdown(headings, rows)}\n\n" + "\n".join(sentences)


def _published() -> dict[str, Any]:
    return next(table for table in ledger()["benchmarks"] if table["title"].startswith(BENCHMARK))


def _published_interval(cell: str) -> str:
    """The t interval of a published "mean ± deviation"."""
    mean, deviation = (float(number) / 100 for number in cell.split(" ± "))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, DIVISIONS - 1)) * deviation / math.sqrt(DIVISIONS)
    return interval([mean - half, mean + half], "iou")


def _row(summary: Summary, arm: str, line: Line) -> list[str]:
    def spread(figure: str, rule: str) -> Any:
        return summary.cells["val", figure, arm, rule].spread

    parameters, macs = line["network"]["parameters"], line["network"]["macs"]
    best = spread("benchmark_iou", "best")
    return [
        f"**{arm}**, ours",
        f"{(parameters['trained'] + parameters['frozen']) / 1e6:.2f}",
        NONE if macs is None else f"{macs / 1e9:.2f}",
        with_deviation(best, "benchmark_iou"),
        with_deviation(spread("benchmark_F1", "best"), "benchmark_F1"),
        str(line["epochs"]["last"]),
        count(best),
        t_interval(best, "benchmark_iou"),
        with_deviation(spread("benchmark_iou", "last"), "benchmark_iou"),
        with_deviation(spread("iou", "best"), "iou"),
        with_deviation(spread("iou", "last"), "iou"),
        with_deviation(spread("F1", "last"), "F1"),
    ]


def _standing(summary: Summary, arm: str) -> str:
    """Where an arm's IoU stands among the published means, and what of its protocol is not theirs."""
    ours = summary.cells["val", "benchmark_iou", arm, "best"].spread
    if ours is None:
        return f"`{arm}`: no figure."
    published = {name: float(cells[2].split()[0]) / 100 for name, cells in _published()["rows"].items()}
    below = [name for name, value in published.items() if value <= ours.mean]
    text = f"`{arm}`: {shown(ours.mean, 'iou')}, at or above {', '.join(below) or 'no published mean'}"
    if ours.low is not None:
        within = [name for name, value in published.items() if ours.low <= value <= ours.high]
        text += f". Its interval holds the published mean of {', '.join(within) or 'no network'}"
    differing = [sentence for line in summary.runs[arm].values() for sentence in _unlike_theirs(line)]
    return f"{text}. Not alike: {'; '.join(dict.fromkeys(differing))}." if differing else f"{text}."


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
    return found
