"""The images that a report shows: the worst, median and best ones, and what the layer does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.common.pictures import draw_kernel, errors, kernel_slices, signed, tile
from utils.common.progress import Progress
from utils.common.runtime import to_device
from utils.evaluation.evaluate import MaskLogits, predict_case
from utils.evaluation.results import Results
from utils.report.charts import Axis, Chart
from utils.report.dpconv_views import Inside, deviations, heat, look_inside
from utils.report.html_page import exact_uri, photo_uri
from utils.report.layer_words import LayerWords

OF_EACH = 3  # worst, median and best cases each
ZOOM_BELOW = 0.25  # a target smaller than this share of the picture's side is also shown enlarged
MIN_ZOOM = 32  # side of the enlarged part, pixels
SLICES = 8  # output channels and input channels of the kernel in the picture


class Tile(NamedTuple):
    """A picture of the page; the pixels of a `sharp` one are shown as squares."""

    caption: str
    alt: str
    uri: str
    sharp: bool = False


@dataclass(frozen=True)
class CaseView:
    """One image: `group` is "worst", "median" or "best"; without codes `inside` is empty, `code` None."""

    name: str
    group: str
    figures: str
    tiles: list[Tile]
    inside: list[Tile]
    code: Chart | None
    text: str


def choose(count: int) -> list[tuple[str, int]]:
    """("worst" | "median" | "best", rank), up to `OF_EACH` of each, no rank twice; rank 0 is the worst image."""
    each = min(OF_EACH, max(1, count // 3))
    middle = (count - each) // 2
    parts = {"worst": range(each), "median": range(middle, middle + each), "best": range(count - each, count)}
    chosen = {rank: group for group in ("median", "best", "worst") for rank in parts[group]}
    return [(chosen[rank], rank) for rank in sorted(chosen)]


@torch.inference_mode()
def look_at_cases(
    predict: MaskLogits, model: nn.Module, loader: DataLoader, results: Results, layer: LayerWords | None = None
) -> list[CaseView]:
    """Predicts the chosen images once more and draws them.

    Args:
        predict: what evaluated.
        model: the network of the same weights whose layer is looked into.
        loader: of the list.
        results: of the list.
        layer: words for the layer of `model`; None if it makes no codes: nothing is said of it then.
    """
    ranked = results.ranked()
    chosen = [(group, ranked[rank]) for group, rank in choose(len(ranked))]
    tiles: list[list[Tile]] = []
    views: list[Inside] = []
    for _, i in Progress(chosen, desc="drawing cases", unit="img", leave=False):
        tiles.append(_case_tiles(*predict_case(predict, loader, i), results.names[i]))
        if layer:
            image = to_device(loader.collate_fn([loader.dataset[i]]), predict.precision.device)["image"]
            with predict.precision.autocast():
                views.append(look_inside(model, image))
    insides = _draw_insides(views, layer) if layer and views else [([], None, "")] * len(chosen)
    return [
        CaseView(results.names[i], group, _figures(results, i), pictures, *inside)
        for (group, i), pictures, inside in zip(chosen, tiles, insides, strict=True)
    ]


def _figures(results: Results, i: int) -> str:
    return f"IoU {100 * results.figures['iou'][i].item():.1f} %, F1 {100 * results.figures['F1'][i].item():.1f} %"


def _case_tiles(image: np.ndarray, target: np.ndarray, prediction: np.ndarray, name: str) -> list[Tile]:
    wrong = errors(image, target, prediction)
    counts = [int(where.sum()) for where in (target & prediction, target & ~prediction, prediction & ~target)]
    said = "{} pixels found, {} missed, {} false".format(*counts)
    drawn = [
        Tile("image", f"{name}, the image", photo_uri(image)),
        Tile("target", f"{name}, the target: {target.sum()} pixels", exact_uri(tile(target.astype(float))[..., 0])),
        Tile(
            "prediction",
            f"{name}, the prediction: {prediction.sum()} pixels",
            exact_uri(tile(prediction.astype(float))[..., 0]),
        ),
        Tile("errors", f"{name}, the errors: {said}", photo_uri(wrong)),
    ]
    if window := _zoom(target | prediction):
        caption = f"errors, enlarged ({window[0].stop - window[0].start} pixels wide)"
        drawn.append(Tile(caption, f"{name}, the errors around the target", exact_uri(wrong[window]), sharp=True))
    return drawn


def _zoom(where: np.ndarray) -> tuple[slice, slice] | None:
    """A square window around what is small in the picture; None where it is large, or nothing."""
    rows, columns = (np.flatnonzero(where.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    side = min(max(MIN_ZOOM, 2 * extent), *where.shape)
    if extent > ZOOM_BELOW * min(where.shape) or side >= min(where.shape):
        return None
    starts = [
        int(np.clip((found[0] + found[-1] + 1 - side) // 2, 0, size - side))
        for found, size in zip((rows, columns), where.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + int(side)), slice(starts[1], starts[1] + int(side))


def _draw_insides(views: Sequence[Inside], layer: LayerWords) -> list[tuple[list[Tile], Chart, str]]:
    """For each image the maps, the kernel, the code; codes and kernels on one scale, so that they can be compared."""
    low, high = (float(f([f(view.code) for view in views])) for f in (np.min, np.max))
    kernels = [view.kernel for view in views if view.kernel is not None]
    limit = max((float(np.abs(kernel_slices(kernel, SLICES)).max()) for kernel in kernels), default=0.0)
    drawn = []
    for view, deviation in zip(views, deviations(views), strict=True):
        tiles = [] if layer.kernel_source == "self" else [_heat_tile("deep feature of the encoder", view.deep)]
        if view.kernel is not None:
            tiles.append(_kernel_tile(view.kernel, limit))
        change = float(np.abs(view.change).max())
        tiles += [
            _heat_tile("x30 before", view.before),
            Tile(
                f"{layer.name}(x30) (±{change:.3g})",
                f"mean over channels of {layer.name}(x30), which is added to x30",
                exact_uri(signed(view.change, change)),
                sharp=True,
            ),
            _heat_tile(f"x30 + {layer.name}(x30)", view.after),
        ]
        text = f"The norm of {layer.name}(x30) is {view.strength:.3g} times that of x30"
        if len(views) > 1:
            text += f"; the {layer.made} differs by {100 * deviation:.1f} % from the mean {layer.made} of these images"
        drawn.append((tiles, _code_chart(view.code, low, high, layer), text + "."))
    return drawn


def _kernel_tile(kernel: np.ndarray, limit: float) -> Tile:
    return Tile(
        f"{SLICES} x {SLICES} slices of the kernel (±{limit:.2g})",
        "3x3 slices of the kernel: a row for each output channel, a column for each input channel",
        exact_uri(draw_kernel(kernel, SLICES, zoom=3, limit=limit)),
        sharp=True,
    )


def _heat_tile(caption: str, values: np.ndarray) -> Tile:
    low, high = float(values.min()), float(values.max())
    said = f"{caption} ({low:.3g} to {high:.3g})"
    return Tile(said, f"mean over channels of the {said}", exact_uri(heat(values, low, high)), sharp=True)


def _code_chart(code: np.ndarray, low: float, high: float, layer: LayerWords) -> Chart:
    letter = "g" if layer.is_dpconv else "code"
    text = f"{len(code)} numbers" + ("; they scale the kernel's output channels" if layer.is_dpconv else "")
    heading = f"Code g of {layer.name}" if layer.is_dpconv else f"Code of {layer.name}"
    low, high = min(low, 0), max(high, 0)
    chart = Chart(heading, text, Axis("number", 0, len(code)), Axis(letter, low, high if high > low else 1))
    for i, value in enumerate(code.tolist()):
        chart.bar(i, i + 1, value, f"{letter}[{i}] = {value:.3g}")
    return chart
