"""The code swap test: does the code of an image matter? Each image is predicted with its own code and with another.

A layer such as DPConv computes a code g from the deep feature of an image, and the image affects the layer only through
g. The test therefore needs no training: every image is predicted with its own g, and with another image's g ("swap"),
the mean g of the list ("mean"), or a g of zeros ("zero", which no training image had). The differences are evaluated
image by image, as in `evaluation.py --compare`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datasets.resizing import Shift
from models.protocols import code_maker
from utils.common.distributed import gather
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.common.processes import rank, world_size
from utils.common.runtime import to_device
from utils.evaluation.evaluate import MaskLogits, evaluate
from utils.evaluation.intervals import LEVEL
from utils.evaluation.paired_tests import Paired, compare_figures
from utils.evaluation.read_results import Evaluation
from utils.evaluation.results import Results, write_images

OWN_TOLERANCE = 1e-3  # relative to the largest logit, in float32
IN_WORDS = {"swap": "another image's code", "mean": "the mean code of the list", "zero": "a code of zeros"}


@dataclass(frozen=True)
class CodeTest:
    """The result of the code swap test.

    Attributes:
        given: a key of `IN_WORDS`.
        runs: the evaluations with the images' own codes and with the given ones.
        found: the differences, given minus own, a row for each figure.
        changed: number of images whose pixel counts differ.
        code_distance: for each image, the distance of its code from the mean code, relative to the norm of the mean.
        kernel_distance: the same for its kernel; empty for a layer without kernels.
        kernel_change: for each image, by how much the given code changes its kernel, relative to the kernel's norm;
            empty for a layer without kernels. The kernel of a code of zeros is the part that no image changes.
    """

    given: str
    runs: list[Evaluation]
    found: list[Paired]
    changed: int
    code_distance: list[float]
    kernel_distance: list[float]
    kernel_change: list[float]

    def verdict(self) -> str:
        """The conclusion in words, from the IoU of the images."""
        (iou,) = (row for row in self.found if row.column == "iou")
        if not self.changed:
            return f"No change: with {self.words}, all {iou.n} predictions have the same pixel counts."
        found = f"with {self.words}, {self.changed} of {iou.n} predictions change, and IoU "
        found += f"by {100 * iou.difference:+.2f} points on average (p {iou.p:.2g}"
        if not isnan(iou.low):
            found += f", {100 * LEVEL:.0f} % interval {100 * iou.low:+.2f} to {100 * iou.high:+.2f}"
        by_test, by_interval = iou.p < 1 - LEVEL, iou.low > 0 or iou.high < 0
        if not by_test and not by_interval:
            return f"No effect was found: {found}), which may be due to chance."
        if by_test != by_interval:
            return f"Undecided: {found}); the test and the interval disagree."
        if iou.difference > 0:
            return f"The image's own code is not better: {found})."
        warning = " No training image had such a code." if self.given == "zero" else ""
        return f"The image's own code matters: {found}).{warning}"

    @property
    def words(self) -> str:
        return IN_WORDS[self.given]

    def spread(self) -> str:
        """The differences of codes and kernels between images, in words."""
        parts = {"code": self.code_distance, "kernel": self.kernel_distance}
        words = [
            f"an image's {what} is {100 * np.mean(values):.3g} % from the mean {what} "
            f"(at most {100 * max(values):.3g} %)"
            for what, values in parts.items()
            if values
        ]
        if change := self.kernel_change:
            words.append(
                f"{self.words} changes a kernel by {100 * np.mean(change):.3g} % (at most {100 * max(change):.3g} %)"
            )
        return ", ".join(words)

    def write(self, folder: Path) -> None:
        """Writes `per_image-own.csv` and, e.g., `per_image-swap.csv`: a row per image, in the order of the list."""
        for run in self.runs:
            write_images(folder / f"per_image-{run.label}.csv", run.names, run.columns, range(len(run.names)))

    def summary(self) -> dict[str, Any]:
        """The result for summary.json; None for an undefined figure."""
        figures = {}
        for row in self.found:
            values = asdict(row)
            own, given = values.pop("means")
            kept = {"own": own, self.given: given, **values}
            figures[row.column] = {
                name: None if isinstance(value, float) and isnan(value) else value
                for name, value in kept.items()
                if name not in ("column", "run")
            }
        return {
            "given": self.given,
            "verdict": self.verdict(),
            "images_changed": self.changed,
            "distance_from_mean": {
                what: _mean_and_largest(values)
                for what, values in (("code", self.code_distance), ("kernel", self.kernel_distance))
                if values
            },
            "kernel_change": _mean_and_largest(self.kernel_change) if self.kernel_change else None,
            "figures": figures,
        }


def check_codes(network: nn.Module, given: str) -> None:
    """Checks that the network has a layer that computes a code from a source feature of each image.

    Raises:
        UserError: if it has no such layer, or if the layer does not accept a code.
    """
    layer = code_maker(network)
    if layer is None:
        raise UserError(f"--code {given} requires a layer with a source, such as dpconv; this network has none")
    if not hasattr(layer, "with_code"):
        raise UserError(
            f"--code {given} requires a layer with a method with_code(x, code); {type(layer).__name__} has none"
        )


def run_code_test(
    network: nn.Module,
    loader: DataLoader,
    precision: Precision,
    given: str,
    seed: int,
    shift: Shift | None = (0.0, 0.0),
) -> CodeTest:
    """Evaluates the network with its own codes and with the given ones (collective). `network` is not changed.

    Args:
        given: a key of `IN_WORDS`.
        seed: of the swap.
        shift: see `utils.evaluation.evaluate.MaskLogits`.

    Raises:
        UserError: if the network has no codes or computes something else with its own ones, or if the list contains a
            single image.
    """
    check_codes(network, given)
    if len(loader.dataset) < 2 and given != "zero":
        raise UserError(f"--code {given} requires a list of at least two images")
    plain = copy.deepcopy(network).to(precision.device, memory_format=torch.channels_last).eval()
    layer = plain.dpconv
    _check_own_codes(plain, loader, precision.device, given)
    own = _own_codes(plain, loader, precision)
    others = {
        "swap": lambda: own[torch.from_numpy(partners(len(own), seed))],
        "mean": lambda: own.mean(0, keepdim=True).expand_as(own),
        "zero": lambda: torch.zeros_like(own),
    }[given]()
    results = []
    for codes in (own, others):
        plain.dpconv = _GivenCodes(layer, codes[rank() :: world_size()])
        results.append(evaluate(MaskLogits(plain, precision, shift), loader))
    runs = [_as_run(name, each) for name, each in zip(("own", given), results, strict=True)]
    differing = torch.stack([results[0].counts[name] != results[1].counts[name] for name in results[0].counts])
    kernels_of = getattr(layer, "kernels_of", None)
    own_there, others_there = own.to(precision.device), others.to(precision.device)
    return CodeTest(
        given,
        runs,
        compare_figures(runs),
        int(differing.any(0).sum()),
        _distances(own, lambda codes: codes),
        _distances(own_there, kernels_of) if kernels_of else [],
        _changes(own_there, others_there, kernels_of) if kernels_of else [],
    )


def partners(count: int, seed: int) -> np.ndarray:
    """The image whose code each of `count` images gets: every code is used once, and never for its own image."""
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, int)
    partner[order] = np.roll(order, 1)  # one cycle through all images
    return partner


class _GivenCodes(nn.Module):
    """Replaces a layer and uses the codes of a list, in order."""

    def __init__(self, layer: nn.Module, codes: Tensor) -> None:
        super().__init__()
        self.layer, self.rest = layer, codes

    def forward(self, x: Tensor, deep: Tensor) -> Tensor:
        codes, self.rest = self.rest[: len(x)], self.rest[len(x) :]
        return self.layer.with_code(x, codes.to(x.device))


@torch.inference_mode()
def _check_own_codes(network: nn.Module, loader: DataLoader, device: torch.device, given: str) -> None:
    """Checks that the network gives the same logits if its layer is called with the images' own codes."""
    batch = next(iter(loader), None)
    if batch is None:  # more processes than images
        return
    images = to_device(batch, device)["image"]
    expected, layer = network(images), network.dpconv
    network.dpconv = _GivenCodes(layer, layer.code(network.deep_features(images)))
    found, network.dpconv = network(images), layer
    if (found - expected).abs().max() > OWN_TOLERANCE * expected.abs().max():
        name = type(layer).__name__
        raise UserError(
            f"--code {given}: with each image's own code the network gives other logits than without the test, so that "
            f"the figures would be of another network. {name}.forward(x, deep) must be with_code(x, code(deep)), and "
            "deep_features(image) what the network passes to the layer"
        )


