"""Charts as inline SVG: axes, lines, dots and bars, in the colours of the page, light and dark.

A `Chart` holds positions in units of the picture, 460 x 300; templates/chart.html draws it. Values that are not finite
are left out and interrupt a line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 440, 12, 256  # the frame inside the picture
MAX_DOTS = 5000  # a page of 100 000 images must still open


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` along one side of the frame.

    A logarithmic axis takes positive values only. An axis of `whole` numbers has ticks at whole numbers only.
    """

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def share(self, value: float) -> float:
        """The position of a value between the ends: 0 at `low`, 1 at `high`."""
        low, high = self._scale(self.low), self._scale(self.high)
        return (self._scale(value) - low) / (high - low)

    def ticks(self) -> list[float]:
        """About five round values."""
        if self.log and len(ticks := self._log_ticks()) > 1:
            return ticks
        step = _round_step((self.high - self.low) / 5)
        step = max(1.0, step) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        digits = (1,) if self.high > 1e4 * self.low else (1, 3) if self.high > 30 * self.low else (1, 2, 3, 5)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [value for n in decades for digit in digits if self.low <= (value := digit * 10.0**n) <= self.high]

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.log else value


@dataclass
class Chart:
    """Two axes and what is drawn between them; `text` describes it in a sentence, also for screen readers."""

    title: str
    text: str
    x: Axis
    y: Axis
    lines: list[tuple[str, list[str]]] = field(default_factory=list)  # label, "points" of each piece
    dots: list[tuple[float, float, str]] = field(default_factory=list)  # x, y, tooltip
    bars: list[tuple[float, float, float, float, str]] = field(default_factory=list)  # x, y, width, height, tooltip
    rules: list[tuple[float, float, float, float, str]] = field(default_factory=list)  # x1, y1, x2, y2, label

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The position of a point."""
        across = LEFT + (RIGHT - LEFT) * self.x.share(x)
        return round(across, 1), round(BOTTOM - (BOTTOM - TOP) * self.y.share(y), 1)

    def line(self, label: str, x: Sequence[float], y: Sequence[float]) -> None:
        drawn = [math.isfinite(a) and math.isfinite(b) for a, b in zip(x, y, strict=True)]
        runs = groupby(zip(drawn, x, y, strict=True), key=lambda point: point[0])
        pieces = [[self.at(a, b) for _, a, b in points] for is_drawn, points in runs if is_drawn]
        self.lines.append((label, [" ".join(f"{a},{b}" for a, b in piece) for piece in pieces]))

    def dot(self, x: float, y: float, text: str) -> None:
        self.dots.append((*self.at(x, y), text))

    def bar(self, start: float, end: float, value: float, text: str) -> None:
        """From 0 up (or down) to `value`."""
        (left, one), (right, other) = self.at(start, 0), self.at(end, value)
        self.bars.append((left, min(one, other), round(right - left, 1), round(abs(one - other), 1), text))

    def rule(self, label: str, x: float | None = None, y: float | None = None) -> None:
        """A dashed line across the frame, at x or at y."""
        start = self.at(self.x.low if x is None else x, self.y.low if y is None else y)
        end = self.at(self.x.high if x is None else x, self.y.high if y is None else y)
        self.rules.append((*start, *end, label))

    def diagonal(self) -> None:
        """From the lower left corner to the upper right one."""
        self.rules.append((*self.at(self.x.low, self.y.low), *self.at(self.x.high, self.y.high), ""))

    def frame(self) -> tuple[float, float, float, float]:
        return LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP

    def x_ticks(self) -> list[tuple[float, str]]:
        return [(self.at(value, self.y.low)[0], f"{value:.6g}") for value in self.x.ticks()]

    def y_ticks(self) -> list[tuple[float, str]]:
        return [(self.at(self.x.low, value)[1], f"{value:.6g}") for value in self.y.ticks()]


def line_chart(
    title: str,
    text: str,
    x_label: str,
    y_label: str,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    log: bool = False,
) -> Chart:
    """Lines over whole x. y starts at 0, or at the lowest value if that is below 0; `log` needs values above 0."""
    values = [value for line in lines.values() for value in line if math.isfinite(value)] or [1.0]
    low, high, log = min(values), max(values), log and min(values) > 0
    y = Axis(y_label, low / 1.1, high * 1.1, log=True) if log else Axis(y_label, *_apart(min(0.0, low), high))
    chart = Chart(title, text, Axis(x_label, *_apart(min(x), max(x)), whole=True), y)
    for label, line in lines.items():
        chart.line(label, x, line)
    return chart


def unit_chart(title: str, text: str, x_label: str, y_label: str) -> Chart:
    """An empty chart of two figures in 0..1, for curves such as precision over recall."""
    return Chart(title, text, Axis(x_label, 0, 1), Axis(y_label, 0, 1))


def histogram(title: str, x_label: str, values: Sequence[float], low: float, high: float, bins: int = 20) -> Chart:
    """The number of values in each of `bins` equal intervals from `low` to `high`, with their mean and median."""
    finite = np.asarray([value for value in values if math.isfinite(value)])
    counts, edges = np.histogram(finite, bins, (low, high))
    mean, median = (finite.mean(), np.median(finite)) if len(finite) else (math.nan, math.nan)
    text = f"{len(finite)} images; mean {mean:.4g}, median {median:.4g}"
    chart = Chart(title, text, Axis(x_label, low, high), Axis("images", 0, max(1, int(counts.max())), whole=True))
    for count, start, end in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        chart.bar(start, end, count, f"{start:.4g} to {end:.4g}: {count} images")
    if len(finite):
        chart.rule(f"mean {mean:.3g}", x=float(mean))
        chart.rule(f"median {median:.3g}", x=float(median))
    return chart


def scatter(
    title: str, text: str, x: Axis, y: Axis, points: Sequence[tuple[float, float, str]], diagonal: bool = False
) -> Chart:
    """A dot for each point (x, y, tooltip); of more than `MAX_DOTS` points, an even selection."""
    kept = np.linspace(0, len(points) - 1, min(len(points), MAX_DOTS)).astype(int).tolist()
    shown = text if len(kept) == len(points) else f"{text} ({len(kept)} of {len(points)} drawn)"
    chart = Chart(title, shown, x, y)
    if diagonal:
        chart.diagonal()
    for i in kept:
        chart.dot(*points[i])
    return chart


def _apart(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
