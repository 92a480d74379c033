"""The tables of an experiment: `NAME.md`, with a section for each list, and `NAME.csv`, with a row for each figure.

Both are made from the lines of `NAME.jsonl` and the per-image files alone, and hold nothing that depends on when or
where they are made: a test makes those of docs/results again and compares.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from utils.common.errors import UserError
from utils.common.files import replacing
from utils.common.processes import say
from utils.common.tables import markdown
from utils.reproduction.arm_settings import differing_settings, shared_settings, uneven_settings
from utils.reproduction.code_table import code_table
from utils.reproduction.experiment_plots import PLOTS, draw
from utils.reproduction.experiment_summary import FIGURES, Plan, Summary, summarise
from utils.reproduction.image_groups import group_table
from utils.reproduction.result_lines import EPOCH_RULES, Line
from utils.reproduction.table_cells import (
    NONE,
    TITLES,
    count,
    images_needed,
    interval,
    p_value,
    shown,
    t_interval,
    verdict,
    with_deviation,
)

LEGEND = """\
All figures are percent (Fa: millionths; differences: points).

- **n**: divisions x seeds, or runs where divisions have different numbers of seeds.
- **±**: standard deviation of the runs. In brackets its components: of divisions, of seeds.
- **95 % (t)**: interval of the mean, over the divisions' means, or over the seeds of a single division.
- **95 % (images)**: percentile bootstrap over the images. It leaves out the noise of training.
- **p**: Wilcoxon signed-rank, two-sided, with Holm's correction for the number of arms. n pairs give at least 2 / 2^n.
- **images needed**: how many images a paired test needs to see such a difference (power 80 %, level 5 %).
- The best epoch is chosen on `val`, which flatters the figures of `val`."""


def tabulate(name: str, lines: Sequence[Line], results: Path, planned: Plan = (), plots: bool = True) -> str:
    """Writes `NAME.md`, `NAME.csv` and the plots into the folder of results, and returns the page.

    Without matplotlib it says what to install, and the tables come anyway.

    Args:
        lines, planned: see `summarise`.
        plots: whether to draw them; those that exist are in the page in any case.

    Raises:
        UserError: see `summarise`; or if a table cannot be written.
    """
    summary = summarise(name, lines, results, planned)
    if plots:
        try:
            draw(summary, results)
        except UserError as error:
            say(f"no plots: {error}")
    text = page(summary, existing_plots(name, results))
    for suffix, content in (("md", text), ("csv", as_csv(summary))):
        with replacing(results / f"{name}.{suffix}") as beside:
            beside.write_text(content, encoding="utf-8", newline="\n")
    return text


def existing_plots(name: str, results: Path) -> list[str]:
    """The file names of the existing plots, PNG only."""
    names = (f"{name}-{plot}.png" for plot in PLOTS)
    return [file for file in names if (results / file).is_file()]


def page(summary: Summary, plots: Sequence[str] = ()) -> str:
    """The Markdown of all tables."""
    parts = [f"# {summary.name}", f"Runs, tables and plots: `{command(summary.name)}`.", *remarks(summary)]
    if not any(summary.runs.values()):
        return "\n\n".join([*parts, "No run is finished."]) + "\n"
    parts += ["## Arms", shared_settings(summary.runs), differing_settings(summary.runs), cost_table(summary), LEGEND]
    for on in summary.lists:
        parts += [f"## On {on}", iou_table(summary, on)]
        if len(summary.arms) > 1:
            first = f"Differences of IoU from `{summary.arms[0]}`, over the runs of the same division and seed:"
            parts += [first, difference_table(summary, on), verdicts(summary, on)]
            if divisions := division_table(summary, on):
                parts += ["The same over the images of each division:", divisions]
        if groups := group_table(summary, on):
            parts += ["Groups of images:", groups]
        parts += ["Every figure:", figure_table(summary, on)]
    if codes := code_table(summary.runs):
        parts += ["## Another code in place of the image's own", codes]
    if plots:
        parts += ["## Plots", *(f"![{file.removesuffix('.png')}]({file})" for file in plots)]
    return "\n\n".join(part for part in parts if part) + "\n"


def command(name: str) -> str:
    return f"python reproduce.py --experiment {name}"


def remarks(summary: Summary) -> list[str]:
    """Missing runs and differences between runs, as a list; empty if there are none."""
    said = [*summary.notes, *uneven_settings(summary.runs)]
    if missing := summary.missing:
        total = len(missing) + sum(map(len, summary.runs.values()))
        arms = {arm: [f"{division}/{seed}" for of, division, seed in missing if of == arm] for arm in summary.arms}
        named = "; ".join(f"{arm} {', '.join(runs)}" for arm, runs in arms.items() if runs)
        said.insert(0, f"{len(missing)} of {total} runs are missing (division/seed): {named}")
    lines = [line for runs in summary.runs.values() for line in runs.values()]
    earlier = [part for line in lines for part in line["machine"].get("earlier", [])]
    for what, values in (
        ("commits", [_short(of["commit"]) for of in (*lines, *earlier)]),
        ("torch", [line["versions"]["torch"] for line in lines] + [part["torch"] for part in earlier]),
        ("device", [line["machine"]["device"] for line in lines] + [part["device"] for part in earlier]),
    ):
        if known := sorted({value for value in values if value}):
            said.append(f"{what}: {', '.join(known)}")
    return ["\n".join(f"- {sentence}." for sentence in said)] if said else []


def _short(commit: str | None) -> str | None:
    """The first ten digits of a commit, and "+changes" if it follows."""
    return commit and commit[:10] + commit[40:]


def iou_table(summary: Summary, on: str, figure: str = "iou") -> str:
    """A row for each arm with runs: n, and of best and last epoch the mean, its deviation, and both intervals."""
    headings = ["arm", "n"]
    for rule in EPOCH_RULES:
        headings += [f"{rule} epoch: {TITLES[figure]}", "95 % (t)", "95 % (images)"]
    rows = []
    for arm in summary.arms_with_runs:
        cells = [summary.cells[on, figure, arm, rule] for rule in EPOCH_RULES]
        row = [arm, count(cells[0].spread)]
        for cell in cells:
            row += [with_deviation(cell.spread, figure), t_interval(cell.spread, figure), interval(cell.images, figure)]
        rows.append(row)
    return _table(summary, headings, rows, summary.uneven_divisions)


def difference_table(summary: Summary, on: str, figure: str = "iou") -> str:
    """A row for each arm but the first that has a pair of runs to compare."""
    headings = ["arm", "n"]
    for rule in EPOCH_RULES:
        headings += [f"{rule} epoch: difference", "95 % (t)", "95 % (images)", "p", "images needed"]
    rows = []
    for arm in summary.arms[1:]:
        cells = [summary.cells[on, figure, arm, rule] for rule in EPOCH_RULES]
        if not any(cell.difference for cell in cells):
            continue
        row = [arm, count(cells[0].difference)]
        for cell in cells:
            row += [
                with_deviation(cell.difference, figure, sign="+"),
                t_interval(cell.difference, figure, sign="+"),
                interval(cell.difference_images, figure, sign="+"),
                p_value(cell.p),
                images_needed(cell.needed),
            ]
        rows.append(row)
    return _table(summary, headings, rows)


def division_table(summary: Summary, on: str) -> str:
    """A row for each arm but the first, and each division; "" without a pair of runs."""
    headings = ["arm", "division", "images", "seeds"]
    for rule in EPOCH_RULES:
        headings += [f"{rule} epoch: difference", "95 % (images)", "p"]
    rows = []
    for of, arm, division, rule in summary.divisions:
        if of == on and rule == EPOCH_RULES[0]:
            cells = [summary.divisions[on, arm, division, each] for each in EPOCH_RULES]
            row = [arm, str(division), str(cells[0].images), str(cells[0].seeds)]
            for cell in cells:
                row += [shown(cell.difference, "iou", "+"), interval(cell.interval, "iou", "+"), p_value(cell.p)]
            rows.append(row)
    order = {arm: i for i, arm in enumerate(summary.arms)}
    return markdown(headings, sorted(rows, key=lambda row: (order[row[0]], int(row[1])))) if rows else ""


def figure_table(summary: Summary, on: str) -> str:
    """A row for each figure of each arm with runs."""
    headings = ["figure", "arm", "n"]
    for rule in EPOCH_RULES:
        headings += [f"{rule} epoch", "95 % (t)"]
    rows = []
    for figure in FIGURES:
        for arm in summary.arms_with_runs:
            spreads = [summary.cells[on, figure, arm, rule].spread for rule in EPOCH_RULES]
            row = [TITLES[figure], arm, count(spreads[0])]
            for spread in spreads:
                row += [with_deviation(spread, figure), t_interval(spread, figure)]
            rows.append(row)
    return _table(summary, headings, rows, summary.uneven_divisions)


def _table(summary: Summary, headings: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table of arms, a note, and a line about the arms without runs."""
    parts = [markdown(headings, rows) if rows else "", note, summary.not_run_yet]
    return "\n\n".join(part for part in parts if part)


