"""The table of the code tests of an experiment's runs (`evaluation.py --code`, `code` in their lines)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from utils.common.tables import markdown
from utils.reproduction.comparable_runs import Runs
from utils.reproduction.run_statistics import Run, Spread, spread
from utils.reproduction.table_cells import NONE, count, interval, p_value, shown, t_interval, verdict, with_deviation

GIVEN = {"swap": "another image's code", "mean": "the mean code", "zero": "a code of zeros"}


@dataclass(frozen=True)
class CodeCell:
    """What another code does to the IoU of an arm: `own` and `given` are its means, `difference` is given minus own.

    `kernel` is by how much it changes the kernel, as a share of the kernel's norm; None for a layer without kernels.
    """

    own: Spread
    given: Spread
    difference: Spread
    kernel: Spread | None
    runs: Mapping[Run, Mapping[str, float]]  # n, difference, low, high, p over the images of each run


def code_cells(runs: Runs) -> dict[tuple[str, str], CodeCell]:
    """By arm and given code, of the runs that were tested."""
    found = {}
    for arm, of in runs.items():
        for given in GIVEN:
            tests = {run: line["code"][given] for run, line in of.items() if given in (line["code"] or {})}
            if tests:
                tested = {run: test["figures"]["iou"] for run, test in tests.items()}
                columns = [{run: row[name] for run, row in tested.items()} for name in ("own", given, "difference")]
                kernel = {run: change["mean"] for run, test in tests.items() if (change := test.get("kernel_change"))}
                found[arm, given] = CodeCell(*map(spread, columns), spread(kernel) if kernel else None, tested)
    return found


def code_table(runs: Runs) -> str:
    """A row for each arm and code, and what the intervals say; "" where no run was tested."""
    cells = code_cells(runs)
    if not cells:
        return ""
    headings = [
        "arm",
        "given code",
        "n",
        "IoU, own code",
        "IoU, given code",
        "difference",
        "95 % (t)",
        "kernel changed by",
    ]
    rows = [
        [
            arm,
            GIVEN[given],
            count(cell.difference),
            with_deviation(cell.own, "iou"),
            with_deviation(cell.given, "iou"),
            with_deviation(cell.difference, "iou", "+"),
            t_interval(cell.difference, "iou", "+"),
            NONE if cell.kernel is None else f"{with_deviation(cell.kernel, 'iou')} %",
        ]
        for (arm, given), cell in cells.items()
    ]
    return "\n\n".join([markdown(headings, rows), _network(runs), _verdicts(cells), _each_run(cells)])


def _network(runs: Runs) -> str:
    """Why the IoU with the images' own codes is not quite the IoU of the other tables."""
    found = [
        abs(test["figures"]["iou"]["own"] - reported)
        for of in runs.values()
        for line in of.values()
        for test in (line["code"] or {}).values()
        if (reported := line["figures"].get(test["list"], {}).get("best", {}).get("iou")) is not None
    ]
    by = f", here by up to {shown(max(found), 'iou')} points" if found else ""
    return (
        "The test runs the plain network without its fast modules, which round differently: the IoU with the own code "
        f"differs from the reported one{by}."
    )


def _verdicts(cells: Mapping[tuple[str, str], CodeCell]) -> str:
    """The single images of these tests are not recorded, so that there is no interval over the images of all runs."""
    lines = []
    for (arm, given), cell in cells.items():
        ends = [(row["low"], row["high"]) for row in cell.runs.values() if row["low"] is not None]
        zero = sum(low <= 0 <= high for low, high in ends)
        own = f"; the interval over the images contains 0 in {zero} of {len(ends)} runs" if len(ends) > 1 else ""
        images = list(ends[0]) if len(cell.runs) == len(ends) == 1 else None
        lines.append(f"- `{arm}` with {GIVEN[given]}: {verdict(cell.difference, images, of='run')}{own}.")
    return "\n".join(lines)


def _each_run(cells: Mapping[tuple[str, str], CodeCell]) -> str:
    headings = ["arm", "given code", "division", "seed", "images", "difference", "95 % (images, BCa)", "p, uncorrected"]
    rows = []
    for (arm, given), cell in cells.items():
        for (division, seed), row in sorted(cell.runs.items()):
            ends = None if row["low"] is None else [row["low"], row["high"]]
            figures = [shown(row["difference"], "iou", "+"), interval(ends, "iou", "+"), p_value(row["p"])]
            rows.append([arm, GIVEN[given], str(division), str(seed), str(row["n"]), *figures])
    return markdown(headings, rows)
