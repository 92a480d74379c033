"""Decoding of every file before a run starts, so that a damaged file stops a training in its first minute."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from datasets.decode import Decoded, decode, decode_mask
from datasets.pairing import Case
from datasets.problems import raise_problems
from utils.common.errors import UserError
from utils.common.progress import Progress

if TYPE_CHECKING:
    from datasets.kept import Kept

MIN_SIDE = 8  # pixels: the smallest side that the networks accept at original size
ORIENTATIONS = {  # EXIF tag: how a viewer shows the picture
    2: "mirrored",
    3: "rotated by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and rotated by 90 degrees",
    6: "rotated right by 90 degrees",
    7: "mirrored and rotated by 90 degrees",
    8: "rotated left by 90 degrees",
}
UPRIGHT = "e.g. with ImageMagick's mogrify -auto-orient"
THREADS = 4  # decoding releases the interpreter lock; more threads would wait for the disk


def check_cases(
    cases: Sequence[Case],
    problems: Sequence[str],
    fit_masks: bool = False,
    mask_threshold: float | None = None,
    progress: bool = True,
    kept: Kept | None = None,
) -> None:
    """Decode the image and masks of every case and raise one UserError with all problems.

    cases, problems: the two results of `find_cases`; these problems are reported first.
    fit_masks: masks will be resized to their image, so another size is accepted.
    mask_threshold: see `threshold` of `read_mask`.
    progress: show a progress bar.
    kept: stores the decoded images and masks.

    For a case without masks (`Case.masks` empty) only the image is decoded. The UserError contains the number of
    problems and the first 20 kinds, one per line (`datasets.problems`).
    """

    def check(case: Case) -> list[str]:
        look = decode_case(case, fit_masks, mask_threshold)
        if kept is not None and not look.problems:
            kept.add(case, look.image, look.mask)
        return look.problems

    found = list(problems)
    with ThreadPoolExecutor(THREADS) as pool:
        # map keeps the order of the list, so that two runs report the same problems in the same order.
        for of_case in Progress(
            pool.map(check, cases), total=len(cases), desc="checking", unit="case", leave=False, disable=not progress
        ):
            found += of_case
    raise_problems(found)


@dataclass
class Look:
    """A case, as far as it can be decoded.

    image: None if it cannot be decoded.
    mask: (h, w) in {0, 1}; None if it cannot be decoded or there is none.
    mask_orientation: EXIF orientation of the mask files.
    problems: one sentence each.
    """

    image: Decoded | None = None
    mask: np.ndarray | None = None
    mask_orientation: int = 1
    problems: list[str] = field(default_factory=list)


def decode_case(case: Case, fit_masks: bool, mask_threshold: float | None) -> Look:
    """Decodes the files of a case, each once; image and mask are both looked at: one repair round is enough."""
    look = Look()
    try:
        look.image = decode(case.image)
    except UserError as error:
        look.problems.append(str(error))
    if case.masks:
        try:
            look.mask, look.mask_orientation = decode_mask(case.masks, mask_threshold)
        except UserError as error:
            look.problems.append(str(error))
    if look.image is None:
        return look
    height, width = look.image.pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        look.problems.append(
            f"{case.image}: the image must have at least {MIN_SIDE}x{MIN_SIDE} pixels, but has {width}x{height}. "
            "Remove it from the list."
        )
    if look.mask is not None and look.mask.shape != (height, width) and not fit_masks:
        mask_height, mask_width = look.mask.shape
        advice = "If both show the same scene, --fit_masks resizes the mask."
        turned = (mask_width, mask_height) == (height, width)
        for what, orientation in (("image", look.image.orientation), ("mask", look.mask_orientation)):
            if turned and orientation >= 5:
                advice = (
                    f"The {what} has the EXIF orientation {orientation} ({ORIENTATIONS[orientation]} when shown), "
                    f"which is ignored. Save the {what} upright ({UPRIGHT}); --fit_masks would distort the mask."
                )
        look.problems.append(
            f"{case.masks[0]}: the mask has {mask_width}x{mask_height} pixels, but its image {case.image} has "
            f"{width}x{height}. {advice}"
        )
    return look
