"""The page of demo.py: an image in; its mask, and the kernel that it has written for DPConv, out.

Requires Gradio (requirements-demo.txt). Uploaded and shown files are in Gradio's temporary folder, GRADIO_TEMP_DIR.
"""

from __future__ import annotations

import html
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
import torch

from datasets.inputs import claimed_size
from datasets.pairing import IMAGE_SUFFIXES
from datasets.prepare.sample import infrared_image, ultrasound_image
from models.protocols import kernel_writer
from utils.common.errors import UserError
from utils.common.pictures import as_rgb8, bars, draw_kernel, overlay, save_png
from utils.prediction.predictor import Picture, Predictor

MOST_PIXELS = 25_000_000  # of an image that the page takes
SAMPLES = {"ultrasound": (ultrasound_image, 256), "infrared": (infrared_image, 192)}

HELP = """
Drop an image, or draw a sample: a synthetic one, for trying the page. Weights trained on other images find little.
"""
KERNEL_HELP = """
**The kernel this image has written.** The frozen encoder's deepest feature is pooled to the *code* g, a number for each
of its channels (the bars). DPConv's kernel is an affine function of it: that of output channel *o* is g · W + V. The
grid shows 16 x 16 of the kernel's 3x3 slices: a row for an output channel, a column for an input channel; red is above
0, blue below.
"""


@dataclass(frozen=True)
class Seen:
    """One prediction, kept while the threshold is moved."""

    name: str
    pixels: np.ndarray
    probability: np.ndarray
    seconds: float


def build_page(weights: Sequence[Path], folder: Path, device: str = "auto") -> gr.Blocks:
    """The page; `launch` it. `weights` are our phase 2 checkpoints, to choose from; samples are written into `folder`.

    Raises:
        UserError: if the first of them, which is shown first, cannot be loaded.
    """

    @lru_cache(maxsize=4)
    def predictor(file: str, tta: bool) -> Predictor:
        return Predictor(file, tta=tta, device=device)

    predictor(str(weights[0]), False)

    def predict(file: str | None, chosen: str, tta: bool, threshold: float) -> tuple[Any, ...]:
        if file is None:
            return (None, "", *[None] * 5)
        path = Path(file)
        try:
            _check_size(path)
            loaded = predictor(chosen, tta)
            started = time.perf_counter()
            picture = loaded.read(path)
            probability = loaded.probabilities([picture])[0]
            seconds = time.perf_counter() - started
        except UserError as error:
            message = html.escape(str(error).replace(str(path), path.name))
            return (None, f'<p class="problem" role="alert">{message}</p>', *[None] * 5)
        seen = Seen(path.name, as_rgb8(picture.pixels, loaded.white_level), probability, seconds)
        return (seen, *show(seen, threshold), seen.pixels, *_draw_kernel(loaded, picture))

    def show(seen: Seen | None, threshold: float) -> tuple[Any, ...]:
        if seen is None:
            return gr.skip(), gr.skip(), gr.skip()
        mask = seen.probability > threshold
        return _describe(seen, mask), mask.view(np.uint8) * np.uint8(255), overlay(seen.pixels, mask)

    with gr.Blocks(title="SRS", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# SRS: weak targets, segmented")
        seen = gr.State(time_to_live=3600)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(label="image", file_types=list(IMAGE_SUFFIXES), height=140, elem_id="file")
                with gr.Row():
                    samples = [gr.Button(f"sample: {look}", size="sm", elem_id=f"sample-{look}") for look in SAMPLES]
                # The end of a path tells more than its beginning: NAME/seg/best.pth.
                names = [("/".join(path.parts[-3:]), str(path)) for path in weights]
                chosen = gr.Dropdown(names, value=str(weights[0]), label="weights", elem_id="weights")
                threshold = gr.Slider(0, 1, 0.5, step=0.01, label="threshold", elem_id="threshold")
                tta = gr.Checkbox(label="average eight rotations and flips (TTA)", elem_id="tta")
                gr.Markdown(HELP)
            with gr.Column(scale=3):
                status = gr.HTML(elem_id="status")
                with gr.Row():
                    image = _picture("image")
                    drawn = _picture("overlay")
                    mask = _picture("mask")
                with gr.Row():
                    with gr.Column(scale=2):
                        code = _picture("code g")
                        gr.Markdown(KERNEL_HELP)
                    with gr.Column(scale=1):
                        kernels = _picture("kernel slices")
        everything = [seen, status, mask, drawn, image, code, kernels]
        settings = [file, chosen, tta, threshold]
        gr.on([file.change, chosen.change, tta.change], predict, settings, everything, show_progress="minimal")
        threshold.release(show, [seen, threshold], [status, mask, drawn], show_progress="hidden")
        for button, look in zip(samples, SAMPLES, strict=True):
            button.click(_sampler(look, folder), outputs=file, show_progress="hidden")
    return page


CSS = ".problem {color: #b00020; font-weight: 600; white-space: pre-line} footer {display: none !important}"


def _picture(label: str) -> gr.Image:
    # Not with Gradio's button that shares a picture: it would upload it.
    buttons = ["download", "fullscreen"]
    return gr.Image(label=label, format="png", interactive=False, buttons=buttons, elem_id=label.replace(" ", "-"))


def _check_size(path: Path) -> None:
    """UserError for an image that a page is not the place for. A header that says nothing is left to the decoder."""
    width, height = claimed_size(path)
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path.name} has {width}x{height} pixels; this page takes up to {MOST_PIXELS // 10**6} megapixels. "
            "predict.py --tile 512 takes larger ones."
        )


def _describe(seen: Seen, mask: np.ndarray) -> str:
    regions = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[0] - 1
    targets = "1 target" if regions == 1 else f"{regions} targets"
    height, width = mask.shape
    found = f"{width}x{height} pixels, {targets}, {100 * mask.mean():.3g} % of the image ({seen.seconds:.2f} s)"
    return f"<p><b>{html.escape(seen.name)}</b>: {found}</p>"


@torch.inference_mode()
def _draw_kernel(predictor: Predictor, picture: Picture) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The code and the kernel; nothing for a network that writes none."""
    layer = kernel_writer(predictor.model)
    if layer is None:
        return None, None
    deep = predictor.model.deep_features(picture.tensor[None])
    code, kernel = layer.code(deep)[0].numpy(), layer.kernels(deep)[0].numpy()
    return bars(code), draw_kernel(kernel, count=16, zoom=9)


def _sampler(look: str, folder: Path) -> Callable[[], str]:
    """A function that draws the next sample of that look into a file in the folder."""
    draw, size = SAMPLES[look]
    numbers = itertools.count(1)

    def sample() -> str:
        number = next(numbers)
        gray, _ = draw(np.random.default_rng([0, number]), size)
        path = folder / f"{look}{number}.png"
        save_png(path, gray)
        return str(path)

    return sample
