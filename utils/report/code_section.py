"""`evaluation.py --code` for the eye: the test of utils/evaluation/code_swap.py in the terminal and as charts."""

from __future__ import annotations

from utils.evaluation.code_swap import IN_WORDS, CodeTest
from utils.report.charts import Chart, histogram
from utils.report.compare import as_text as differences
from utils.report.compare import paired_charts


def as_text(test: CodeTest) -> str:
    """The differences, the spread and the verdict, as the terminal shows them."""
    head = f"each image with its own code (own) and with {IN_WORDS[test.given]} ({test.given}):"
    return "\n".join([head, differences(test.runs, test.found), test.spread(), test.verdict()])


def charts(test: CodeTest) -> list[Chart]:
    """The IoU of each image with both codes, the differences, and how far codes and kernels are from their means."""
    drawn = list(paired_charts(*test.runs))
    for what, values in (("code", test.code_distance), ("kernel", test.kernel_distance)):
        if values:
            percent = [100 * value for value in values]
            text = f"distance of each image's {what} from the mean {what} (%)"
            drawn.append(histogram(f"Spread of the {what}", text, percent, 0, max(*percent, 1e-6)))
    return drawn
