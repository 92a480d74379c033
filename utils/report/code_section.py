"""Text and charts of `evaluation.py --code`, the test of utils/evaluation/code_swap.py."""

from __future__ import annotations

from utils.evaluation.code_swap import IN_WORDS, CodeTest
from utils.report.charts import Chart, histogram
from utils.report.compare import as_text as differences
from utils.report.compare import paired_charts


def as_text(test: CodeTest) -> str:
    """The differences, the spread and the verdict, for the terminal."""
    head = f"each image with its own code (own) and with {IN_WORDS[test.given]} ({test.given}):"
    return "\n".join([head, differences(test.runs, test.found), test.spread(), test.verdict()])


def charts(test: CodeTest) -> list[Chart]:
    """IoU of each image with both codes, the differences, and the distances of codes and kernels from their means."""
    drawn = list(paired_charts(*test.runs))
    for what, values in (("code", test.code_distance), ("kernel", test.kernel_distance)):
        if values:
            percent = [100 * value for value in values]
            text = f"distance of each image's {what} from the mean {what} (%)"
            drawn.append(histogram(f"Spread of the {what}", text, percent, 0, max(*percent, 1e-6)))
    return drawn
