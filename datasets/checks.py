"""A look at every file before a run starts: a broken file should stop a training in its first minute, not at night."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from datasets.decode import read_image, read_mask
from datasets.pairing import Case
from utils.errors import UserError

_SHOWN = 20
MIN_SIDE = 8  # pixels: what the networks take at the least, where images keep their size
THREADS = 4  # decoding releases the interpreter lock; more threads than this wait for the disk


def check_cases(
    cases: Sequence[Case],
    problems: Sequence[str],
    fit_masks: bool = False,
    mask_threshold: float | None = None,
    progress: bool = True,
) -> None:
    """Decode the image and masks of every case and raise one UserError that names all that is wrong.

    cases, problems: the two results of `find_cases`; the problems are reported first.
    fit_masks: masks are going to be resized to their image, so another size is no problem.
    mask_threshold: as `threshold` of `read_mask`.
    progress: show a progress bar.

    A case without masks (`Case.masks` empty) has only its image decoded. Returns if nothing is wrong. The UserError
    gives the number of problems and the first 20, one per line.
    """

    def check(case: Case) -> list[str]:
        return case_problems(case, fit_masks, mask_threshold)

    found = list(problems)
    with ThreadPoolExecutor(THREADS) as pool:
        # map keeps the order of the list: two runs report the same problems in the same order.
        for of_case in tqdm(
            pool.map(check, cases), total=len(cases), desc="checking", unit="case", leave=False, disable=not progress
        ):
            found += of_case
    raise_problems(found)


def raise_problems(found: Sequence[str]) -> None:
    """One UserError with the number of problems and the first 20 of them, one a line; none if there are none."""
    if found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        first = f"; the first {_SHOWN}:" if len(found) > _SHOWN else ":"
        raise UserError(f"{count} in the data{first}\n" + "\n".join(f"  {problem}" for problem in found[:_SHOWN]))


def case_problems(case: Case, fit_masks: bool, mask_threshold: float | None) -> list[str]:
    """What is wrong with one case; image and mask are both looked at, so that one repair round is enough."""
    return decode_case(case, fit_masks, mask_threshold)[2]


def decode_case(
    case: Case, fit_masks: bool, mask_threshold: float | None
) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """The image (H, W, 3) and mask (h, w) in {0, 1} of a case, as far as they can be decoded, and what is wrong."""
    problems: list[str] = []
    image = mask = None
    try:
        image = read_image(case.image)
    except UserError as error:
        problems.append(str(error))
    if case.masks:
        try:
            mask = read_mask(case.masks, mask_threshold)
        except UserError as error:
            problems.append(str(error))
    if image is not None and min(image.shape[:2]) < MIN_SIDE:
        problems.append(
            f"{case.image}: {image.shape[1]}x{image.shape[0]} pixels, too small for the networks "
            f"(under {MIN_SIDE}x{MIN_SIDE}). Take it off the list."
        )
    if image is not None and mask is not None and image.shape[:2] != mask.shape and not fit_masks:
        (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
        problems.append(
            f"{case.masks[0]}: the mask is {mask_width}x{mask_height} pixels, its image {case.image} {width}x{height}. "
            "If both show the same scene, --fit_masks resizes the mask."
        )
    return image, mask, problems
