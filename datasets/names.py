"""The files of a folder by name, and the naming rules that find the masks of a case."""

import itertools
import os
import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from datasets.files import IMAGE_SUFFIXES, MASK_SUFFIXES, case_name, contents, walk
from utils.common.errors import UserError
from utils.common.printable import one_line

_Item = TypeVar("_Item")

LAYOUT = """\
base_dir/
  images/case0001.png ...
  masks/case0001.png ...   (same stem, or with _mask, _mask_1, _pixels0, _segmentation)
  train.txt  val.txt       (one case per line)"""

STEM = "{stem}"  # the stem of the image in a naming pattern of masks
FLAGS = "prepare_data.py folder: --mask_pattern; other scripts: --mask_suffix"

# The suffixes of masks, and those that may be numbered (`_mask_1`). A bare stem is never numbered: `case_1` is another
# case than `case`, not its second mask.
_DEFAULT_SUFFIXES = ("", "_mask", "_pixels0", "_segmentation")
_NUMBERED = ("_mask",)


class Folder:
    """The image files below one folder, read once, so that thousands of list entries need no further system calls.

    by_key: "sub/a.png" -> path. by_stem: "sub/a" -> keys of all files sub/a.* with a known extension, sorted. Paths are
    strings, because creating a Path would take longer than all other work for a case.
    """

    def __init__(self, base_dir: Path, name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> None:
        self.path = base_dir / name
        self._suffixes = suffixes
        if not self.path.is_dir():
            raise UserError(
                f"{self.path}: the folder was not found. {base_dir} contains {contents(base_dir)}. The data must have "
                "this layout:",
                *LAYOUT.splitlines(),
                "python prepare_data.py folder converts other layouts (--images, --masks).",
            )
        # images/ itself may be a link to another disk; its content counts as inside the data folder.
        self._roots = (base_dir.resolve(), self.path.resolve())
        self.by_key: dict[str, str] = {}
        self._by_links: set[str] = set()
        for key, path, by_link in bar(walk(self.path, suffixes), desc=f"listing {self.path.name}", unit="file"):
            self.by_key[key] = path
            if by_link:
                self._by_links.add(key)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self.by_key):
            self.by_stem[self.stem(key)].append(key)

    def stem(self, key: str) -> str:
        return case_name(key, self._suffixes)

    def alike(self, stem: str) -> list[str]:
        """The stems that equal `stem` after Unicode normalisation, which differs between macOS and Linux."""
        return [] if stem.isascii() else self._by_form.get(_form(stem), [])

    @cached_property
    def _by_form(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for stem in self.by_stem:
            if not stem.isascii():
                found[_form(stem)].append(stem)
        return found

    def holds(self, key: str) -> bool:
        """Whether a file, after resolving links, is inside the data folder."""
        return key not in self._by_links or self.holds_path(self.by_key[key])

    def holds_path(self, path: str | Path) -> bool:
        resolved = Path(os.path.realpath(path))  # Path.resolve() raises for circular links
        return any(resolved.is_relative_to(root) for root in self._roots)

    def paths(self, keys: Iterable[str]) -> tuple[Path, ...]:
        return tuple(Path(self.by_key[key]) for key in keys)

    def folder_of(self, key: str) -> Path:
        return Path(self.by_key[key]).parent


def images_of_mask(stem: str, mask_suffix: str | None = None) -> set[str]:
    """The stems of the images whose mask a file is by its name, with the default suffixes and `mask_suffix` (see
    `datasets.pairing.find_cases`)."""
    suffixes = {suffix: suffix in _NUMBERED for suffix in _DEFAULT_SUFFIXES}
    if mask_suffix is not None:
        suffixes[mask_suffix] = _may_be_numbered(mask_suffix)
    matches = [_rule(suffix, numbered).fullmatch(stem) for suffix, numbered in suffixes.items()]
    return {match[1] + match[2] for match in matches if match} - {stem}


class Problem(Exception):
    """The reason why a list entry has no case, as a sentence for the user."""


class MaskFinder:
    """Finds the masks of a case by the naming rules, with an index of all files."""

    def __init__(
        self, folder: Folder, mask_suffix: str | None, with_bare_stem: bool = True, inside: bool = True
    ) -> None:
        self._folder = folder
        self._inside = inside  # require masks to be inside the data folder
        suffixes = _DEFAULT_SUFFIXES if mask_suffix is None else (mask_suffix,)
        self._suffixes = tuple(s for s in suffixes if with_bare_stem or s not in ("", STEM))
        self._numbered = _NUMBERED if mask_suffix is None else tuple(filter(_may_be_numbered, suffixes))
        self._sorted: list[str] = []
        self._owner: dict[str, str] = {}  # key of a mask file -> the case for which it was found
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
        """The keys of all files whose names are those of masks."""
        return {key for keys in self._masks.values() for key in keys}

    def _beginning_with(self, name: str) -> list[str]:
        """The keys whose names are the name of the case with an additional suffix, e.g. _2ndHO."""
        if not self._sorted:
            self._sorted = sorted(self._folder.by_key)
        first = bisect_left(self._sorted, name)
        beginning = itertools.takewhile(lambda key: key.startswith(name), itertools.islice(self._sorted, first, None))
        return [key for key in beginning if re.match(r"[^a-zA-Z0-9.]", key[len(name) :])]

    def has(self, name: str) -> bool:
        """Whether case `name` has a mask."""
        return bool(self._by_suffix(name))

    def _by_suffix(self, name: str) -> dict[str, list[str]]:
        """The keys of the masks of case `name`, by suffix; names are compared exactly, then by Unicode form."""
        found = {suffix: self._masks[name, suffix] for suffix in self._suffixes if (name, suffix) in self._masks}
        if found or name.isascii():
            return found
        alike = {suffix: self._by_form.get((_form(name), suffix), []) for suffix in self._suffixes}
        return {
            suffix: [key for of in names for key in self._masks[of, suffix]] for suffix, names in alike.items() if names
        }

    @cached_property
    def _by_form(self) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, suffix in self._masks:
            if not name.isascii():
                found[_form(name), suffix].append(name)
        return found

    @property
    def rule(self) -> str:
        """The naming rules as text, e.g. {stem}_gt."""
        return " or ".join(_pattern(suffix) for suffix in self._suffixes)

    def of(self, names: set[str]) -> set[str]:
        """The keys of the masks of these cases."""
        forms = set(map(_form, names))
        return {key for (name, _), keys in self._masks.items() if _form(name) in forms for key in keys}

    def find(self, entry: str, name: str) -> tuple[Path, ...]:
        """The masks of case `name`, sorted; raises Problem if there is none, or if they are ambiguous, outside, or were
        found for another case."""
        by_suffix = self._by_suffix(name)
        if not by_suffix:
            stem = PurePosixPath(name).name
            names = {s: _pattern(s).replace(STEM, stem) for s in self._suffixes}
            tried = ", ".join(f"{n}, {n}_1 ..." if s in self._numbered else n for s, n in names.items())
            where = self._folder.path / PurePosixPath(name).parent
            there = self._beginning_with(name)
            others = f" Found {names_of(there[:3])}; pass the name of the masks ({FLAGS})." if there else ""
            raise Problem(f'"{entry}": no mask in {where}; tried {tried} ({" ".join(MASK_SUFFIXES)}).{others}')
        found = [key for keys in by_suffix.values() for key in keys]
        if len(by_suffix) > 1:
            raise Problem(
                f'"{entry}": masks match more than one naming rule ({names_of(found)} in '
                f"{self._folder.folder_of(found[0])}); choose {' or '.join(map(_pattern, by_suffix))} ({FLAGS})."
            )
        # The same applies to one name in two Unicode forms: these are not two parts of a target.
        if len(found) > 1 and len({_form(self._folder.stem(key)) for key in found}) < len(found):
            raise Problem(
                f'"{entry}": ambiguous, masks differ only in their extension or in the encoding of an accent '
                f"({names_of(found)} in {self._folder.folder_of(found[0])}); keep one of them."
            )
        for key in found:
            if self._inside and not self._folder.holds(key):
                path = self._folder.by_key[key]
                raise Problem(f'"{entry}": mask {path} is a link to a file outside the data folder; copy the file.')
            # An image folder into which the masks were copied, too: a mask would be an image, and its own target.
            if (owner := self._owner.setdefault(key, name)) != name:
                raise Problem(
                    f'"{entry}": mask {self._folder.by_key[key]} also belongs to "{owner}". Remove masks from the '
                    "image folder and the lists."
                )
        return self._folder.paths(found)


def _pattern(suffix: str) -> str:
    """The name of a mask without extension, as a pattern with {stem}."""
    return suffix if STEM in suffix else STEM + suffix


def _may_be_numbered(mask_suffix: str) -> bool:
    """Whether numbers may follow. Like a bare stem, a name that ends in the stem cannot be numbered."""
    return not _pattern(mask_suffix).endswith(STEM)


def _rule(suffix: str, numbered: bool) -> re.Pattern[str]:
    """Matches the name of a mask; groups 1 and 2 are the folder and the stem of its image."""
    before, after = (re.escape(part) for part in _pattern(suffix).split(STEM, 1))
    number = r"(?:_\d+)?" if numbered else ""
    return re.compile(f"((?:.*/)?){before}([^/]*){after}{number}", re.IGNORECASE | re.DOTALL)


def _form(name: str) -> str:
    """The normal form (NFC) of a Unicode text: Linux usually writes this form, macOS another."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def names_of(keys: Iterable[str]) -> str:
    return ", ".join(one_line(PurePosixPath(key).name) for key in keys)


def bar(items: Iterable[_Item], **words: str) -> Iterable[_Item]:
    """A progress bar over the items that appears after a second."""
    from utils.common.progress import Progress  # here, because scripts read lists before other imports

    return Progress(items, leave=False, delay=1, **words)
