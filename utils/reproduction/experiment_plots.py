"""The plots of an experiment, as PNG and PDF: curves, differences, IoU against the target's size and against MACs.

matplotlib is optional (requirements-plots.txt). Equal results give equal files with one release of it. Arms differ in
colour and in marker or line; the first seven colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.common.files import replacing
from utils.common.libraries import library
from utils.reproduction.experiment_summary import Summary, of_images
from utils.reproduction.image_groups import by_target_size, only, target_shares
from utils.reproduction.image_statistics import mean_of_runs, over_images
from utils.reproduction.result_lines import EPOCH_RULES
from utils.reproduction.run_statistics import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C00", "#8A4B2A", "#999999")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">")
DASHES = ("-", (0, (5, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)))
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "figure.dpi": 120,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
CROWDED = 4  # from more arms on, only the first one's intervals are drawn beside each other
BINS = 5  # of the target's size, with equally many images
# Nothing of when and by what a file was made.
METADATA = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}


def draw(summary: Summary, results: Path) -> list[Path]:
    """Writes `NAME-PLOT.png` and `.pdf` of every plot that the runs allow, and returns their paths.

    Raises:
        UserError: without matplotlib, or if a file cannot be written.
    """
    matplotlib = library("matplotlib")
    written = []
    for plot, paint in PLOTS.items() if summary.lists else ():
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # whatever a user's matplotlibrc says
            matplotlib.rcParams.update(STYLE)
            if (figure := paint(summary)) is None:
                continue
            for suffix, metadata in METADATA.items():
                path = results / f"{summary.name}-{plot}.{suffix}"
                with replacing(path) as beside:
                    figure.savefig(beside, format=suffix, metadata=metadata, bbox_inches="tight")
                written.append(path)
    return written


def reported(summary: Summary) -> str:
    """The list that the plots show: test if the experiment has one, otherwise val."""
    return summary.lists[-1]


def curves(summary: Summary) -> Figure | None:
    """Validation IoU over the epochs: the mean of the runs, and a band over the seeds."""
    figure, (axes,) = _figure(1, (6.4, 3.8))
    for i, (arm, runs) in enumerate(summary.runs.items()):
        of_runs = {run: line["curve"] for run, line in runs.items() if line["curve"]["epoch"]}
        if not of_runs:
            continue
        longest = max((curve["epoch"] for curve in of_runs.values()), key=len)
        values = {run: _padded(curve["val_iou"], len(longest)) for run, curve in of_runs.items()}
        mean, low, high = band(values)
        axes.plot(longest, 100 * mean, color=_colour(i), linestyle=DASHES[i % len(DASHES)], label=arm)
        axes.fill_between(longest, 100 * low, 100 * high, color=_colour(i), alpha=0.15, linewidth=0)
    if not axes.lines:
        return None
    seeds = any(len({seed for _, seed in runs}) > 1 for runs in summary.runs.values())
    axes.set(xlabel="epoch of phase 2", ylabel="validation IoU (%)")
    axes.set_title(f"{summary.name}: mean of the runs; band: range of the {'seeds' if seeds else 'divisions'}")
    _legend(axes)
    return figure


def band(values: Mapping[tuple[int, int], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lowest and highest curve. Where divisions have several seeds, the range is that of the seeds: each
    division's own level is taken out."""
    divisions = sorted({division for division, _ in values})
    levels = {of: np.nanmean([curve for run, curve in values.items() if run[0] == of], axis=0) for of in divisions}
    mean = np.nanmean(list(levels.values()), axis=0)
    if len(values) > len(divisions):
        values = {run: curve - levels[run[0]] + mean for run, curve in values.items()}
    return mean, np.nanmin(list(values.values()), axis=0), np.nanmax(list(values.values()), axis=0)


