"""Published divisions, recognised by the fingerprints of their lists (`splits/divisions.json`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets.files import case_name

FILE = Path(__file__).resolve().parents[1] / "splits" / "divisions.json"


@dataclass(frozen=True)
class KnownList:
    """One list of a published division.

    Attributes:
        dataset, division, part: such as "BUS", "released by the authors", "train".
        cases: number of cases.
        source: repository, commit and file: "fidshu/SRSNet 3ec478a, SRS/dataset/bus/train.txt".
        note: a note for users of the division; empty for most.
    """

    dataset: str
    division: str
    part: str
    cases: int
    source: str
    note: str

    @property
    def name(self) -> str:
        return f"{self.dataset}, {self.division}, {self.part}"

    @property
    def url(self) -> str:
        """The address of the list."""
        repository, commit, path = self.source.split(" (")[0].replace(",", "").split(" ", 2)
        return f"https://github.com/{repository}/blob/{commit}/{path}"


def fingerprint(entries: Iterable[str]) -> str:
    """The SHA-256 of the cases of a list, independent of their order, their extensions and the line ends."""
    names = {case_name(entry.strip()) for entry in entries}
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()


def known_list(entries: Iterable[str]) -> KnownList | None:
    """The published list with these cases; None if there is none."""
    return _known().get(fingerprint(entries))


def facts(entries: Iterable[str]) -> dict[str, Any]:
    """The recorded facts of a list: {"cases": 195, "sha256": its fingerprint, "known": its published name or None}."""
    entries = list(entries)
    found = known_list(entries)
    count = len({case_name(entry.strip()) for entry in entries})
    return {"cases": count, "sha256": fingerprint(entries), "known": found.name if found else None}


def remarks(lists: Mapping[str, Iterable[str]], dataset: str | None = None) -> list[str]:
    """Remarks about lists, {"training": its cases}: which of them are published ones, one line each.

    For a data set with published divisions, another line names the lists that belong to none of them.
    """
    said, notes, others = [], [], []
    for purpose, entries in lists.items():
        if found := known_list(entries):
            said.append(f"{purpose} list: {found.name} ({found.cases} cases; {found.url})")
            notes += [found.note] if found.note else []
        else:
            others.append(purpose)
    published = dict.fromkeys(known.division for known in _known().values() if known.dataset == dataset)
    if others and published:
        which = f"{' and '.join(others)} list{'s' * (len(others) > 1)}"
        said.append(
            f"{which}: not a published division of {dataset} ({', '.join(published)}; "
            "docs/reference/data_sets.md lists their sources)"
        )
    return said + list(dict.fromkeys(notes))


@lru_cache
def _known() -> dict[str, KnownList]:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        entry["sha256"]: KnownList(
            *(entry[name] for name in ("dataset", "division", "part", "cases", "source")),
            content["notes"].get(entry["dataset"], ""),
        )
        for entry in content["divisions"]
    }
