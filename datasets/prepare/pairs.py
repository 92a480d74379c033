"""Conversion of any pair of image and mask folders to the images/masks/train.txt layout.

    SRC/jpg/a.jpg  SRC/labels/a_gt.png     folder SRC OUT --images jpg --masks labels --mask_pattern '{stem}_gt'

These layouts are detected without flags: those of the infrared sets (NUDT-SIRST, IRSTD-1k), images/ and masks/ or
IRSTD1k_Img/ and IRSTD1k_Label/, with the lists img_idx/train_NAME.txt and test_NAME.txt, or trainval.txt and test.txt;
and a folder per case, CASE/images/ with one image and CASE/masks/ with a mask for each object.
"""

from __future__ import annotations

import re
from pathlib import Path

from datasets import SHARE
from datasets.names import STEM
from datasets.prepare.convert import Converted, advising, convert, listed, pairs, require_folders
from datasets.prepare.division import divide
from datasets.prepare.patterns import listed_names, pairs_by_pattern
from datasets.problems import raise_problems
from utils.common.errors import UserError

LAYOUTS = (("images", "masks"), ("IRSTD1k_Img", "IRSTD1k_Label"))
# A folder per case: its name is that of the case, and all masks in it are merged.
FOLDER_A_CASE = (re.compile(r"(?P<name>.+)/images/[^/]+"), "{name}/masks/*")
LIST_FOLDERS = ("img_idx", "50_50", "")
# The kinds of lists in the source, the first existing one of which is used. A remaining test list becomes test.txt.
KINDS = {"train.txt": ("train", "trainval"), "val.txt": ("val", "test")}


def convert_folders(
    source: Path,
    out: Path,
    images: str | None = None,
    masks: str | None = None,
    mask_pattern: str | None = None,
    image_pattern: re.Pattern[str] | None = None,
    train_list: str | None = None,
    val_list: str | None = None,
    mask_threshold: float | None = None,
    fit_masks: bool = False,
    seed: int = 41,
) -> tuple[Converted, dict[str, Path]]:
    """Converts the images of one folder and the masks of another, or of the same one; also returns the source lists.

    Args:
        source: contains both folders, which may have sub-folders.
        out: created atomically at the end.
        images, masks: the folders (default: those of LAYOUTS).
        mask_pattern: name of a mask without extension, e.g. "{stem}_gt" (default: the rules of `datasets.names`). Files
            with other names are skipped.
        image_pattern: pattern of image names, with groups for mask_pattern; see `datasets.prepare.patterns`.
        train_list, val_list: list files in source, or paths (default: detected, otherwise a random 70/30 division).
        mask_threshold, fit_masks: see `datasets.prepare.convert.convert`.
        seed: random seed of the division.

    Raises:
        UserError: if `out` exists, a folder is missing or empty, no file matches the pattern, an image has no mask or a
            mask no image, a list does not fit, a training case is in another list, or a file cannot be read.
    """
    if image_pattern is not None and mask_pattern is None:
        raise UserError("--image_pattern requires --mask_pattern, which uses its groups, e.g. {1}_manual1")
    if image_pattern is None and mask_pattern is not None and mask_pattern.count(STEM) != 1:
        raise UserError(
            f"--mask_pattern must contain {STEM} exactly once, got {mask_pattern}. With --image_pattern it may contain "
            "its groups, e.g. {1}"
        )
    known = next((layout for layout in LAYOUTS if all((source / folder).is_dir() for folder in layout)), LAYOUTS[0])
    if not any((images, masks, mask_pattern)) and not (source / known[0]).is_dir() and _has_folder_a_case(source):
        known, (image_pattern, mask_pattern) = (".", "."), FOLDER_A_CASE
    images, masks = images or known[0], masks or known[1]
    require_folders(source, images=images, masks=masks)
    if image_pattern is not None:
        cases, left_out = pairs_by_pattern(source, images, masks, image_pattern, mask_pattern)
    else:
        cases, left_out = pairs(source, images, masks, mask_pattern)
    files = _list_files(source, train_list, val_list)
    names = ", ".join(str(file.relative_to(source)) for file in files.values()) if not train_list else ""
    advice = f"The lists were detected by their names: {names}. Choose two with --train_list and --val_list."
    with advising(advice if names else None):
        lists = listed(source, images, files) if image_pattern is None else listed_names(cases, files)
    raise_problems(
        [
            f'"{name}": in both {files["train.txt"]} and {files[other]}. Remove one of the lines, or choose two lists '
            "with --train_list and --val_list."
            for other in lists
            if other != "train.txt"
            for name in sorted(set(lists["train.txt"]) & set(lists[other]))
        ]
    )
    if not lists:
        train, val = divide([case.name for case in cases], SHARE, seed)
        lists = {"train.txt": train, "val.txt": val}
    converted = convert(cases, lists, out, mask_threshold, fit_masks)
    converted.left_out = left_out
    return converted, files


def _has_folder_a_case(source: Path) -> bool:
    return any((path / "images").is_dir() and (path / "masks").is_dir() for path in source.iterdir())


def _list_files(source: Path, train_list: str | None, val_list: str | None) -> dict[str, Path]:
    """{"train.txt": a list file of the source, "val.txt": ..., perhaps "test.txt": ...}; empty if there are none."""
    if train_list or val_list:
        if not (train_list and val_list):
            raise UserError("--train_list and --val_list require each other: pass both")
        given = {"train.txt": train_list, "val.txt": val_list}
        return {name: source / file if (source / file).is_file() else Path(file) for name, file in given.items()}
    for folder in LIST_FOLDERS:
        kinds: dict[str, list[Path]] = {}
        for file in sorted((source / folder).glob("*.txt")):
            if match := re.fullmatch(r"(train|trainval|val|test)([_-].*)?", file.stem, re.IGNORECASE):
                kinds.setdefault(match[1].lower(), []).append(file)
        if not kinds:
            continue
        chosen = {name: next((kind for kind in of if kind in kinds), "") for name, of in KINDS.items()}
        if "test" in kinds and "test" not in chosen.values():
            chosen["test.txt"] = "test"
        if not all(chosen.values()) or any(len(kinds[kind]) > 1 for kind in chosen.values()):
            there = ", ".join(file.name for of_kind in kinds.values() for file in of_kind)
            raise UserError(
                f"{source / folder}: ambiguous lists ({there}). Choose two with --train_list and --val_list"
            )
        return {name: kinds[kind][0] for name, kind in chosen.items()}
    return {}
