"""From the entries of a list to image files and their mask files.

Data sets name their masks in different ways: BUS uses the stem of the image, BUSI `_mask`, `_mask_1`, ..., SIRST
`_pixels0`, ISIC `_segmentation`. All of them are found without renaming a file. Whatever leaves a doubt is reported
and never guessed: a wrong pair trains a wrong network without any error message.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from datasets.files import IMAGE_SUFFIXES, case_name
from datasets.image_folder import ImageFolder, bar
from utils.common.errors import UserError
from utils.common.printable import one_line

STEM = "{stem}"  # the stem of the image in a naming pattern of masks

# How a mask is named after its image, and whether it may be numbered (`_mask_1`). A bare stem is never numbered:
# `case_1` is another case than `case`, not a second mask of it.
_DEFAULT_SUFFIXES = ("", "_mask", "_pixels0", "_segmentation")
_NUMBERED = ("_mask",)


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

    base_dir: folder laid out as `datasets.image_folder.LAYOUT`.
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
    folder = ImageFolder(base_dir, images)
    masks = _MaskFinder(ImageFolder(base_dir, "masks"), mask_suffix) if need_masks else None
    cases: list[Case] = []
    problems: list[str] = []
    entry_of: dict[str, str] = {}
    for entry in bar(names, desc="finding", unit="case"):
        try:
            key = _find_image(folder, entry)
            name = case_name(key)
            if name in entry_of:
                raise _Problem(
                    f'"{entry}": listed twice (first as "{entry_of[name]}", the same stem); remove one of the lines.'
                )
            entry_of[name] = entry
            cases.append(Case(name, Path(folder.by_key[key]), masks.find(entry, name) if masks else ()))
        except _Problem as problem:
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
    folder, mask_folder = ImageFolder(base_dir, images), ImageFolder(base_dir, masks)
    in_one = folder.path.samefile(mask_folder.path)
    if in_one and mask_suffix in ("", STEM):
        raise UserError(f"{folder.path} holds images and masks: the names of the masks must add something to {STEM}")
    # What a link leads to is taken wherever it is: lists of strangers name nothing here.
    finder = _MaskFinder(mask_folder, mask_suffix, with_bare_stem=not in_one, inside=False)
    mask_files = finder.files
    if not mask_files:
        names = ", ".join(sorted(mask_folder.by_key)[:3]) or "no image files"
        raise UserError(f"{mask_folder.path}: no file is named as a mask, {finder.rule}; there are {names} ...")
    files = {key: path for key, path in folder.by_key.items() if not (in_one and key in mask_files)}
    if not files:
        raise UserError(f"{folder.path}: no images in it (known extensions: {' '.join(IMAGE_SUFFIXES)})")
    cases: list[Case] = []
    problems: list[str] = []
    for key in sorted(files, key=_in_numbers):
        name = case_name(key)
        try:
            if len(folder.by_stem[name]) > 1:
                raise _Problem(f'"{key}": {_names(folder.by_stem[name])} have the same stem; rename one of them.')
            cases.append(Case(name, Path(files[key]), finder.find(key, name)))
        except _Problem as problem:
            problems.append(str(problem))
    used = finder.of({case_name(key) for key in files})
    orphans = set(mask_folder.by_key) - used - (set(files) if in_one else set())
    return cases, problems, sorted(mask_folder.paths(orphans))


def image_files(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted."""
    return sorted(map(Path, ImageFolder(folder, "").by_key.values()))


def is_mask_of(stem: str) -> str | None:
    """The stem of the image whose mask a file is by its name alone; None if it has no suffix of a mask."""
    for suffix in filter(None, _DEFAULT_SUFFIXES):
        if match := _rule(suffix, suffix in _NUMBERED).fullmatch(stem):
            return match[1] + match[2]
    return None


class _Problem(Exception):
    """Why one entry has no case: one sentence for the user."""


def _find_image(images: ImageFolder, entry: str) -> str:
    """The key of the image that `entry` means; _Problem if there is none or more than one, or if it is outside."""
    found = _keys(images, entry)
    # As lists from elsewhere have it: with \ for /, or from the data folder on.
    relative = PurePosixPath(entry if found else entry.replace("\\", "/"))
    if not found:
        if relative.is_absolute() or PureWindowsPath(entry).is_absolute() or ".." in relative.parts:
            raise _Problem(f'"{entry}": leaves the data folder; list paths below {images.path}.')
        found = _keys(images, relative.as_posix())
    if not found and relative.parts[:1] == (images.path.name,):
        found = _keys(images, relative.relative_to(images.path.name).as_posix())
    if not found:
        if not images.holds_path(images.path / relative):
            raise _Problem(f'"{entry}": a link leads out of the data folder; put the files below {images.path}.')
        raise _Problem(f'"{entry}": no such image in {images.path} (known extensions: {" ".join(IMAGE_SUFFIXES)}).')
    if len(found) > 1:
        raise _Problem(
            f'"{entry}": ambiguous, {_names(found)} are both in {images.folder_of(found[0])}; list it with its '
            "extension."
        )
    if not images.holds(found[0]):
        path = images.by_key[found[0]]
        raise _Problem(f'"{entry}": {path} is a link that leads out of the data folder; put the file itself there.')
    return found[0]


