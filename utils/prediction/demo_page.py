"""The page of demo.py: an image in; its mask, its code and the kernel computed from the code out.

Needs Gradio (requirements-demo.txt). Uploads and pictures are in Gradio's temporary folder, GRADIO_TEMP_DIR.
"""

from __future__ import annotations

import html
import itertools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
import torch

from datasets.inputs import claimed_size
from datasets.levels import unfit_white_level
from datasets.lists import read_list
from datasets.load import data_folder, list_path
from datasets.pairing import IMAGE_SUFFIXES, find_cases
from datasets.prepare.sample import infrared_image, ultrasound_image
from utils.common.errors import UserError
from utils.common.pictures import as_rgb8, bars, draw_kernel, overlay, save_png
from utils.prediction.predictor import Picture, Predictor
from utils.report.layer_words import layer_words

MOST_PIXELS = 25_000_000  # of an image on the page
SAMPLES = {"ultrasound": (ultrasound_image, 256), "infrared": (infrared_image, 192)}

HELP = """
Upload an image, or draw a synthetic sample. A network finds targets of the kind that it was trained on.
"""
BARS = "The bars are the numbers of the code, red above 0, blue below."
SLICES = """The grid shows 16 x 16 of the kernel's 3x3 slices: a row for each output channel, a column for each input
channel.
"""
CSS = """
.problem {color: #b00020; font-weight: 600; white-space: pre-line}
.dark .problem {color: #ff8a8a}
.min_value, .max_value {color: inherit !important}
#image .image-frame, #overlay .image-frame, #mask .image-frame, #code .image-frame, #kernel .image-frame {
  padding-top: 2rem;
}
input:focus-visible {outline: 2px solid var(--color-accent) !important; outline-offset: 2px}
footer {display: none !important}
"""


@dataclass(frozen=True)
class Seen:
    """One prediction, kept so that another threshold needs no new one."""

    name: str
    pixels: np.ndarray
    probability: np.ndarray
    seconds: float
    warning: str | None


def build_page(
    weights: Sequence[Path], folder: Path, device: str = "auto", image: Path | None = None, show_data: bool = True
) -> gr.Blocks:
    """The page, to be launched. It opens with an image that is already segmented.

    Args:
        weights: checkpoints of phase 2 to choose from; the first one is chosen.
        folder: for the samples that the page draws; it must be in the system's temporary folder.
        device: see `Predictor`.
        image: to open with. By default it is the first image of the checkpoint's validation list.
        show_data: False opens with a synthetic sample by default, for a page that others can reach.

    Raises:
        UserError: if the first checkpoint cannot be loaded.
    """

    @lru_cache(maxsize=4)
    def predictor(file: str, tta: bool) -> Predictor:
        return Predictor(file, tta=tta, device=device)

    def predict(file: str | None, chosen: str, tta: bool, threshold: float) -> list[Any]:
        """Values of all outputs; the last three are None where the network has no such thing."""
        if file is None:
            return [None, "", *[None] * 6]
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
            return [None, f'<p class="problem" role="alert">{message}</p>', *[None] * 6]
        warning = unfit_white_level([picture.bits], loaded.white_level)
        seen = Seen(path.name, as_rgb8(picture.pixels, loaded.white_level), probability, seconds, warning)
        return [seen, *show(seen, threshold), seen.pixels, *_look_into(loaded, picture)]

    def update(*settings: Any) -> list[Any]:
        *values, text, code, kernel = predict(*settings)
        return [*values, *(gr.update(value=value, visible=value is not None) for value in (text, code, kernel))]

    def show(seen: Seen | None, threshold: float) -> tuple[Any, ...]:
        if seen is None:
            return gr.skip(), gr.skip(), gr.skip()
        mask = seen.probability > threshold
        return _describe(seen, mask), mask.view(np.uint8) * np.uint8(255), overlay(seen.pixels, mask)

    opened, first = str(weights[0]), predictor(str(weights[0]), False)
    found = image or (first_validation_image(first.trained_with) if show_data else None)
    found = found or Path(_sampler("ultrasound", folder)())
    state, said, mask_value, overlay_value, image_value, text, code_value, kernel_value = predict(
        str(found), opened, False, first.threshold
    )
    with gr.Blocks(title="SRS demo", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# SRS: segmentation of weak targets")
        seen = gr.State(state, time_to_live=3600)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(
                    value=state and _copied(found, folder),
                    label="input image",
                    file_types=list(IMAGE_SUFFIXES),
                    height=140,
                    elem_id="file",
                )
                with gr.Row():
                    samples = [gr.Button(f"sample: {look}", size="sm", elem_id=f"sample-{look}") for look in SAMPLES]
                # The end of a path tells more than its beginning: NAME/seg/best.pth.
                names = [("/".join(path.parts[-3:]), str(path)) for path in weights]
                chosen = gr.Dropdown(names, value=opened, label="weights", elem_id="weights")
                threshold = gr.Slider(0, 1, first.threshold, step=0.01, label="threshold", elem_id="threshold")
                tta = gr.Checkbox(label="test-time augmentation (eight rotations and flips)", elem_id="tta")
                gr.Markdown(HELP)
            with gr.Column(scale=3, min_width=280):
                status = gr.HTML(said, elem_id="status")
                with gr.Row():
                    shown = _picture("image", "the input image", image_value)
                    drawn = _picture("overlay", "the input image with the predicted mask outlined", overlay_value)
                    mask = _picture("mask", "the predicted mask, white on black", mask_value)
                about = gr.Markdown(text, visible=text is not None, elem_id="layer")
                with gr.Row():
                    code = _picture("code", "the code of the image as bars", code_value, scale=2, optional=True)
                    kernels = _picture("kernel", "slices of its kernel", kernel_value, scale=1, optional=True)
        everything = [seen, status, mask, drawn, shown, about, code, kernels]
        settings = [file, chosen, tta, threshold]
        gr.on([file.change, chosen.change, tta.change], update, settings, everything, show_progress="minimal")
        threshold.release(show, [seen, threshold], [status, mask, drawn], show_progress="hidden")
        for button, look in zip(samples, SAMPLES, strict=True):
            button.click(_sampler(look, folder), outputs=file, show_progress="hidden")
    return page


def first_validation_image(trained_with: Mapping[str, Any]) -> Path | None:
    """The first image of a checkpoint's validation list; None if its data folder is not found."""
    base, name = trained_with.get("base_dir"), trained_with.get("val_file_dir")
    if not base or not name:
        return None
    try:
        data = data_folder(base)
        cases, _ = find_cases(data, read_list(list_path(data, name))[:1], need_masks=False)
    except UserError:
        return None
    return cases[0].image if cases else None


def _picture(
    label: str, alt: str, value: np.ndarray | None, scale: int | None = None, optional: bool = False
) -> gr.Image:
    return gr.Image(
        value,
        label=label,
        alt_text=alt,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],  # without Gradio's share button, which uploads the picture
        elem_id=label,
        scale=scale,
        visible=value is not None or not optional,
    )


