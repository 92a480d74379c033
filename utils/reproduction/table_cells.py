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
    """Two decimals; nothing is "-0.00"."""
    return f"{round(value if figure == 'Fa_1e-6' else 100 * value, 2) + 0.0:{sign}.2f}"


def p_value(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(difference: Spread, figure: str = "iou", of: str = "pair of runs") -> str:
    """What the t interval of a difference says, in words; one that holds 0 says that no difference was found."""
    mean = f"{shown(difference.mean, figure, '+')} points"
    if difference.low is None:
        return f"{mean} in one {of}, which says nothing of other runs"
    found = f"{mean}; the interval over the {difference.over}, {t_interval(difference, figure, '+')},"
    if difference.low <= 0 <= difference.high:
        return f"{found} holds 0: no difference was found"
    return f"{found} does not hold 0: {'higher' if difference.mean > 0 else 'lower'}"