def _keys(images: ImageFolder, key: str) -> list[str]:
    """The key itself, or those with its stem; else those that are the same text for Unicode (é as one sign or two)."""
    if key in images.by_key:
        return [key]
    return images.by_stem.get(case_name(key)) or [
        alike for stem in images.alike(case_name(key)) for alike in images.by_stem[stem]
    ]


class _MaskFinder:
    """Finds the masks of a case by the naming rules, all files being sorted by rule beforehand."""

    def __init__(
        self, folder: ImageFolder, mask_suffix: str | None, with_bare_stem: bool = True, inside: bool = True
    ) -> None:
        self._folder = folder
        self._inside = inside  # whether masks must be inside the data folder
        suffixes = _DEFAULT_SUFFIXES if mask_suffix is None else (mask_suffix,)
        self._suffixes = tuple(s for s in suffixes if with_bare_stem or s not in ("", STEM))
        # A name that ends in the stem cannot be numbered, as a bare stem cannot.
        self._numbered = (
            _NUMBERED if mask_suffix is None else tuple(s for s in suffixes if not _pattern(s).endswith(STEM))
        )
        # (stem of the image, suffix) -> keys of mask files
        self._masks: dict[tuple[str, str], list[str]] = defaultdict(list)
        for suffix in self._suffixes:
            if suffix in ("", STEM):
                self._masks.update(((stem, suffix), keys) for stem, keys in folder.by_stem.items())
                continue
            rule = _rule(suffix, suffix in self._numbered)
            for stem, keys in folder.by_stem.items():
                if match := rule.fullmatch(stem):
                    self._masks[match[1] + match[2], suffix].extend(keys)

    @property
    def files(self) -> set[str]:
        """The key of every file that has the name of a mask."""
        return {key for keys in self._masks.values() for key in keys}

    @property
    def rule(self) -> str:
        """The names looked for, such as {stem}_gt."""
        return " or ".join(_pattern(suffix) for suffix in self._suffixes)

    def of(self, names: set[str]) -> set[str]:
        """The keys of the masks of these cases."""
        forms = {unicodedata.normalize("NFC", name) for name in names}
        return {
            key
            for (name, _), keys in self._masks.items()
            if name in names or unicodedata.normalize("NFC", name) in forms
            for key in keys
        }

    def _alike(self, name: str) -> dict[str, list[str]]:
        """The masks by suffix whose names are, for Unicode, those of case `name`."""
        form = unicodedata.normalize("NFC", name)
        return {
            suffix: keys
            for suffix in self._suffixes
            if (keys := [key for alike in self._by_form.get((form, suffix), []) for key in self._masks[alike, suffix]])
        }

    @cached_property
    def _by_form(self) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, suffix in self._masks:
            if not name.isascii():
                found[unicodedata.normalize("NFC", name), suffix].append(name)
        return found

    def find(self, entry: str, name: str) -> tuple[Path, ...]:
        """The masks of case `name`, sorted; _Problem if there is none, a doubt, or one is outside the folder."""
        by_suffix = {s: self._masks[name, s] for s in self._suffixes if (name, s) in self._masks}
        if not by_suffix and not name.isascii():
            by_suffix = self._alike(name)
        if not by_suffix:
            stem = PurePosixPath(name).name
            names = {s: _pattern(s).replace(STEM, stem) for s in self._suffixes}
            tried = ", ".join(f"{n}, {n}_1 ..." if s in self._numbered else n for s, n in names.items())
            where = self._folder.path / PurePosixPath(name).parent
            raise _Problem(f'"{entry}": no mask in {where}; tried {tried} ({" ".join(IMAGE_SUFFIXES)}).')
        found = [key for keys in by_suffix.values() for key in keys]
        if len(by_suffix) > 1:
            raise _Problem(
                f'"{entry}": masks by more than one naming rule ({_names(found)} in '
                f"{self._folder.folder_of(found[0])}); pass --mask_suffix to say which "
                f"({', '.join(repr(s) for s in by_suffix)})."
            )
        # Of one text in two forms, too: they are not two parts of a target.
        stems = {unicodedata.normalize("NFC", case_name(key)) for key in found}
        if len(found) > 1 and len(stems) < len(found):
            raise _Problem(
                f'"{entry}": ambiguous, masks that differ only in their extension or in the form of an accent '
                f"({_names(found)} in {self._folder.folder_of(found[0])}); keep one of them."
            )
        for key in found:
            if self._inside and not self._folder.holds(key):
                path = self._folder.by_key[key]
                raise _Problem(f'"{entry}": mask {path} is a link that leads out of the data folder; copy it there.')
        return self._folder.paths(found)


def _pattern(suffix: str) -> str:
    """The whole name of a mask, without extension, as a text with {stem} in it."""
    return suffix if STEM in suffix else STEM + suffix


def _rule(suffix: str, numbered: bool) -> re.Pattern[str]:
    """Matches the name of a mask; groups 1 and 2 are the folder and the stem of its image."""
    before, after = (re.escape(part) for part in _pattern(suffix).split(STEM, 1))
    number = r"(?:_\d+)?" if numbered else ""
    return re.compile(f"((?:.*/)?){before}([^/]*){after}{number}", re.IGNORECASE | re.DOTALL)


def _in_numbers(key: str) -> list[str | int]:
    """A sorting key by which case2 comes before case10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", key)]


def _names(keys: Iterable[str]) -> str:
    return ", ".join(one_line(PurePosixPath(key).name) for key in keys)
