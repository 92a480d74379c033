"""Draws docs/pictures/method_run.png, ten images of a list and what DPConv makes of them, from a run.

make demo
PYTHONPATH=. python docs/pictures/draw_method.py checkpoints/demo/seg/best.pth docs/pictures/method_run.png
"""

from __future__ import annotations

import sys

import cv2
import numpy as np
import torch
from PIL import Image

import evaluation
from utils.common.pictures import bars, caption, draw_kernel, errors, grid, signed
from utils.evaluation.code_swap import partners
from utils.settings.data_loaders import checked_cases, evaluation_loader

IMAGES, SIDE = 10, 64


@torch.inference_mode()
def draw(weights: str) -> np.ndarray:
    """A row for each image: the image; the code g; slices of the kernel; DPConv's term; the errors of the prediction
    with its own code, and with another image's."""
    args = evaluation.settings(["--weights", weights, "--workers", "0"])
    network, _ = evaluation.load_model(args)
    cases = checked_cases(args, {"validation": args.val_file_dir})["validation"][:IMAGES]
    loader = evaluation_loader(args, cases, IMAGES)
    (batch,) = loader
    x, deep = network.layer_inputs(batch["image"])
    code = network.dpconv.code(deep)
    kernels, term = network.dpconv.kernels_of(code).numpy(), network.dpconv.with_code(x, code).mean(1).numpy()
    others = code[torch.from_numpy(partners(len(code), args.seed))]
    own = network(batch["image"])[:, 0].numpy() > 0
    network.dpconv.code = lambda deep: others
    swapped = network(batch["image"])[:, 0].numpy() > 0
    spread = code - code.mean(0)
    rows, captions = [], []
    for i, case in enumerate(cases):
        image, target = loader.dataset.picture(batch["image"][i]), batch["mask"][i, 0].numpy() > 0.5
        row = [image, draw_kernel(kernels[i] - kernels.mean(0), 8, 3), signed(term[i], np.abs(term).max())]
        row += [errors(image, target, predicted[i]) for predicted in (own, swapped)]
        square = [cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) for picture in row]
        rows.append([*square[:1], bars(spread[i].numpy(), SIDE, 4), *square[1:]])
        ious = [100 * (target & p[i]).sum() / max((target | p[i]).sum(), 1) for p in (own, swapped)]
        captions.append(f"{case.name}: IoU {ious[0]:.1f} with its own code, {ious[1]:.1f} with another image's")
    picture = grid(rows, captions)
    columns = "image | code - mean | kernel - mean | DPConv(x30) | errors: own code | another image's code"
    return np.vstack([caption(columns, picture.shape[1]), picture])


if __name__ == "__main__":
    Image.fromarray(draw(sys.argv[1])).save(sys.argv[2], optimize=True)
