"""docs/results.md and docs/results/NAME.md, made from the lines of docs/results.

    python -m utils.reproduction.results_page      # after new lines: all tables, plots, and the blocks of the page

The page's sentences are written by hand. What stands between these two comments is made from the lines:

    <!-- results: iou busi128 -->
    <!-- end -->

The first word is one of `BLOCKS`, the second an experiment; a third may name the list, `val` or `test`. Without it the
block is of the test list, where there is one. tests/utils/reproduction/test_results_page.py makes all of it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from utils.common.errors import UserError
from utils.common.files import replacing
from utils.common.script import run_script
from utils.reproduction.arm_settings import differing_settings, shared_settings
from utils.reproduction.code_table import code_table
from utils.reproduction.experiment_file import known_experiments, read_experiment
from utils.reproduction.experiment_plots import reported
from utils.reproduction.experiment_summary import Plan, Summary, summarise
from utils.reproduction.experiment_table import (
    command,
    cost_table,
    difference_table,
    division_table,
    existing_plots,
    figure_table,
    iou_table,
    remarks,
    tabulate,
    verdicts,
)
from utils.reproduction.field_table import field_table
from utils.reproduction.image_groups import group_table
from utils.reproduction.result_lines import LISTS, read

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results.md"
RESULTS = PAGE.with_suffix("")
BLOCKS: dict[str, Callable[[Summary, str], str]] = {
    "settings": lambda of, on: f"{shared_settings(of.runs)}\n\n{differing_settings(of.runs)}".strip(),
    "iou": iou_table,
    "differences": lambda of, on: f"{difference_table(of, on)}\n\n{verdicts(of, on)}".strip(),
    "divisions": lambda of, on: division_table(of, on) or "No pair of runs to compare.",
    "figures": figure_table,
    "groups": lambda of, on: group_table(of, on) or "Too few images for groups.",
    "field": lambda of, on: field_table(of),
    "code": lambda of, on: code_table(of.runs) or "No run was tested with another code.",
    "cost": lambda of, on: cost_table(of),
    "remarks": lambda of, on: "\n".join(remarks(of)),
}
PLOTS = "plots"  # the pictures that there are
_BLOCK = re.compile(r"(<!-- results: (\w+) (\S+)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def planned(name: str) -> Plan:
    """The runs of experiments/NAME.yaml; empty if the file is missing."""
    return read_experiment(name).order() if name in known_experiments() else ()


def recorded(results: Path = RESULTS) -> list[str]:
    """The experiments with recorded lines."""
    return sorted(path.stem for path in results.glob("*.jsonl"))


def compose(text: str, results: Path = RESULTS) -> str:
    """The page with its blocks generated again. The first block of an experiment without runs says so, the others are
    empty.

    Raises:
        UserError: for a block of an unknown kind, list or experiment.
    """

    @lru_cache
    def summary(name: str) -> Summary:
        if name not in (known := {*recorded(results), *known_experiments()}):
            raise UserError(f"a block of results names the experiment {name}; known are {', '.join(sorted(known))}")
        return summarise(name, read(results / f"{name}.jsonl"), results, planned(name))

    without_runs: set[str] = set()

    def block(found: re.Match[str]) -> str:
        start, kind, name, on, end = found.groups()
        made = _block(kind, summary(name), on, results)
        if not summary(name).lists:
            made = "" if name in without_runs else made
            without_runs.add(name)
        return f"{start}\n{made}\n\n{end}" if made else f"{start}{end}"

    return _BLOCK.sub(block, text)


def _block(kind: str, summary: Summary, on: str | None, results: Path) -> str:
    if kind not in (*BLOCKS, PLOTS) or on not in (None, *LISTS):
        known = f"{', '.join(BLOCKS)} and {PLOTS}, of {' or '.join(LISTS)}"
        raise UserError(f"unknown block of results: {kind} {summary.name} {on or ''}. Known are {known}")
    name, folder = summary.name, results.name
    source = f"`{command(name)}`; everything: [{folder}/{name}.md]({folder}/{name}.md), [CSV]({folder}/{name}.csv)."
    if not summary.lists:
        return f"No run of {name} is finished (`{command(name)}`)."
    if kind == PLOTS:
        files = existing_plots(name, results)
        return "\n\n".join([*(f"![{file.removesuffix('.png')}]({folder}/{file})" for file in files), source])
    return f"{BLOCKS[kind](summary, on or reported(summary))}\n\n{source}"


def main(_: object = None) -> None:
    for name in recorded():
        tabulate(name, read(RESULTS / f"{name}.jsonl"), RESULTS, planned(name))
    text = compose(PAGE.read_text(encoding="utf-8"))
    with replacing(PAGE) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run_script(main, lambda: None)
