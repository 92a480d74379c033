"""Conversion of cases and lists to the images/masks/list layout, shared by all converters.

cases with their files     OUT/images/NAME.*     (a copy of the file)
lists of their names       OUT/masks/NAME.png    (the union of the masks, 0 and 255)
                           OUT/train.txt ...
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import cv2

from datasets.checks import THREADS, decode_case
from datasets.files import contents
from datasets.lists import read_list, write_list
from datasets.pairing import Case, choose_and_pair, find_cases
from datasets.problems import raise_problems
from datasets.resizing import resize_mask
from utils.common.errors import UserError
from utils.common.files import making_folder
from utils.common.printable import first_three, one_line
from utils.common.progress import Progress


@dataclass
class Converted:
    """The counts of a conversion, for its summary."""

    cases: int
    merged: int  # cases with several masks
    resized: list[str]  # one sentence for each resized mask
    lists: dict[str, int]  # number of cases of each list
    unlisted: int  # cases in no list
    left_out: Sequence[Path] = ()  # files of the source that match neither pattern
    notes: list[str] = field(default_factory=list)  # further sentences

    def lines(self, out: Path) -> list[str]:
        lists = ", ".join(f"{name} {count}" for name, count in self.lists.items())
        notes = [f"{self.merged} with several masks, merged" if self.merged else "", *self.resized]
        notes += [f"{self.unlisted} in no list" if self.unlisted else ""]
        notes += self.notes
        if self.left_out:
            names = first_three([path.name for path in self.left_out])
            notes.append(f"{len(self.left_out)} files match no pattern and were skipped: {names}")
        found = [f"{out}: {self.cases} cases; {lists}", *(f"  {note}" for note in notes if note)]
        return list(map(one_line, found))


def convert(
    cases: Sequence[Case],
    lists: Mapping[str, Sequence[str]],
    out: Path,
    mask_threshold: float | None = None,
    fit_masks: bool = False,
) -> Converted:
    """Writes the data folder `out`, which is created atomically at the end.

    Args:
        cases: their names become those in `out`; they must be paths below a folder.
        lists: list files below `out`, and the names of the cases in each.
        mask_threshold: see `datasets.decode.read_mask`.
        fit_masks: resize masks whose size differs from their image's ("exact", see `datasets.resizing`); otherwise such
            masks are a problem.

    Raises:
        UserError: if `out` exists; or with every problem of the names, before anything is written, or of the files (up
            to 20, and their number).
    """
    names = Counter(case.name for case in cases)
    problems = [
        f'"{name}": cannot be the name of a case, which must be a path below images/ without a \\, a drive, and parts '
        "that are empty or begin with a dot. Rename the image, or correct --image_pattern."
        for name in names
        if not _is_below(name)
    ]
    problems += [f'"{name}": {count} images have this name; rename them' for name, count in names.items() if count > 1]
    files = {f"{case.name}{case.image.suffix}" for case in cases}
    # In a list such a name would be ambiguous, e.g. a.png beside a.png.png.
    problems += [
        f'"{name}": the name of a case and of the file of another; rename one' for name in names if name in files
    ]
    folder_of = {parent.as_posix(): name for name in names for parent in PurePosixPath(name).parents}
    problems += [
        f'"{case.name}": its file {file} would have the path of the folder of "{folder_of[file]}"; rename one'
        for case in cases
        for file in sorted({f"{case.name}{case.image.suffix}", f"{case.name}.png"} & folder_of.keys())
    ]
    resized = []
    with making_folder(out) as whole, ThreadPoolExecutor(THREADS) as pool:
        raise_problems(problems)

        def write(case: Case) -> tuple[list[str], str | None]:
            return _write_case(case, whole, mask_threshold, fit_masks)

        for wrong, note in Progress(
            pool.map(write, cases), total=len(cases), desc="converting", unit="img", leave=False
        ):
            problems += wrong
            resized += [note] if note else []
        raise_problems(problems)
        for file, of_list in lists.items():
            write_list(whole / file, of_list)
    listed = {name for of_list in lists.values() for name in of_list}
    return Converted(
        cases=len(cases),
        merged=sum(len(case.masks) > 1 for case in cases),
        resized=resized,
        lists={file: len(of_list) for file, of_list in lists.items()},
        unlisted=len(names.keys() - listed),
    )


def pairs(source: Path, images: str, masks: str, mask_suffix: str | None = None) -> tuple[list[Case], list[Path]]:
    """Every image of source/images with its masks of source/masks, and the files that a mask_suffix skips; see
    `datasets.pairing.choose_and_pair`.

    Raises:
        UserError: if a folder is missing or empty, an image has no mask or a mask no image, or names are ambiguous.
    """
    cases, problems, orphans, left_out = choose_and_pair(source, images, masks, mask_suffix)
    raise_problems([*problems, *(f"{path}: a mask without an image" for path in orphans)])
    return cases, left_out


def require_folders(source: Path, **folders: str) -> None:
    """Raises UserError if a folder of the source is missing, with the existing folders and the flags to use.

    Args:
        folders: below source, by flag.
    """
    paths = [source / folder for folder in folders.values()]
    if missing := [f"{path} was not found" for path in paths if not path.is_dir()]:
        flags = " and ".join(f"--{flag}" for flag in folders)
        raise UserError(
            f"{'; '.join(missing)}. {source} contains {contents(source)}. Pass the folders with {flags}, e.g. "
            + " ".join(f"--{flag} {word}" for flag, word in zip(folders, ("jpg", "labels"), strict=True))
        )


@contextmanager
def advising(line: str | None) -> Iterator[None]:
    """Adds a line with advice to a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(*error.args, *([line] if line else [])) from error


def listed(source: Path, images: str, lists: Mapping[str, Path]) -> dict[str, list[str]]:
    """The names of the cases in list files of the source, by the keys of `lists`.

    Raises:
        UserError: for an unreadable list, and for entries that are missing or listed twice.
    """
    names, problems = {}, []
    for name, file in lists.items():
        cases, wrong = find_cases(source, read_list(file), need_masks=False, images=images)
        names[name] = [case.name for case in cases]
        problems += [f"{file}: {problem}" for problem in wrong]
    raise_problems(problems)
    return names


def _is_below(name: str) -> bool:
    """Whether the name is a plain path below a folder on every system, and not hidden by a dot."""
    plain = "\\" not in name and not PureWindowsPath(name).drive
    return plain and all(part and not part.startswith(".") for part in name.split("/"))


def _write_case(case: Case, out: Path, mask_threshold: float | None, fit_masks: bool) -> tuple[list[str], str | None]:
    """Writes one case; returns its problems, and a sentence if its mask was resized."""
    look = decode_case(case, fit_masks, mask_threshold)
    if look.problems:
        return look.problems, None
    mask = look.mask
    fitted = resize_mask(mask, look.image.pixels.shape[:2], "exact")
    picture = out / "images" / f"{case.name}{case.image.suffix}"
    target = out / "masks" / f"{case.name}.png"
    for path in (picture, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(case.image, picture)
    target.write_bytes(cv2.imencode(".png", fitted * 255)[1].tobytes())
    if fitted is mask:
        return [], None
    (height, width), (now_high, now_wide) = mask.shape, fitted.shape
    return [], f"{case.name}: mask resized from {width}x{height} to {now_wide}x{now_high}, the size of its image"
