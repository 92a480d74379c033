"""A look at a whole data set before anything is trained on it: what is there, what is odd, what would be wrong.

Errors are what training refuses itself (`datasets.checks`): files that are missing, unreadable or ambiguous, a case
listed twice. Warnings are what it would silently learn from or be measured on: empty masks, targets too small for the
size the image is resized to, pictures that stand in both lists under two names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.checks import THREADS, case_problems
from datasets.decode import digest, read_image, read_mask
from datasets.lists import read_list
from datasets.load import data_folder, list_path
from datasets.pairing import Case, find_cases, image_files
from datasets.resizing import too_small_targets
from utils.errors import UserError
from utils.tables import aligned

NEAR = 4  # bits of 64 by which two perceptual hashes may differ to be called near duplicates


@dataclass
class Facts:
    """What one readable case is."""

    size: tuple[int, int]  # width, height of the image, pixels
    kind: str  # such as "PNG RGB"
    share: float  # of the pixels that are target
    components: list[int]  # areas of the 8-connected targets, pixels
    too_small: int  # targets for img_size: lost, or one pixel of them kept
    digest: str  # of the decoded pixels
    phash: int  # perceptual hash, 64 bits


@dataclass
class Survey:
    """The findings of all lists."""

    lists: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"lists": self.lists, "errors": self.errors, "warnings": self.warnings}


def survey(
    base_dir: Path,
    lists: Sequence[str],
    img_size: int,
    mask_suffix: str | None = None,
    mask_threshold: float | None = None,
    fit_masks: bool = False,
    mask_interpolation: str = "exact",
) -> Survey:
    """Looks at every case of the lists (names or paths, as `--train_file_dir` takes them) and at what is in no list.

    Args:
        base_dir: the data folder, as `datasets.pairing.LAYOUT`.
        img_size: side the images will be resized to, to find targets too small for it.
        mask_suffix, mask_threshold, fit_masks, mask_interpolation: as in training.

    Raises:
        UserError: if the folder is missing. Whatever is wrong with lists and files is a finding.
    """
    base = data_folder(base_dir)
    result = Survey()
    cases: dict[str, list[Case]] = {}
    for name in lists:
        try:
            entries = read_list(list_path(base, name))
        except UserError as error:
            result.errors.append(str(error))
            continue
        cases[name], problems = find_cases(base, entries, mask_suffix)
        result.errors += [f"{name}: {problem}" for problem in problems]
    facts: dict[str, dict[str, Facts]] = {}
    for name, of_list in cases.items():
        facts[name] = _look(of_list, name, img_size, mask_threshold, fit_masks, mask_interpolation, result)
        result.lists[name] = _figures(len(of_list), facts[name].values())
    _compare_lists(cases, facts, result)
    listed = {case.image for of_list in cases.values() for case in of_list}
    unlisted = sorted(path.name for path in image_files(base / "images") if path not in listed)
    if unlisted:
        result.warnings.append(f"{len(unlisted)} images are in no list: {_some(unlisted)}")
    return result


def table(result: Survey) -> str:
    """The survey as the terminal shows it."""
    names = list(result.lists)
    rows = [("", *names)]
    keys = dict.fromkeys(key for figures in result.lists.values() for key in figures)
    rows += [(key, *(result.lists[name].get(key, "") for name in names)) for key in keys]
    lines = [aligned(rows)]
    for kind, consequence, findings in (
        ("error", ", training would be wrong", result.errors),
        ("warning", "", result.warnings),
    ):
        plural = "" if len(findings) == 1 else "s"
        lines.append(f"\n{len(findings)} {kind}{plural}" + (f"{consequence}:" if findings else ""))
        lines += [f"  {finding}" for finding in findings]
    return "\n".join(lines)


def _look(
    cases: Sequence[Case],
    name: str,
    img_size: int,
    threshold: float | None,
    fit_masks: bool,
    mask_interpolation: str,
    result: Survey,
) -> dict[str, Facts]:
    """The facts of the readable cases of one list; the findings about single cases go into the result."""

    def look(case: Case) -> tuple[list[str], Facts | None]:
        problems = case_problems(case, fit_masks, threshold)
        return problems, None if problems else _facts(case, img_size, threshold, mask_interpolation)

    facts = {}
    with ThreadPoolExecutor(THREADS) as pool:
        looks = tqdm(pool.map(look, cases), total=len(cases), desc=name, unit="case", leave=False)
        for case, (problems, of_case) in zip(cases, looks, strict=True):
            result.errors += [f"{name}: {problem}" for problem in problems]
            if of_case is not None:
                facts[case.name] = of_case
    consequence = "lost" if mask_interpolation == "nearest" else "kept as one pixel"
    small = f"images have targets too small for --img_size {img_size} (they are {consequence})"
    for what, chosen in (
        ("masks are empty", [case for case, fact in facts.items() if not fact.components]),
        (small, [case for case, fact in facts.items() if fact.too_small]),
    ):
        if chosen:
            result.warnings.append(f"{name}: {len(chosen)} {what}: {_some(chosen)}")
    return facts


def _facts(case: Case, img_size: int, threshold: float | None, mask_interpolation: str) -> Facts:
    image, mask = read_image(case.image), read_mask(case.masks, threshold)
    with Image.open(case.image) as header:
        kind = f"{header.format} {header.mode}"
    height, width = image.shape[:2]
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return Facts(
        size=(width, height),
        kind=kind,
        share=float(mask.mean()),
        components=stats[1:, cv2.CC_STAT_AREA].tolist(),
        too_small=too_small_targets(mask, (img_size, img_size), mask_interpolation),
        digest=digest(image),
        phash=perceptual_hash(image),
    )


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits that survive resizing, compression and a change of brightness: the signs of the lowest frequencies."""
    gray = cv2.resize(image.astype(np.float32).mean(axis=2), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(gray)[:8, :8].flatten()
    bits = low > np.median(low[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


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
    figures["empty masks"] = sum(not fact.components for fact in facts)
    figures["target share %"] = " / ".join(f"{100 * value:.3g}" for value in _spread(shares))
    if areas:
        figures["target area px"] = " / ".join(f"{value:g}" for value in _spread(areas))
    figures["targets"] = len(areas)
    figures["too small targets"] = sum(fact.too_small for fact in facts)
    return figures


def _compare_lists(cases: Mapping[str, list[Case]], facts: Mapping[str, dict[str, Facts]], result: Survey) -> None:
    """What stands in two lists: by name (an error), pixel for pixel, or nearly (warnings)."""
    for one, other in combinations(cases, 2):
        shared = {case.name for case in cases[one]} & {case.name for case in cases[other]}
        if shared:
            result.errors.append(f"{len(shared)} cases stand in {one} and in {other}: {_some(sorted(shared))}")
        for a, fact_a in facts[one].items():
            for b, fact_b in facts[other].items():
                if a in shared or b in shared:
                    continue
                pair = f'"{a}" in {one} and "{b}" in {other}'
                distance = (fact_a.phash ^ fact_b.phash).bit_count()
                if fact_a.digest == fact_b.digest:
                    result.warnings.append(f"{pair} are the same picture")
                elif distance <= NEAR:
                    result.warnings.append(f"{pair} are nearly the same picture ({distance} of 64 bits differ)")


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], float(np.median(values)), values[-1]


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
