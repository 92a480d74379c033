"""The figures of a paper, which a configuration may quote and reproduce.py shows beside the measured ones.

published: {iou: 88.29, F1: 93.44}     # percent
"""

from __future__ import annotations

from utils.config import find_configuration, read_yaml
from utils.errors import UserError
from utils.metrics import PAPER_FIGURES


def published(dataset: str | None, config: str | None) -> dict[str, float]:
    """What the configuration of --Dataset or --config quotes, such as {"iou": 88.29}; empty if nothing.

    Raises:
        UserError: for anything but figures of `utils.metrics.PAPER_FIGURES` and numbers, naming the file.
    """
    path = find_configuration(dataset, config)
    quoted = (read_yaml(path).get("published") or {}) if path else {}
    if not isinstance(quoted, dict) or not all(
        name in PAPER_FIGURES and isinstance(value, int | float) for name, value in quoted.items()
    ):
        raise UserError(f"{path}: published takes numbers in percent, of {', '.join(PAPER_FIGURES)}; it has {quoted}")
    return quoted
