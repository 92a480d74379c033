"""The files of a folder by their names, and which of them are the masks of a case."""

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

# How a mask is named after its image, and whether it may be numbered (`_mask_1`). A bare stem is never numbered:
# `case_1` is another case than `case`, not a second mask of it.
_DEFAULT_SUFFIXES = ("", "_mask", "_pixels0", "_segmentation")
_NUMBERED = ("_mask",)


class Folder:
    """The image files below one folder, walked once: a list of thousands of entries then costs no further look-ups.

    by_key: "sub/a.png" -> path. by_stem: "sub/a" -> keys of all files sub/a.* with a known extension, sorted. Paths are
    texts: a Path costs more than all else that is done for a case.
    """

    def __init__(self, base_dir: Path, name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> None:
        self.path = base_dir / name
        self._suffixes = suffixes
        if not self.path.is_dir():
            raise UserError(
                f"{self.path}: there is no such folder. {base_dir} holds {contents(base_dir)}. The data must be laid "
                "out as",
                *LAYOUT.splitlines(),
                "python prepare_data.py folder brings other names there (--images, --masks).",
            )
        # The user may have linked images/ itself to a data disk: what it holds counts as inside.
        self._roots = (base_dir.resolve(), self.path.resolve())
        self.by_key: dict[str, str] = {}
        self._by_links: set[str] = set()
        for key, path, by_link in bar(walk(self.path, suffixes), desc=f"looking through {self.path.name}", unit="file"):
            self.by_key[key] = path
            if by_link:
                self._by_links.add(key)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self.by_key):
            self.by_stem[self.stem(key)].append(key)

    def stem(self, key: str) -> str:
        return case_name(key, self._suffixes)

    def alike(self, stem: str) -> list[str]:
        """The stems of files that are the same text as `stem`, in whatever form macOS and Linux have written it."""
        return [] if stem.isascii() else self._by_form.get(_form(stem), [])

    @cached_property
    def _by_form(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for stem in self.by_stem:
            if not stem.isascii():
                found[_form(stem)].append(stem)
        return found

    def holds(self, key: str) -> bool:
        """Whether a file, with links resolved, is inside the data folder."""
        return key not in self._by_links or self.holds_path(self.by_key[key])

    def holds_path(self, path: str | Path) -> bool:
        resolved = Path(os.path.realpath(path))  # Path.resolve() raises if links form a circle
        return any(resolved.is_relative_to(root) for root in self._roots)

    def paths(self, keys: Iterable[str]) -> tuple[Path, ...]:
        return tuple(Path(self.by_key[key]) for key in keys)

    def folder_of(self, key: str) -> Path:
        return Path(self.by_key[key]).parent


def is_mask_of(stem: str) -> str | None:
    """The stem of the image whose mask a file is by its name alone; None if it has no suffix of a mask."""
    for suffix in filter(None, _DEFAULT_SUFFIXES):
        if match := _rule(suffix, suffix in _NUMBERED).fullmatch(stem):
            return match[1] + match[2]
    return None


class Problem(Exception):
    """Why one entry has no case: one sentence for the user."""


class MaskFinder:
    """Finds the masks of a case by the naming rules, all files being sorted by rule beforehand."""

    def __init__(
        self, folder: Folder, mask_suffix: str | None, with_bare_stem: bool = True, inside: bool = True
    ) -> None:
        self._folder = folder
        self._inside = inside  # whether masks must be inside the data folder
        suffixes = _DEFAULT_SUFFIXES if mask_suffix is None else (mask_suffix,)
        self._suffixes = tuple(s for s in suffixes if with_bare_stem or s not in ("", STEM))
        # A name that ends in the stem cannot be numbered, as a bare stem cannot.
        self._numbered = (
            _NUMBERED if mask_suffix is None else tuple(s for s in suffixes if not _pattern(s).endswith(STEM))
        )
        self._sorted: list[str] = []
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

    def _beginning_with(self, name: str) -> list[str]:
        """The keys that are named as the case with something after it, such as _2ndHO."""
        if not self._sorted:
            self._sorted = sorted(self._folder.by_key)
        first = bisect_left(self._sorted, name)
        beginning = itertools.takewhile(lambda key: key.startswith(name), itertools.islice(self._sorted, first, None))
        return [key for key in beginning if re.match(r"[^a-zA-Z0-9.]", key[len(name) :])]

    def has(self, name: str) -> bool:
        """Whether case `name` has a mask."""
        return bool(self._by_suffix(name))

    def _by_suffix(self, name: str) -> dict[str, list[str]]:
        """The keys of the masks of case `name`; where there is none, of those that are the same text for Unicode."""
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
        """The names looked for, such as {stem}_gt."""
        return " or ".join(_pattern(suffix) for suffix in self._suffixes)

    def of(self, names: set[str]) -> set[str]:
        """The keys of the masks of these cases."""
        forms = set(map(_form, names))
        return {key for (name, _), keys in self._masks.items() if _form(name) in forms for key in keys}

    def find(self, entry: str, name: str) -> tuple[Path, ...]:
        """The masks of case `name`, sorted; Problem if there is none, a doubt, or one is outside the folder."""
        by_suffix = self._by_suffix(name)
        if not by_suffix:
            stem = PurePosixPath(name).name
            names = {s: _pattern(s).replace(STEM, stem) for s in self._suffixes}
            tried = ", ".join(f"{n}, {n}_1 ..." if s in self._numbered else n for s, n in names.items())
            where = self._folder.path / PurePosixPath(name).parent
            there = self._beginning_with(name)
            others = f" There is {names_of(there[:3])}: --mask_suffix or --mask_pattern names it." if there else ""
            raise Problem(f'"{entry}": no mask in {where}; tried {tried} ({" ".join(MASK_SUFFIXES)}).{others}')
        found = [key for keys in by_suffix.values() for key in keys]
        if len(by_suffix) > 1:
            raise Problem(
                f'"{entry}": masks by more than one naming rule ({names_of(found)} in '
                f"{self._folder.folder_of(found[0])}); pass --mask_suffix to say which "
                f"({', '.join(repr(s) for s in by_suffix)})."
            )
        # Of one text in two forms, too: they are not two parts of a target.
        if len(found) > 1 and len({_form(self._folder.stem(key)) for key in found}) < len(found):
            raise Problem(
                f'"{entry}": ambiguous, masks that differ only in their extension or in the form of an accent '
                f"({names_of(found)} in {self._folder.folder_of(found[0])}); keep one of them."
            )
        for key in found:
            if self._inside and not self._folder.holds(key):
                path = self._folder.by_key[key]
                raise Problem(f'"{entry}": mask {path} is a link that leads out of the data folder; copy it there.')
        return self._folder.paths(found)


def _pattern(suffix: str) -> str:
    """The whole name of a mask, without extension, as a text with {stem} in it."""
    return suffix if STEM in suffix else STEM + suffix


def _rule(suffix: str, numbered: bool) -> re.Pattern[str]:
    """Matches the name of a mask; groups 1 and 2 are the folder and the stem of its image."""
    before, after = (re.escape(part) for part in _pattern(suffix).split(STEM, 1))
    number = r"(?:_\d+)?" if numbered else ""
    return re.compile(f"((?:.*/)?){before}([^/]*){after}{number}", re.IGNORECASE | re.DOTALL)


def _form(name: str) -> str:
    """One of the forms that Unicode has for a text with accents: Linux mostly writes this one, macOS another."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def names_of(keys: Iterable[str]) -> str:
    return ", ".join(one_line(PurePosixPath(key).name) for key in keys)


def bar(items: Iterable[_Item], **words: str) -> Iterable[_Item]:
    """A progress bar over the items, for what takes more than a second."""
    from utils.common.progress import Progress  # here: scripts read lists before they import anything

    return Progress(items, leave=False, delay=1, **words)
