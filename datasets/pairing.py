"""From the entries of a list to image files and their mask files.

Data sets name their masks in different ways: BUS uses the stem of the image, BUSI `_mask`, `_mask_1`, ..., SIRST
`_pixels0`, ISIC `_segmentation`. All of them are found without renaming a file. Whatever leaves a doubt is reported
and never guessed: a wrong pair trains a wrong network without any error message.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from datasets.files import IMAGE_SUFFIXES, MASK_SUFFIXES, case_name
from datasets.names import LAYOUT as LAYOUT  # for those who show what is expected
from datasets.names import STEM, Folder, MaskFinder, Problem, bar, names_of
from utils.common.errors import UserError


@dataclass(frozen=True)
class Case:
    """One image and its masks.

    name: path of the image below `images/`, without extension, with `/` between folders: unique in a list.
    image: the image file.
    masks: the mask files, sorted; their union is the target. Empty if masks were not wanted.
    """

    name: str
    image: Path
    masks: tuple[Path, ...]


def find_cases(
    base_dir: Path, names: list[str], mask_suffix: str | None = None, need_masks: bool = True, images: str = "images"
) -> tuple[list[Case], list[str]]:
    """Find the files of the listed cases.

    base_dir: folder laid out as `LAYOUT`.
    names: entries of a list, with or without extension, with sub-folders if there are any. An entry that is exactly a
        file of `images/` means that file; otherwise any file with its stem and an extension of `IMAGE_SUFFIXES`.
    mask_suffix: what follows the stem of the image in the name of its mask; "" for nothing. Numbered ones are merged:
        "_gt" takes `_gt`, `_gt_1`, `_gt_2`, ... A text with {stem} in it is the whole name: "mask_{stem}". None: same
        stem, `_mask` (numbered too), `_pixels0`, `_segmentation`. Upper and lower case of it make no difference.
    need_masks: False finds images only (prediction) and never looks at `masks/`.
    images: the folder of the images below base_dir.

    Returns the cases found, in the order of `names`, and the problems, one sentence each. They are returned rather
    than raised so that a user sees all problems of a data set at once (`datasets.checks.check_cases` raises them).

    Raises UserError if `images/` or a needed `masks/` is missing.
    """
    folder = Folder(base_dir, images)
    masks = MaskFinder(Folder(base_dir, "masks", MASK_SUFFIXES), mask_suffix) if need_masks else None
    cases: list[Case] = []
    problems: list[str] = []
    entry_of: dict[str, str] = {}
    for entry in bar(names, desc="finding", unit="case"):
        try:
            key = _find_image(folder, entry)
            name = case_name(key)
            if name in entry_of:
                raise Problem(
                    f'"{entry}": listed twice (first as "{entry_of[name]}", the same stem); remove one of the lines.'
                )
            entry_of[name] = entry
            cases.append(Case(name, Path(folder.by_key[key]), masks.find(entry, name) if masks else ()))
        except Problem as problem:
            problems.append(str(problem))
    return cases, problems


def pair_folders(
    base_dir: Path, images: str = "images", masks: str = "masks", mask_suffix: str | None = None
) -> tuple[list[Case], list[str], list[Path]]:
    """Every image below a folder with its masks, without a list, in the order of the numbers in their names.

    base_dir: holds both folders.
    images, masks: the folders; if both are one, every file in it that has the name of a mask is one.
    mask_suffix: as in `find_cases`.

    Returns the cases, the problems (one sentence each), and the mask files that belong to no image.

    Raises UserError if a folder is missing or holds no image files, or if no file has the name of a mask.
    """
    return choose_and_pair(base_dir, images, masks, mask_suffix)[:3]


def choose_and_pair(
    base_dir: Path, images: str, masks: str, mask_suffix: str | None
) -> tuple[list[Case], list[str], list[Path], list[Path]]:
    """What `pair_folders` returns, and the files that a mask_suffix leaves out: masks of other names, such as another
    grader's."""
    folder, mask_folder = Folder(base_dir, images), Folder(base_dir, masks, MASK_SUFFIXES)
    in_one = folder.path.samefile(mask_folder.path)
    if in_one and mask_suffix in ("", STEM):
        raise UserError(f"{folder.path} holds images and masks: the names of the masks must add something to {STEM}")
    # What a link leads to is taken wherever it is: lists of strangers name nothing here.
    finder = MaskFinder(mask_folder, mask_suffix, with_bare_stem=not in_one, inside=False)
    mask_files = finder.files
    if not mask_files:
        names = ", ".join(sorted(mask_folder.by_key)[:3]) or "no image files"
        raise UserError(
            f"{mask_folder.path}: no file is named as a mask, {finder.rule}; there are {names} ... Pass the name of "
            "the masks, such as {stem}_gt (prepare_data.py folder: --mask_pattern; elsewhere: --mask_suffix)."
        )
    files = {key: path for key, path in folder.by_key.items() if not (in_one and key in mask_files)}
    if not files:
        raise UserError(f"{folder.path}: no images in it (known extensions: {' '.join(IMAGE_SUFFIXES)})")
    cases: list[Case] = []
    problems: list[str] = []
    left_out: set[str] = set()
    if in_one and mask_suffix is not None:
        left_out = _other_masks(files, finder)
        files = {key: path for key, path in files.items() if key not in left_out}
    for key in sorted(files, key=in_numbers):
        name = case_name(key)
        try:
            if len(folder.by_stem[name]) > 1:
                raise Problem(f'"{key}": {names_of(folder.by_stem[name])} have the same stem; rename one of them.')
            cases.append(Case(name, Path(files[key]), finder.find(key, name)))
        except Problem as problem:
            problems.append(str(problem))
    used = finder.of({case_name(key) for key in files})
    orphans = mask_files - used
    if not in_one:
        others = set(mask_folder.by_key) - mask_files
        orphans, left_out = (orphans | others, left_out) if mask_suffix is None else (orphans, others)
    return cases, problems, sorted(mask_folder.paths(orphans)), sorted(mask_folder.paths(left_out))


