"""What DPConv, or the layer in its place, does to one image: its maps, code and kernel, as numbers and pictures.

The paper's figure of what the kernel changes (section IV, https://arxiv.org/abs/2312.01741), for any image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from models import SRS
from models.protocols import kernel_writer


@dataclass(frozen=True)
class Inside:
    """Of one image, float32; maps (h, w) at 1/8 of its size are means over the channels.

    Attributes:
        deep: what the layer reads, the reconstruction encoder's deepest map.
        before: the segmentation network's deepest map x30, (h, w).
        change: DPConv(x30, deep), which is added to it.
        after: x30 + DPConv(x30, deep).
        strength: the norm of DPConv(x30, deep) over the norm of x30, of all channels.
        code: g, (64,) in DPConv.
        kernel: the generated kernel, (C, C, 3, 3); None for a layer without kernels.
    """

    deep: np.ndarray
    before: np.ndarray
    change: np.ndarray
    after: np.ndarray
    strength: float
    code: np.ndarray
    kernel: np.ndarray | None


@torch.inference_mode()
def look_inside(model: SRS, image: Tensor) -> Inside:
    """Runs the image (1, 3, H, W), normalised, through the network up to its layer, which makes codes."""
    before, deep = model.layer_inputs(image)
    change = model.dpconv(before, deep)
    maps = (_mean_map(x) for x in (deep, before, change, before + change))
    kernel = _array(model.dpconv.kernels(deep)[0]) if kernel_writer(model) else None
    return Inside(*maps, (change.norm() / before.norm()).item(), _array(model.dpconv.code(deep)[0]), kernel)


def deviations(views: Sequence[Inside]) -> list[float]:
    """The distance of each image's kernel from their mean kernel, as a share of the norm of the mean.

    0 throughout means that every image has the same kernel: an ordinary convolution. For a layer without kernels it is
    the distance of the codes.
    """
    made = [view.code if view.kernel is None else view.kernel for view in views]
    mean = np.mean(made, axis=0)
    return [float(np.linalg.norm(one - mean) / np.linalg.norm(mean)) for one in made]


def heat(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(h, w) as (h, w, 3) RGB uint8 from dark (`low`) to bright (`high`), in the colours of viridis."""
    level = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return cv2.applyColorMap(np.rint(255 * level).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]


def _mean_map(x: Tensor) -> np.ndarray:
    return _array(x[0].float().mean(0))


def _array(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
