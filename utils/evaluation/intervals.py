"""95 % intervals of the means over the images, by a percentile bootstrap.

The images are resampled with replacement, the figure is computed for each sample, and the interval extends from the
2.5th to the 97.5th percentile (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). It describes
the variance over images, not over training runs, because the network is fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.evaluation.benchmark_pooling import of_batches
from utils.evaluation.mask_figures import every_figure

if TYPE_CHECKING:
    from torch import Tensor

LEVEL = 0.95
RESAMPLES = 9999
SEED = 0
METHOD = "percentile bootstrap over the images; leaves out the noise of training"
_AT_ONCE = 4_000_000  # most drawn images in memory

Interval = list[float] | None  # [low, high]; None where fewer than two images have the figure
Terms = tuple[np.ndarray, np.ndarray]  # for each image: its terms of the numerator and of the denominator


def intervals(
    figures: Mapping[str, Tensor],
    counts: dict[str, Tensor],
    targets: Mapping[str, Tensor],
    of_masks: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The intervals of the means of a summary, nested like the summary.

    Args:
        figures, counts, targets, of_masks: see `utils.evaluation.results.Results`.
    """
    means = {name: _mean(values.numpy()) for name, values in {**figures, **of_masks}.items()}
    known = every_figure()
    tp, fp, fn, tn = (counts[name].numpy().astype(float) for name in ("TP", "FP", "FN", "TN"))
    union = tp + fp + fn
    own = np.divide(tp, union, out=np.ones_like(tp), where=union > 0)
    alarms = 1e6 * targets["false_alarm_pixels"].numpy()
    terms = {
        **{("mean_over_images", name): of for name, of in means.items() if name in figures or not known[name].field},
        **{("medical", known[name].title): of for name, of in means.items() if known[name].field == "medical"},
        ("pooled_iou",): (tp, union),
        ("infrared", "mIoU"): (tp, union),
        ("infrared", "nIoU"): _mean(own),
        ("infrared", "Pd"): (targets["found"].numpy().astype(float), targets["targets"].numpy().astype(float)),
        ("infrared", "Fa_1e-6"): (alarms, union + tn),
    }
    found = bootstrap(terms)
    # This mean is over batches of consecutive images, so the batches are resampled.
    batches, sizes = of_batches(counts)
    weights = sizes.numpy().astype(float)
    found |= bootstrap({("benchmark", name): (values.numpy() * weights, weights) for name, values in batches.items()})
    nested: dict[str, Any] = {"level": LEVEL, "method": METHOD, "resamples": RESAMPLES, "seed": SEED}
    for (group, *name), interval in found.items():
        if name:
            nested.setdefault(group, {})[name[0]] = interval
        else:
            nested[group] = interval
    return nested


def bootstrap(terms: Mapping[Any, Terms], resamples: int = RESAMPLES, seed: int = SEED) -> dict[Any, Interval]:
    """The interval of each ratio of sums, numerator / denominator; all figures use the same samples."""
    ratios = resampled(terms, resamples, seed)
    return {name: ends(ratios[name]) if (below > 0).sum() > 1 else None for name, (_, below) in terms.items()}


def resampled(terms: Mapping[Any, Terms], resamples: int = RESAMPLES, seed: int = SEED) -> dict[Any, np.ndarray]:
    """Each ratio of sums in each sample, (resamples,); NaN where the denominator is 0."""
    count = len(next(iter(terms.values()))[0])
    values = np.stack([column for pair in terms.values() for column in pair], axis=1)
    rng = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // count)
    sums = [_draw(rng, min(rows, resamples - first), count) @ values for first in range(0, resamples, rows)]
    above, below = np.concatenate(sums).reshape(resamples, len(terms), 2).transpose(2, 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return dict(zip(terms, np.where(below > 0, above / below, np.nan), strict=True))


def ends(values: np.ndarray) -> list[float]:
    """The interval of a figure from its values in all samples, of which NaN are left out."""
    return np.percentile(values[~np.isnan(values)], [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()


def _draw(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """How often each of `count` images is in each of `rows` samples, (rows, count)."""
    drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)


def _mean(values: np.ndarray) -> Terms:
    """The terms of a mean over the images that have the figure."""
    defined = ~np.isnan(values)
    return np.where(defined, values, 0.0), defined.astype(float)


def words(summary: Mapping[str, Any], *names: str, scale: float = 1.0) -> str:
    """The interval of a figure for the terminal, "  [low, high]"; empty if there is none."""
    found: Any = summary.get("intervals", {})
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return "" if found is None else f"  [{scale * found[0]:.2f}, {scale * found[1]:.2f}]"
