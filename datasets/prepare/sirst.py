"""Conversion of SIRST, versions 1 and 2 as their authors distribute them, to the images/masks/list layout.

Dai et al., Asymmetric Contextual Modulation for Infrared Small Target Detection, WACV 2021, https://arxiv.org/abs/2009.14530

    version 1: SRC/images/Misc_1.png  SRC/masks/Misc_1_pixels0.png              SRC/idx_427/trainval.txt ...
    version 2: SRC/mixed/S1_1.png     SRC/annotations/masks/S1_1_pixels0.png    SRC/splits/trainval_full.txt ...
    becomes:   OUT/images/Misc_1.png  OUT/masks/Misc_1.png                      OUT/lists/trainval.txt ...

If the source has no lists, a random 70/30 division is written to OUT/lists/train.txt and OUT/lists/val.txt.
"""

from __future__ import annotations

from pathlib import Path

from datasets import SHARE
from datasets.files import contents
from datasets.prepare.convert import Converted, advising, convert, listed, pairs
from datasets.prepare.division import divide
from utils.common.errors import UserError

LAYOUTS = (("mixed", "annotations/masks"), ("images", "masks"))  # version 2 also has an images/ with other content
LIST_FOLDERS = ("lists", "idx_427", "idx_*", "splits", "img_idx", ".")


def convert_sirst(source: Path, out: Path, seed: int = 41) -> Converted:
    """Converts images, masks and lists; a mask with another size than its image (Misc_111) is resized.

    Args:
        source: as distributed.
        out: created atomically at the end.
        seed: random seed of the division, if the source has no lists.

    Raises:
        UserError: if `out` exists, a folder is missing, an image has no mask or a mask no image, or a file cannot be
            read.
    """
    layouts = [layout for layout in LAYOUTS if all((source / folder).is_dir() for folder in layout)]
    if not layouts:
        expected = " or ".join(" and ".join(layout) for layout in LAYOUTS)
        raise UserError(
            f"{source} must be the folder of SIRST as distributed, with {expected}, but contains {contents(source)}"
        )
    images, masks = layouts[0]
    cases, _ = pairs(source, images, masks)
    files = list_files(source)
    with advising(
        f"Every .txt file in {files[0].parent} is taken for a list. Move other files away." if files else None
    ):
        lists = listed(source, images, {f"lists/{file.name}": file for file in files})
    if not lists:
        train, val = divide([case.name for case in cases], SHARE, seed)
        lists = {"lists/train.txt": train, "lists/val.txt": val}
    return convert(cases, lists, out, fit_masks=True)


def list_files(source: Path) -> list[Path]:
    """The list files of the first of LIST_FOLDERS that contains any."""
    for pattern in LIST_FOLDERS:
        for folder in [source] if pattern == "." else sorted(source.glob(pattern)):
            if files := sorted(file for file in folder.glob("*.txt") if not file.name.startswith(".")):
                return files
    return []
