"""Pairing of list entries with image files and mask files.

Data sets name their masks in different ways: BUS uses the stem of the image, BUSI `_mask`, `_mask_1`, ..., SIRST
`_pixels0`, ISIC `_segmentation`. All of them are detected without renaming files. Ambiguous names are reported as
problems, because a wrong pair would train a wrong network without any error message.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from datasets.files import IMAGE_SUFFIXES, MASK_SUFFIXES, case_name
from datasets.names import FLAGS, STEM, Folder, MaskFinder, Problem, bar, names_of
from datasets.names import LAYOUT as LAYOUT  # re-exported for error messages
from utils.common.errors import UserError


@dataclass(frozen=True)
class Case:
    """One image and its masks.

    name: path of the image below `images/`, without extension, with `/` between folders: unique in a list.
    image: the image file.
    masks: the mask files, sorted; their union is the target. Empty if masks were not requested.
    """

    name: str
    image: Path
    masks: tuple[Path, ...]


def files_hash(cases: Sequence[Case]) -> str:
    """SHA-256 of the names and sizes of the image and mask files; their folder may be another."""
    files = [path for case in cases for path in (case.image, *case.masks)]
    lines = [f"{path.name}\t{path.stat().st_size}\n" for path in files]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def find_cases(
    base_dir: Path, names: list[str], mask_suffix: str | None = None, need_masks: bool = True, images: str = "images"
) -> tuple[list[Case], list[str]]:
    """Find the files of the listed cases.

    base_dir: folder with the layout of `LAYOUT`.
    names: entries of a list, with or without extension, with sub-folders if there are any. An entry means the file of
        that name in `images/`, or any file with this stem and one of `IMAGE_SUFFIXES`; if there are both, e.g. a.png
        and a.png.png, it is a problem.
    mask_suffix: suffix of the mask after the stem of the image; "" for none. Numbered masks are merged: "_gt" matches
        `_gt`, `_gt_1`, `_gt_2`, ... A value with {stem} is the whole name: "mask_{stem}". None: same stem, `_mask`
        (also numbered), `_pixels0`, `_segmentation`. Not case-sensitive.
    need_masks: False finds only images (for prediction) and does not read `masks/`.
    images: the folder of the images below base_dir.

    Returns the cases found, in the order of `names`, and the problems, one sentence each. `datasets.checks.check_cases`
    raises all problems of a data set at once.

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


def shared_masks(cases: Iterable[Case], others: Iterable[Case]) -> list[Path]:
    """The mask files, sorted, that belong to a case of one list and to a case of another name in the other list."""
    owner = {mask: case.name for case in cases for mask in case.masks}
    return sorted({mask for case in others for mask in case.masks if owner.get(mask, case.name) != case.name})


def pair_folders(
    base_dir: Path, images: str = "images", masks: str = "masks", mask_suffix: str | None = None
) -> tuple[list[Case], list[str], list[Path]]:
    """Every image below a folder with its masks, without a list, in the order of the numbers in the names.

    base_dir: contains both folders.
    images, masks: the folders; if they are the same, every file in it with the name of a mask is one.
    mask_suffix: as in `find_cases`.

    Returns the cases, the problems (one sentence each), and the mask files that belong to no image.

    Raises UserError if a folder is missing or contains no image files, or if no file has the name of a mask.
    """
    return choose_and_pair(base_dir, images, masks, mask_suffix)[:3]


def choose_and_pair(
    base_dir: Path, images: str, masks: str, mask_suffix: str | None
) -> tuple[list[Case], list[str], list[Path], list[Path]]:
    """The result of `pair_folders`, and the files that a mask_suffix skips: masks with other names, e.g. of another
    annotator."""
    folder, mask_folder = Folder(base_dir, images), Folder(base_dir, masks, MASK_SUFFIXES)
    in_one = folder.path.samefile(mask_folder.path)
    if in_one and mask_suffix in ("", STEM):
        raise UserError(f"{folder.path} contains both images and masks, so the names of masks must differ from {STEM}")
    # Links to files outside are accepted, since no untrusted list selects the files here.
    finder = MaskFinder(mask_folder, mask_suffix, with_bare_stem=not in_one, inside=False)
    mask_files = finder.files
    if not mask_files:
        names = ", ".join(sorted(mask_folder.by_key)[:3]) or "no image files"
        raise UserError(
            f"{mask_folder.path}: no file matches the mask name {finder.rule}; found {names} ... Pass the name of the "
            f"masks, e.g. {STEM}_gt ({FLAGS})."
        )
    files = {key: path for key, path in folder.by_key.items() if not (in_one and key in mask_files)}
    if not files:
        raise UserError(f"no images found in {folder.path} (extensions: {' '.join(IMAGE_SUFFIXES)})")
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
    """The files in a folder of images and masks that are masks with another suffix than the requested one.

    Such a file has no mask itself, its name is that of an image with a mask plus a word ("a_2ndHO" for "a"), and at
    least half of these images have a file with this word. A number is not a word: "case_1" is another case than "case".
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
    """The key of the image that `entry` means; raises Problem if it is missing, ambiguous or outside."""
    found = _keys(images, entry)
    # Lists from other projects may contain \ instead of /, or paths relative to the data folder.
    relative = PurePosixPath(entry if found else entry.replace("\\", "/"))
    if not found:
        if relative.is_absolute() or PureWindowsPath(entry).is_absolute() or ".." in relative.parts:
            raise Problem(f'"{entry}": the path must be below {images.path}.')
        found = _keys(images, relative.as_posix())
    if not found and relative.parts[:1] == (images.path.name,):
        found = _keys(images, relative.relative_to(images.path.name).as_posix())
    if not found:
        if not images.holds_path(images.path / relative):
            raise Problem(f'"{entry}": a link leads outside the data folder; copy the files to {images.path}.')
        raise Problem(f'"{entry}": image not found in {images.path} (extensions: {" ".join(IMAGE_SUFFIXES)}).')
    if len(found) > 1:
        raise Problem(
            f'"{entry}": ambiguous, {names_of(found)} are both in {images.folder_of(found[0])}; add the extension in '
            "the list, or rename one."
        )
    if not images.holds(found[0]):
        path = images.by_key[found[0]]
        raise Problem(f'"{entry}": {path} is a link to a file outside the data folder; copy the file.')
    return found[0]


def _keys(images: Folder, key: str) -> list[str]:
    """The key itself and the keys of which it is the stem (a.tif of a.tif.png), or the keys with its stem, or with an
    equivalent stem in Unicode."""
    if found := [key] * (key in images.by_key) + images.by_stem.get(key, []):
        return found
    stems = [key, case_name(key)]
    alike = ([other for name in images.alike(stem) for other in images.by_stem[name]] for stem in stems)
    return images.by_stem.get(case_name(key)) or next(filter(None, alike), [])


def in_numbers(key: str) -> list[str | int]:
    """A sorting key that puts case2 before case10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", key)]
