"""The image files below one folder by their names, walked once: for `datasets.pairing`."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from datasets.files import case_name, walk
from utils.common.errors import UserError

_Item = TypeVar("_Item")

LAYOUT = """\
base_dir/
  images/case0001.png ...
  masks/case0001.png ...   (same stem, or with _mask, _mask_1, _pixels0, _segmentation)
  train.txt  val.txt       (one case per line)"""


class ImageFolder:
    """The image files below one folder, walked once: a list of thousands of entries then costs no further look-ups.

    by_key: "sub/a.png" -> path. by_stem: "sub/a" -> keys of all files sub/a.* with a known extension, sorted. Paths are
    texts: a Path costs more than all else that is done for a case.
    """

    def __init__(self, base_dir: Path, name: str) -> None:
        self.path = base_dir / name
        if not self.path.is_dir():
            raise UserError(f"{self.path}: there is no such folder. The data must be laid out as\n{LAYOUT}")
        # The user may have linked images/ itself to a data disk: what it holds counts as inside.
        self._roots = (base_dir.resolve(), self.path.resolve())
        self.by_key: dict[str, str] = {}
        self._by_links: set[str] = set()
        for key, path, by_link in bar(walk(self.path), desc=f"looking through {self.path.name}", unit="file"):
            self.by_key[key] = path
            if by_link:
                self._by_links.add(key)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self.by_key):
            self.by_stem[case_name(key)].append(key)

    def alike(self, stem: str) -> list[str]:
        """The stems of files that are the same text as `stem`, in whatever form macOS and Linux have written it."""
        return [] if stem.isascii() else self._by_form.get(unicodedata.normalize("NFC", stem), [])

    @cached_property
    def _by_form(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for stem in self.by_stem:
            if not stem.isascii():
                found[unicodedata.normalize("NFC", stem)].append(stem)
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


def bar(items: Iterable[_Item], **words: str) -> Iterable[_Item]:
    """A progress bar over the items, for what takes more than a second."""
    from utils.common.progress import Progress  # here: scripts read lists before they import anything

    return Progress(items, leave=False, delay=1, **words)