def _other_masks(files: Iterable[str], finder: MaskFinder) -> set[str]:
    """Of the files of a folder of images and masks those that are masks of another name than the one asked for.

    Such a file has no mask, is named as an image that has one with a word added ("a_2ndHO" beside "a"), and so is one
    beside at least half of these images. A number alone is no word: "case_1" is another case than "case".
    """
    names = {key: case_name(key) for key in files}
    with_mask = {name for name in names.values() if finder.has(name)}
    by_word: dict[str, set[str]] = defaultdict(set)
    for key, name in names.items():
        if name not in with_mask:
            for match in re.finditer(r"[^a-zA-Z0-9](?=[^/]*[a-zA-Z][^/]*$)", name):
                if name[: match.start()] in with_mask:
                    by_word[name[match.start() :].lower()].add(key)
                    break
    return {key for keys in by_word.values() if 2 * len(keys) >= len(with_mask) for key in keys}


def image_files(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted."""
    return sorted(map(Path, Folder(folder, "").by_key.values()))


def _find_image(images: Folder, entry: str) -> str:
    """The key of the image that `entry` means; Problem if there is none or more than one, or if it is outside."""
    found = _keys(images, entry)
    if not found:
        relative = PurePosixPath(entry)
        if relative.is_absolute() or PureWindowsPath(entry).is_absolute() or ".." in relative.parts:
            raise Problem(f'"{entry}": leaves the data folder; list paths below {images.path}.')
        found = _keys(images, relative.as_posix())
    if not found:
        if not images.holds_path(images.path / relative):
            raise Problem(f'"{entry}": a link leads out of the data folder; put the files below {images.path}.')
        raise Problem(f'"{entry}": no such image in {images.path} (known extensions: {" ".join(IMAGE_SUFFIXES)}).')
    if len(found) > 1:
        raise Problem(
            f'"{entry}": ambiguous, {names_of(found)} are both in {images.folder_of(found[0])}; list it with its '
            "extension."
        )
    if not images.holds(found[0]):
        path = images.by_key[found[0]]
        raise Problem(f'"{entry}": {path} is a link that leads out of the data folder; put the file itself there.')
    return found[0]


def _keys(images: Folder, key: str) -> list[str]:
    return [key] if key in images.by_key else images.by_stem.get(case_name(key), [])


def in_numbers(key: str) -> list[str | int]:
    """A sorting key by which case2 comes before case10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", key)]