def differences(summary: Summary) -> Figure | None:
    """A forest plot of the differences of IoU from the first arm: of each division, and of all of them."""
    on, others = reported(summary), summary.arms[1:]
    rows: list[tuple[str, int | None]] = []
    for arm in others:
        divisions = sorted({division for of, name, division, _ in summary.divisions if (of, name) == (on, arm)})
        rows += [(arm, division) for division in divisions] + [(arm, None)] * bool(divisions)
    if not rows:
        return None
    figure, panels = _figure(len(EPOCH_RULES), (7.6, 1.3 + 0.24 * len(rows) + 0.17 * len(others)), shared=True)
    places = [y + 0.7 * summary.arms.index(arm) for y, (arm, _) in enumerate(rows)]  # a gap between arms
    for axes, rule in zip(panels, EPOCH_RULES, strict=True):
        axes.axvline(0, color="black", linewidth=0.8)
        for y, (arm, division) in zip(places, rows, strict=True):
            colour = _colour(summary.arms.index(arm))
            if division is None:
                both = summary.cells[on, "iou", arm, rule]
                _row(axes, y, both.difference.mean, both.difference_images, colour, marker="D", size=6, width=1.0)
                _row(axes, y, both.difference.mean, _ends(both.difference), colour, marker="D", size=6, width=2.8)
            else:
                cell = summary.divisions[on, arm, division, rule]
                _row(axes, y, cell.difference, cell.interval, colour, marker="o", size=3.5, width=1.0)
        axes.set(title=f"{rule} epoch", xlabel=f"difference of IoU from {summary.arms[0]} (points)")
        axes.grid(axis="y", visible=False)
    labels = [f"{arm}, all runs" if division is None else f"division {division}" for arm, division in rows]
    panels[0].set_yticks(places, labels)
    for label, (_, division) in zip(panels[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if division is None else "normal")
    panels[0].set_ylim(places[-1] + 0.8, places[0] - 0.8)
    figure.suptitle(f"{summary.name}, {on}. 95 % intervals. Thin: over the images. Thick: t interval over all runs.")
    return figure


def target_size(summary: Summary) -> Figure | None:
    """The IoU of small and large targets at the last epoch: bins with equally many images."""
    on = reported(summary)
    shares = target_shares(summary, on)
    if len(shares) < 2 * BINS:
        return None
    figure, (axes,) = _figure(1, (6.4, 3.8))
    bins = by_target_size(shares, BINS)
    crowded = len(summary.arms) > CROWDED
    centres = np.array([math.exp(np.mean([math.log(100 * shares[name]) for name in part])) for part in bins])
    for i, arm in enumerate(summary.arms):
        runs = of_images(summary.files[arm], on, "last", "iou")
        parts = [only(runs, part) for part in bins]
        if not all(parts):
            continue
        means = np.array([mean_of_runs(part) for part in parts])
        ends = np.array([over_images({"": part})[""] or (math.nan, math.nan) for part in parts])
        shift = 1 + 0.03 * (i - (len(summary.arms) - 1) / 2)  # beside each other, so that all intervals are seen
        axes.errorbar(
            centres * shift,
            100 * means,
            yerr=None if i and crowded else 100 * np.abs(ends - means[:, None]).T,
            color=_colour(i),
            marker=MARKERS[i % len(MARKERS)],
            linestyle=DASHES[i % len(DASHES)],
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            label=arm,
        )
    axes.set_xscale("log")
    axes.set_xticks(centres, [f"{centre:.2g}" for centre in centres])
    axes.minorticks_off()
    axes.set(xlabel="target's share of the image (%), bins with equally many images", ylabel="IoU (%)")
    of = f", {summary.arms[0]} alone" if crowded else ""
    axes.set_title(f"{summary.name}, {on}, last epoch; 95 % over the images{of}")
    _legend(axes)
    return figure


def macs(summary: Summary) -> Figure | None:
    """IoU against multiply-accumulates: filled markers are the best epoch, open ones the last."""
    on = reported(summary)
    sizes = {arm: next(iter(runs.values()))["network"]["macs"] for arm, runs in summary.runs.items() if runs}
    sizes = {arm: size / 1e9 for arm, size in sizes.items() if size}
    if not sizes:
        return None
    figure, (axes,) = _figure(1, (6.4, 3.8))
    reach = max(0.1, math.log(max(sizes.values()) / min(sizes.values())))
    for i, arm in enumerate(summary.arms):
        for step, rule in enumerate(EPOCH_RULES if arm in sizes else ()):
            spread = summary.cells[on, "iou", arm, rule].spread
            if spread is None:
                continue
            low, high = _ends(spread) or (spread.mean, spread.mean)
            near = [other for other in sizes if math.isclose(sizes[other], sizes[arm], rel_tol=0.03)]
            place = 2 * near.index(arm) + step - (2 * len(near) - 1) / 2  # beside each other, where MACs are equal
            axes.errorbar(
                sizes[arm] * math.exp(0.02 * reach * place),
                100 * spread.mean,
                yerr=[[100 * (spread.mean - low)], [100 * (high - spread.mean)]],
                color=_colour(i),
                marker=MARKERS[i % len(MARKERS)],
                markerfacecolor=_colour(i) if rule == "best" else "white",
                markersize=6,
                elinewidth=0.8,
                linestyle="none",
                label=arm if rule == "best" else None,
            )
    axes.margins(x=0.2)
    axes.set_xscale("log" if reach > math.log(10) else "linear")
    axes.set(xlabel="multiply-accumulates of an image (G); markers side by side have the same", ylabel="IoU (%)")
    has_intervals = any(
        _ends(cell.spread) for (_, figure, *_), cell in summary.cells.items() if figure == "iou" and cell.spread
    )
    axes.set_title(f"{summary.name}, {on}: best epoch filled, last open{'; 95 % t interval' * has_intervals}")
    _legend(axes)
    return figure


PLOTS: dict[str, Callable[[Summary], Any]] = {
    "curves": curves,
    "differences": differences,
    "target_size": target_size,
    "macs": macs,
}


def _figure(panels: int, size: tuple[float, float], shared: bool = False) -> tuple[Figure, list[Axes]]:
    """Without pyplot: no window, no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(1, panels, sharex=shared, sharey=shared, squeeze=False)[0])


def _row(axes: Axes, y: int, mean: float, ends: Any, colour: str, marker: str, size: float, width: float) -> None:
    if ends is not None:
        axes.plot([100 * end for end in ends], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    axes.plot(100 * mean, y, color=colour, marker=marker, markersize=size)


def _ends(spread: Spread) -> tuple[float, float] | None:
    return None if spread.low is None else (spread.low, spread.high)


def _padded(values: list[float | None], length: int) -> np.ndarray:
    numbers = [math.nan if value is None else value for value in values]
    return np.array([*numbers, *[math.nan] * (length - len(numbers))])


def _colour(arm: int) -> str:
    return COLOURS[arm % len(COLOURS)]


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