def _copied(image: Path, folder: Path) -> str:
    """The image in the folder: Gradio serves no file of any other."""
    copy = folder / "opened" / image.name
    copy.parent.mkdir(exist_ok=True)
    return str(shutil.copyfile(image, copy))


def _check_size(path: Path) -> None:
    """Raises a UserError for an image that is too large for the page; an unknown size is left to the decoder."""
    width, height = claimed_size(path)
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path.name} has {width}x{height} pixels; this page takes at most {MOST_PIXELS // 10**6} megapixels. "
            "Use predict.py --tile 512 for larger images."
        )


def _describe(seen: Seen, mask: np.ndarray) -> str:
    regions = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[0] - 1
    targets = "1 target" if regions == 1 else f"{regions} targets"
    height, width = mask.shape
    found = f"{width}x{height} pixels, {targets}, {100 * mask.mean():.3g} % of the image ({seen.seconds:.2f} s)"
    warning = f'<p class="problem">warning: {html.escape(seen.warning)}</p>' if seen.warning else ""
    return f"<p><b>{html.escape(seen.name)}</b>: {found}</p>{warning}"


@torch.inference_mode()
def _look_into(predictor: Predictor, picture: Picture) -> tuple[str | None, np.ndarray | None, np.ndarray | None]:
    """What the layer does in words, the code and the kernel as pictures; None for what the network does not have."""
    model, words = predictor.model, layer_words(predictor.model, predictor.trained_with)
    if words is None:
        return None, None, None
    deep = model.deep_features(picture.tensor[None])
    code = bars(model.dpconv.code(deep)[0].numpy())
    text = f"## What {words.name} does\n\n{words.explain()} {BARS}"
    if not words.writes_kernels:
        return text, code, None
    return f"{text} {SLICES}", code, draw_kernel(model.dpconv.kernels(deep)[0].numpy(), count=16, zoom=9)


def _sampler(look: str, folder: Path) -> Callable[[], str]:
    """A function that draws the next sample of that kind into a file in the folder and returns its path."""
    draw, size = SAMPLES[look]
    numbers = itertools.count(1)

    def sample() -> str:
        number = next(numbers)
        gray, _ = draw(np.random.default_rng([0, number]), size)
        path = folder / f"{look}{number}.png"
        save_png(path, gray)
        return str(path)

    return sample
