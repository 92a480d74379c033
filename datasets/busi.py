"""BUSI as its authors distribute it, brought into the images/masks/train.txt layout.

Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 2020, https://doi.org/10.1016/j.dib.2019.104863

    SRC/benign/benign (4).png          OUT/images/benign (4).png     (the file as it is)
    SRC/benign/benign (4)_mask.png     OUT/masks/benign (4).png      (the union of its masks, 0 and 255)
    SRC/benign/benign (4)_mask_1.png   OUT/train.txt  OUT/val.txt    (70/30, each class alike)
    SRC/malignant/...  SRC/normal/...
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import cv2
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from datasets.decode import read_image, read_mask
from datasets.lists import write_list
from utils.errors import UserError

LESIONS = ("benign", "malignant")
NORMAL = "normal"
VAL_SHARE = 0.3


def convert_busi(source: Path, out: Path, normals: bool = False, seed: int = 41) -> dict[str, int]:
    """Converts the raw class folders; returns how many cases of each class, and how many had several masks.

    Args:
        source: holds benign/, malignant/ and, for `normals`, normal/.
        out: is made; it appears whole, at the end.
        normals: keep the images without a lesion (their masks are empty).
        seed: of the division into training and validation.

    Raises:
        UserError: if `out` exists, a folder is missing, an image has no mask or another size than it, or a file cannot
            be read.
    """
    if out.exists():
        raise UserError(f"{out} is there already; remove it or name another folder")
    cases = [case for name in (*LESIONS, *([NORMAL] if normals else [])) for case in _cases(source, name)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        whole = Path(scratch) / out.name
        for folder in ("images", "masks"):
            (whole / folder).mkdir(parents=True)
        for _, image, masks in tqdm(cases, desc="converting", unit="img"):
            _convert(image, masks, whole)
        classes = [name for name, _, _ in cases]
        train, val = train_test_split(
            [image.stem for _, image, _ in cases], test_size=VAL_SHARE, random_state=seed, stratify=classes
        )
        write_list(whole / "train.txt", train)
        write_list(whole / "val.txt", val)
        whole.replace(out)
    counts = {name: classes.count(name) for name in dict.fromkeys(classes)}
    return {**counts, "with several masks": sum(len(masks) > 1 for _, _, masks in cases)}


def _cases(source: Path, name: str) -> list[tuple[str, Path, list[Path]]]:
    """(class, image, masks) of one class folder, in the order of their numbers."""
    folder = source / name
    if not folder.is_dir():
        raise UserError(f"{folder} is not there; {source} should hold BUSI's folders benign, malignant and normal")
    images, masks = [], {}
    for path in folder.glob("*.png"):
        match = re.fullmatch(r"(.+)_mask(_\d+)?", path.stem)
        if match:
            masks.setdefault(match[1], []).append(path)
        else:
            images.append(path)
    without = [image.name for image in images if image.stem not in masks]
    if without or not images:
        raise UserError(f"{folder}: {'no mask for ' + ', '.join(sorted(without)[:20]) if without else 'no PNG images'}")
    images.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)])
    return [(name, image, sorted(masks[image.stem])) for image in images]


def _convert(image: Path, masks: list[Path], out: Path) -> None:
    mask = read_mask(masks)
    height, width = read_image(image).shape[:2]
    if mask.shape != (height, width):
        raise UserError(f"{masks[0]} is {mask.shape[1]}x{mask.shape[0]} pixels, its image {image} {width}x{height}")
    shutil.copyfile(image, out / "images" / image.name)
    (out / "masks" / image.name).write_bytes(cv2.imencode(".png", mask * 255)[1].tobytes())
