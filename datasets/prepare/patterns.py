"""Pairing of images and masks by a pattern with groups, e.g. 21_training.tif and 21_manual1.gif."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath

from datasets.files import IMAGE_SUFFIXES, MASK_SUFFIXES, case_name
from datasets.lists import read_list
from datasets.names import Folder, names_of
from datasets.pairing import Case, in_numbers
from datasets.problems import raise_problems
from utils.common.errors import UserError
from utils.common.printable import first_three

_PLACEHOLDER = re.compile(r"\{(\w+)\}|(\*)")


def pairs_by_pattern(
    source: Path, images: str, masks: str, image_pattern: re.Pattern[str], mask_pattern: str
) -> tuple[list[Case], list[Path]]:
    """The images that match a pattern, each with the masks whose names follow from it, and the skipped files.

    Args:
        source: contains the folders of the images and the masks, which may be the same.
        image_pattern: matches the whole name of an image without its extension, or its whole path below the folder if
            the pattern contains a "/". Other files are skipped.
        mask_pattern: name of a mask without its extension, in the sub-folder of its image, or the whole path if it
            contains a "/". {stem} is the name of the image, {1} and {word} are groups of image_pattern, * is any text
            without "/". Several masks are merged: all matches of *, and _1, _2, ... after a name.

    A group called "name" is the name of the case; otherwise this is the path of the image below the folder.

    Raises:
        UserError: if a folder is missing, nothing matches, an image has no mask, a mask belongs to two images, or a
            mask that matches the pattern has no image although no image was skipped.
    """
    known = {"stem", *map(str, range(1, image_pattern.groups + 1)), *image_pattern.groupindex}
    used = {match[1] for match in _PLACEHOLDER.finditer(mask_pattern) if match[1]}
    if not used or used - known:
        fit = ", ".join(f"{{{word}}}" for word in sorted(known))
        raise UserError(
            f"--mask_pattern must contain at least one of {fit}, and no other placeholder, got {mask_pattern}"
        )
    image_folder, mask_folder = Folder(source, images, IMAGE_SUFFIXES), Folder(source, masks, MASK_SUFFIXES)
    any_mask = _rule(mask_pattern, None)
    mask_named = {key for key in mask_folder.by_key if any_mask.fullmatch(_part(mask_folder.stem(key), mask_pattern))}
    in_one = image_folder.path.samefile(mask_folder.path)
    finder = _Finder(mask_folder, mask_named)
    cases, problems, owner = [], [], {}
    for key in sorted(image_folder.by_key, key=in_numbers):
        stem = image_folder.stem(key)
        match = image_pattern.fullmatch(_part(stem, image_pattern.pattern))
        if not match or (in_one and key in mask_named):
            continue
        values = {str(number): text or "" for number, text in enumerate(match.groups(), 1)}
        values |= {word: text or "" for word, text in match.groupdict().items()}
        values["stem"] = PurePosixPath(stem).name
        below = "" if "/" in mask_pattern or "/" not in stem else stem.rpartition("/")[0] + "/"
        found = list(finder.find(below, mask_pattern, values))
        if not found:
            expected = below + _PLACEHOLDER.sub(lambda part, of=values: of[part[1]] if part[1] else "*", mask_pattern)
            problems.append(f'"{key}": no mask in {mask_folder.path}; tried {expected} ({" ".join(MASK_SUFFIXES)}).')
        for mask in found:
            if owner.setdefault(mask, key) != key:
                problems.append(f'"{key}": mask {mask} also belongs to "{owner[mask]}". Make the pattern stricter.')
        if len(set(map(mask_folder.stem, found))) < len(found):
            problems.append(f'"{key}": ambiguous, masks differ only in their extension ({names_of(found)}).')
        cases.append(Case(values.get("name") or stem, Path(image_folder.by_key[key]), mask_folder.paths(found)))
    if not cases:
        there = ", ".join(sorted(image_folder.by_key)[:3]) or "no image files"
        raise UserError(
            f"{image_folder.path}: no image matches --image_pattern '{image_pattern.pattern}'; found {there} ... The "
            "pattern must match the whole name without extension (the whole path if it contains a /)."
        )
    taken = {case.image for case in cases} | set(mask_folder.paths(owner))
    orphans = set(mask_folder.paths(mask_named - owner.keys()))
    if not set(map(Path, image_folder.by_key.values())) - taken - orphans:
        problems += [f"{path}: a mask without an image" for path in sorted(orphans)]  # else: of a skipped image
    raise_problems(problems)
    files = {*map(Path, image_folder.by_key.values()), *map(Path, mask_folder.by_key.values())}
    return cases, sorted(files - taken)


def listed_names(cases: Sequence[Case], lists: Mapping[str, Path]) -> dict[str, list[str]]:
    """The names of the cases in list files of the source, whose entries are case names or image names.

    Raises:
        UserError: for an unreadable list, and for entries that are missing, ambiguous or listed twice.
    """
    known: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        known[case_name(case.image.name)].append(case.name)
    known |= {case.name: [case.name] for case in cases}
    names, problems = {}, []
    for name, file in lists.items():
        found: Counter[str] = Counter()
        for entry in read_list(file):
            of_entry = known.get(entry) or known.get(case_name(entry), [])  # a case name may end in an extension
            if len(of_entry) == 1:
                found.update(of_entry)
            else:
                ambiguous = f"ambiguous ({first_three(of_entry)}). Write the name of one case."
                what = ambiguous if of_entry else "case not found."
                problems.append(f'{file}: "{entry}": {what}')
        problems += [f'{file}: "{case}": listed twice.' for case, count in found.items() if count > 1]
        names[name] = list(found)
    raise_problems(problems)
    return names


class _Finder:
    """Finds masks by the beginning of their names, which is much faster than testing all masks for each image."""

    def __init__(self, folder: Folder, keys: set[str]) -> None:
        self._names = sorted((folder.stem(key).lower(), key, folder.stem(key)) for key in keys)

    def find(self, below: str, pattern: str, values: dict[str, str]) -> Iterator[str]:
        """The keys of the masks, sorted."""
        rule = re.compile(re.escape(below) + _rule(pattern, values).pattern)
        beginning = below
        for part in re.split(r"(\{\w+\}|\*)", pattern):
            if part == "*":
                break
            beginning += values[part[1:-1]] if part.startswith("{") else part
        beginning = beginning.lower()
        first = bisect_left(self._names, (beginning,))
        names = takewhile(lambda name: name[0].startswith(beginning), islice(self._names, first, None))
        return (key for _, key, stem in names if rule.fullmatch(stem))


def _part(stem: str, pattern: str) -> str:
    """The text that a pattern is matched with: the path if the pattern contains a "/", otherwise the name."""
    return stem if "/" in pattern else PurePosixPath(stem).name


def _rule(pattern: str, values: dict[str, str] | None) -> re.Pattern[str]:
    """A pattern of the masks of one image, or of any (None). The fixed text of the pattern is not case-sensitive."""
    parts, at = [], 0
    for match in _PLACEHOLDER.finditer(pattern):
        parts.append(f"(?i:{re.escape(pattern[at : match.start()])})")
        anything = "[^/]*" if match[2] else "[^/]+" if "/" not in pattern else ".+"
        parts.append(anything if match[2] or values is None else re.escape(values[match[1]]))
        at = match.end()
    parts.append(f"(?i:{re.escape(pattern[at:])})")
    # A name that ends in a part of the image's name cannot be numbered: "case_1" is another case than "case".
    numbered = "" if at == len(pattern) else r"(?:_\d+)?"
    return re.compile("".join(parts) + numbered)
