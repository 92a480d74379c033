"""How tables show means, deviations, intervals and p: percent, points for differences, millionths for Fa."""

from __future__ import annotations

from utils.evaluation.intervals import Interval
from utils.reproduction.run_statistics import Spread

TITLES = {
    "iou": "IoU",
    "F1": "F1",
    "benchmark_iou": "IoU, batches of 8",
    "benchmark_F1": "F1, batches of 8",
    "pooled_iou": "pooled IoU",
    "nIoU": "nIoU",
    "Pd": "Pd",
    "Fa_1e-6": "Fa x 1e-6",
}
NONE = "–"
MANY = 1_000_000


def count(spread: Spread | None) -> str:
    if spread is None:
        return "0"
    return f"{spread.runs} runs" if spread.seeds is None else f"{spread.divisions} x {spread.seeds}"


def with_deviation(spread: Spread | None, figure: str, sign: str = "") -> str:
    """Mean ± deviation (of divisions, of seeds), as far as they are known."""
    if spread is None:
        return NONE
    text = shown(spread.mean, figure, sign)
    if spread.deviation is not None:
        text += f" ± {shown(spread.deviation, figure)}"
    if spread.of_divisions is not None:
        text += f" ({shown(spread.of_divisions, figure)}, {shown(spread.of_seeds, figure)})"
    return text


def t_interval(spread: Spread | None, figure: str, sign: str = "") -> str:
    return interval(None if spread is None or spread.low is None else [spread.low, spread.high], figure, sign)


def interval(ends: Interval, figure: str, sign: str = "") -> str:
    return NONE if ends is None else f"[{', '.join(shown(end, figure, sign) for end in ends)}]"


def shown(value: float, figure: str, sign: str = "") -> str:
    """Two decimals; what rounds to zero is "0.00", without a sign."""
    rounded = round(value if figure == "Fa_1e-6" else 100 * value, 2)
    return f"{rounded:{sign}.2f}" if rounded else "0.00"


def images_needed(needed: int | None) -> str:
    """A number above a million is not printed: a difference near zero has no meaningful digits there."""
    return NONE if needed is None else f"{needed:,}" if needed <= MANY else f"over {MANY:,}"


def p_value(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(difference: Spread, images: Interval = None, figure: str = "iou", of: str = "pair of runs") -> str:
    """The conclusion in words. A difference was found only if 0 is in neither interval.

    Args:
        difference: with its t interval over runs, which says how much other runs may differ. With few runs it can be
            narrow by chance.
        images: the interval over the images.
        of: what a difference of a single run is called.
    """
    mean = f"{shown(difference.mean, figure, '+')} points"
    over = f"over the images {interval(images, figure, '+')}" if images else ""
    if difference.low is None:
        end = ": no difference was found" if images and images[0] <= 0 <= images[1] else "; other runs may differ"
        return f"{mean} in one {of}{over and f' ({over})'}{end}"
    found = f"{mean} (over the {difference.over} {t_interval(difference, figure, '+')}{over and f', {over}'})"
    if all(low > 0 or high < 0 for low, high in filter(None, ([difference.low, difference.high], images))):
        return f"{found}: {'higher' if difference.mean > 0 else 'lower'}"
    return f"{found}: no difference was found"
