"""Conversion of BUSI, as its authors distribute it, to the images/masks/train.txt layout.

Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 2020, https://doi.org/10.1016/j.dib.2019.104863

    SRC/benign/benign (4).png          OUT/images/benign (4).png     (a copy of the file)
    SRC/benign/benign (4)_mask.png     OUT/masks/benign (4).png      (the union of its masks, 0 and 255)
    SRC/benign/benign (4)_mask_1.png   OUT/train.txt  OUT/val.txt    (70/30, stratified by class)
    SRC/malignant/...  SRC/normal/...
"""

from __future__ import annotations

from pathlib import Path

from datasets import SHARE
from datasets.files import contents
from datasets.prepare.convert import Converted, convert, pairs
from datasets.prepare.division import divide
from utils.common.errors import UserError

LESIONS = ("benign", "malignant")
NORMAL = "normal"


def convert_busi(source: Path, out: Path, normals: bool = False, seed: int = 41, fit_masks: bool = False) -> Converted:
    """Converts the raw class folders.

    Args:
        source: contains benign/, malignant/ and, for `normals`, normal/.
        out: created atomically at the end.
        normals: keep the images without a lesion (their masks are empty).
        seed: random seed of the division into training and validation.
        fit_masks: resize masks whose size differs from their image's.

    Raises:
        UserError: if `out` exists, a folder is missing, an image has no mask or a mask of another size, or a file
            cannot be read.
    """
    cases, classes = [], []
    for name in (*LESIONS, *([NORMAL] if normals else [])):
        if not (source / name).is_dir():
            raise UserError(
                f"{source / name} was not found. {source} must contain BUSI's folders benign, malignant and normal, "
                f"but contains {contents(source)}"
            )
        of_class, _ = pairs(source, name, name, "_mask")
        cases += of_class
        classes += [name] * len(of_class)
    train, val = divide([case.name for case in cases], SHARE, seed, classes)
    return convert(cases, {"train.txt": train, "val.txt": val}, out, fit_masks=fit_masks)