@torch.inference_mode()
def _own_codes(network: nn.Module, loader: DataLoader, precision: Precision) -> Tensor:
    """The codes of the whole list, (N, numbers) float32, on the CPU."""
    found = []
    for batch in loader:
        with precision.autocast():
            images = to_device(batch, precision.device)["image"]
            found += network.dpconv.code(network.deep_features(images)).float().cpu()
    codes = [torch.empty(0)] * len(loader.dataset)
    for process, share in enumerate(gather(found)):
        codes[process :: world_size()] = share
    return torch.stack(codes)


@torch.inference_mode()
def _distances(codes: Tensor, of: Callable[[Tensor], Tensor]) -> list[float]:
    """For each image, the distance of `of(code)` from the mean over the list, relative to the norm of the mean."""
    mean = sum(of(code[None]) / len(codes) for code in codes)
    size = mean.norm().clamp(min=1e-12)
    return [((of(code[None]) - mean).norm() / size).item() for code in codes]


@torch.inference_mode()
def _changes(own: Tensor, given: Tensor, kernels_of: Callable[[Tensor], Tensor]) -> list[float]:
    """For each image, the distance between the kernels of both codes, relative to the norm of the first."""
    found = []
    for codes in zip(own, given, strict=True):
        kernel, changed = (kernels_of(code[None]) for code in codes)
        found.append(((changed - kernel).norm() / kernel.norm().clamp(min=1e-12)).item())
    return found


def _mean_and_largest(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "largest": max(values)}


def _as_run(label: str, results: Results) -> Evaluation:
    tables: list[Mapping[str, Tensor]] = [results.figures, results.of_masks, results.counts]
    columns = {name: values.tolist() for table in tables for name, values in table.items()}
    return Evaluation(Path(), label, results.names, columns, {}, {})