def cost_table(summary: Summary) -> str:
    """A row for each arm with runs: its size, and the means over them of their seconds and of the best epoch."""
    headings = ["arm", "parameters: trained", "frozen", "GMACs", "phase 1, s", "phase 2, s", "evaluation, s"]
    headings += ["best epoch", "epochs"]
    rows = [_cost(arm, list(summary.runs[arm].values())) for arm in summary.arms_with_runs]
    return _table(summary, headings, rows)


def _cost(arm: str, lines: Sequence[Line]) -> list[str]:
    network = lines[0]["network"]
    parameters, macs = network["parameters"], network["macs"]
    seconds = [[line["seconds"][part] for line in lines] for part in ("recon", "seg", "evaluation")]
    lasts = sorted({line["epochs"]["last"] for line in lines})
    best = sum(line["epochs"]["best"] for line in lines) / len(lines)
    return [
        arm,
        f"{parameters['trained']:,}",
        f"{parameters['frozen']:,}",
        NONE if macs is None else f"{macs / 1e9:.2f}",
        *(NONE if None in each else f"{sum(each) / len(each):.0f}" for each in seconds),
        f"{best:.1f}",
        " and ".join(map(str, lasts)),
    ]


def verdicts(summary: Summary, on: str, figure: str = "iou") -> str:
    """A sentence for each arm but the first, if it has runs: what its intervals say."""
    first, *others = summary.arms
    said = []
    for arm in (arm for arm in others if summary.runs[arm]):
        for rule in EPOCH_RULES:
            cell = summary.cells[on, figure, arm, rule]
            found = "no pair of runs to compare"
            if cell.difference:
                found = verdict(cell.difference, cell.difference_images, figure)
            said.append(f"- `{arm}` against `{first}`, {rule} epoch: {found}.")
    return "\n".join(said)


def as_csv(summary: Summary) -> str:
    """A row for each list, epoch rule, figure and arm; fractions (Fa: millionths), with ten digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    parts = ("runs", "divisions", "mean", "deviation", "of_divisions", "of_seeds", "low", "high", "over")
    images = ("images_low", "images_high")
    header = ["list", "epoch_rule", "figure", "arm", *parts, *images]
    writer.writerow([*header, *(f"difference_{part}" for part in (*parts, *images)), "p_holm", "images_needed"])
    for (on, figure, arm, rule), cell in summary.cells.items():
        row: list[object] = [on, rule, figure, arm]
        for spread, ends in ((cell.spread, cell.images), (cell.difference, cell.difference_images)):
            row += [getattr(spread, part, None) for part in parts] + list(ends or (None, None))
        row += [cell.p, cell.needed]
        writer.writerow([f"{value:.10g}" if isinstance(value, float) else value for value in row])
    return text.getvalue()
