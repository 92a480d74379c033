"""A survey of a data set before training: its contents, errors and warnings.

Errors are problems that training rejects too (`datasets.checks`): missing, unreadable or ambiguous files, and cases
listed twice. Warnings are problems that training would accept silently: empty masks, targets too small for the size to
which the image is resized, and pictures that are in both lists under two names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.checks import ORIENTATIONS, THREADS, UPRIGHT, Look, decode_case
from datasets.decode import digest, to_rgb
from datasets.known_divisions import remarks
from datasets.levels import bits_in_use, unfit_white_level
from datasets.lists import read_list
from datasets.load import data_folder, list_path
from datasets.pairing import Case, find_cases, image_files, shared_masks
from datasets.prepare.near_duplicates import duplicates_across, duplicates_in_list, perceptual_hash
from datasets.problems import grouped
from datasets.resizing import too_small_targets
from utils.common.errors import UserError
from utils.common.printable import one_line, some
from utils.common.progress import Progress
from utils.common.tables import aligned


@dataclass
class Facts:
    """The properties of a readable case."""

    size: tuple[int, int]  # width, height of the image, pixels
    kind: str  # such as "PNG RGB"
    share: float  # of the pixels that are target
    components: list[int]  # areas of the 8-connected targets, pixels
    too_small: int  # number of targets that are too small for img_size
    digest: str  # of the decoded pixels
    mask_digest: str
    phash: int  # perceptual hash, 64 bits
    bits: int  # number of bits in use in a 16-bit image; 0 for an 8-bit one
    largest: int  # largest value of a 16-bit image; 0 for an 8-bit one
    orientation: int  # EXIF tag of the image, or of its masks if only they have one; 1 is upright


@dataclass
class Survey:
    """The findings of all lists."""

    lists: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # about published lists
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"lists": self.lists, "remarks": self.remarks, "errors": self.errors, "warnings": self.warnings}


def survey(
    base_dir: Path,
    lists: Sequence[str],
    img_size: int,
    mask_suffix: str | None = None,
    mask_threshold: float | None = None,
    fit_masks: bool = False,
    mask_interpolation: str = "exact",
    white_level: int | str | None = None,
) -> Survey:
    """Surveys every case of the lists (names or paths, as in `--train_file_dir`) and finds unlisted images.

    Args:
        base_dir: the data folder, with the layout of `datasets.pairing.LAYOUT`.
        img_size: side length to which images will be resized, to find targets that are too small for it.
        mask_suffix, mask_threshold, fit_masks, mask_interpolation, white_level: as in training.

    Raises:
        UserError: if the folder is missing. Problems of lists and files are findings.
    """
    base = data_folder(base_dir)
    result = Survey()
    cases: dict[str, list[Case]] = {}
    name_of: dict[str, str] = {}
    for name in lists:
        path = list_path(base, name)
        if (file := os.path.realpath(path)) in name_of:
            result.errors.append(f"--lists: {name_of[file]} and {name} are the same file. Pass it once.")
            continue
        name_of[file] = name
        try:
            entries = read_list(path)
        except UserError as error:
            result.errors.append(str(error))
            continue
        cases[name], problems = find_cases(base, entries, mask_suffix)
        result.errors += [f"{name}: {problem}" for problem in problems]
    result.remarks += remarks({name: [case.name for case in of_list] for name, of_list in cases.items()})
    facts: dict[str, dict[str, Facts]] = {}
    seen: dict[Case, tuple[list[str], Facts | None]] = {}

    def look(case: Case) -> tuple[list[str], Facts | None]:
        if case not in seen:  # cases may be in several lists
            decoded = decode_case(case, fit_masks, mask_threshold)
            facts = None if decoded.problems else _facts(decoded, img_size, mask_interpolation)
            seen[case] = decoded.problems, facts
        return seen[case]

    for name, of_list in cases.items():
        facts[name] = _look(of_list, name, look, img_size, mask_interpolation, result)
        result.lists[name] = _figures(len(of_list), facts[name].values())
        result.warnings += [f"{name}: {finding}" for finding in _orientations(facts[name])]
        result.warnings += [f"{name}: {finding}" for finding in _levels(facts[name], white_level)]
    _compare_lists(cases, facts, result)
    listed = {case.image for of_list in cases.values() for case in of_list}
    unlisted = sorted(path.name for path in image_files(base / "images") if path not in listed)
    if unlisted:
        result.warnings.append(f"{len(unlisted)} images are in no list: {some(unlisted, 10)}")
    return result


def table(result: Survey) -> str:
    """The survey as text for the terminal."""
    names = list(result.lists)
    rows = [("", *names)]
    keys = dict.fromkeys(key for figures in result.lists.values() for key in figures)
    rows += [(key, *(result.lists[name].get(key, "") for name in names)) for key in keys]
    lines = [aligned(rows), *result.remarks]
    for kind, consequence, findings in (
        ("error", ", which training will reject", result.errors),
        ("warning", "", result.warnings),
    ):
        plural = "" if len(findings) == 1 else "s"
        lines.append(f"\n{len(findings)} {kind}{plural}" + (f"{consequence}:" if findings else ""))
        shown = grouped(findings, names) if kind == "error" else findings
        lines += [f"  {one_line(finding)}" for finding in shown]
    return "\n".join(lines)


def _look(
    cases: Sequence[Case],
    name: str,
    look: Callable[[Case], tuple[list[str], Facts | None]],
    img_size: int,
    mask_interpolation: str,
    result: Survey,
) -> dict[str, Facts]:
    """The facts of the readable cases of one list; findings about single cases are added to the result."""
    facts = {}
    with ThreadPoolExecutor(THREADS) as pool:
        looks = Progress(pool.map(look, cases), total=len(cases), desc=name, unit="case", leave=False)
        for case, (problems, of_case) in zip(cases, looks, strict=True):
            result.errors += [f"{name}: {problem}" for problem in problems]
            if of_case is not None:
                facts[case.name] = of_case
    consequence = "lost" if mask_interpolation == "nearest" else "kept as one pixel"
    small = f"images have targets that are too small for --img_size {img_size} (they are {consequence})"
    for what, chosen in (
        ("masks are empty", [case for case, fact in facts.items() if not fact.components]),
        (small, [case for case, fact in facts.items() if fact.too_small]),
    ):
        if chosen:
            result.warnings.append(f"{name}: {len(chosen)} {what}: {some(chosen, 10)}")
    return facts


def _facts(look: Look, img_size: int, mask_interpolation: str) -> Facts:
    pixels, mask = look.image.colours, look.mask
    image = _least_channels(pixels)
    height, width = image.shape[:2]
    deep = pixels.dtype == np.uint16
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return Facts(
        size=(width, height),
        kind=look.image.kind,
        share=float(mask.mean()),
        components=stats[1:, cv2.CC_STAT_AREA].tolist(),
        too_small=too_small_targets(mask, (img_size, img_size), mask_interpolation),
        digest=digest(image),
        mask_digest=digest(mask),
        phash=perceptual_hash(image),
        bits=bits_in_use(pixels),
        largest=int(pixels.max()) if deep else 0,
        orientation=look.image.orientation if look.image.orientation > 1 else look.mask_orientation,
    )


def _least_channels(pixels: np.ndarray) -> np.ndarray:
    """The pixels as in `to_rgb`, but one channel if all are equal, so that gray and RGB files of a picture agree."""
    if pixels.dtype != np.uint8:
        pixels = to_rgb(pixels)
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return np.ascontiguousarray(pixels)


def _orientations(facts: Mapping[str, Facts]) -> list[str]:
    """Findings about images and masks that viewers rotate."""
    tagged: dict[int, list[str]] = {}
    for name, fact in facts.items():
        if fact.orientation > 1:
            tagged.setdefault(fact.orientation, []).append(name)
    return [
        f"{len(names)} images or their masks have the EXIF orientation {tag} ({ORIENTATIONS[tag]} when shown), which "
        "is ignored, so that a mask drawn on the displayed picture does not match. "
        f"Save them upright ({UPRIGHT}): {some(names, 10)}"
        for tag, names in sorted(tagged.items())
    ]


def _levels(facts: Mapping[str, Facts], white_level: int | str | None) -> list[str]:
    """Findings about the brightness of 16-bit images."""
    bits = Counter(fact.bits for fact in facts.values())
    if not bits or set(bits) == {0}:
        return []
    (usual, _), *_ = bits.most_common()
    found = []
    if white_level is None and (warning := unfit_white_level((fact.bits for fact in facts.values()), None)):
        found.append(warning)
    if odd := [f"{name} ({fact.bits or 'an 8-bit file'})" for name, fact in facts.items() if fact.bits != usual]:
        most = f"{usual} bits" if usual else "8-bit files"
        found.append(f"{len(odd)} images use another number of bits than most ({most}): {some(odd, 10)}")
    if isinstance(white_level, int):
        above = [name for name, fact in facts.items() if fact.largest > white_level]
        if above:
            found.append(
                f"{len(above)} images have values above --white_level {white_level}, which are clipped: "
                f"{some(above, 10)}"
            )
    return found


def _figures(count: int, facts: Any) -> dict[str, Any]:
    """The column of a list in the table."""
    facts = list(facts)
    figures: dict[str, Any] = {"cases": count, "readable": len(facts)}
    if not facts:
        return figures
    areas = sorted(area for fact in facts for area in fact.components)
    shares = sorted(fact.share for fact in facts)
    widths, heights = zip(*(fact.size for fact in facts), strict=True)
    figures["width x height"] = f"{min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}"
    figures["sizes"] = len(Counter(fact.size for fact in facts))
    figures["formats"] = ", ".join(f"{n} {kind}" for kind, n in Counter(fact.kind for fact in facts).most_common())
    if any(fact.bits for fact in facts):
        bits = Counter(fact.bits or 8 for fact in facts)
        figures["bits in use"] = ", ".join(f"{n} {of}" for of, n in bits.most_common())
    figures["empty masks"] = sum(not fact.components for fact in facts)
    figures["target share %"] = " / ".join(f"{100 * value:.3g}" for value in _spread(shares))
    if areas:
        figures["target area px"] = " / ".join(f"{value:g}" for value in _spread(areas))
    figures["targets"] = len(areas)
    figures["too small targets"] = sum(fact.too_small for fact in facts)
    return figures


def _compare_lists(cases: Mapping[str, list[Case]], facts: Mapping[str, dict[str, Facts]], result: Survey) -> None:
    """Finds duplicates within and between lists: by name (errors), and identical or similar pictures (warnings)."""
    exact = [f"{name}: {finding}" for name in cases for finding in duplicates_in_list(facts[name])]
    near: list[str] = []
    for one, other in combinations(cases, 2):
        shared = {case.name for case in cases[one]} & {case.name for case in cases[other]}
        if shared:
            result.errors.append(f"{len(shared)} cases are in both {one} and {other}: {some(sorted(shared), 10)}")
        if masks := [mask.name for mask in shared_masks(cases[one], cases[other])]:
            result.errors.append(f"{len(masks)} masks belong to two cases, in {one} and in {other}: {some(masks, 10)}")
        a, b = ({name: fact for name, fact in facts[of].items() if name not in shared} for of in (one, other))
        same, nearly = duplicates_across(one, a, other, b)
        exact += same
        near += nearly
    result.warnings += exact + near


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], float(np.median(values)), values[-1]
