"""Random divisions of a data folder into the lists train1.txt, val1.txt, ..."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datasets import SHARE
from datasets.checks import THREADS
from datasets.decode import read_mask
from datasets.files import IMAGE_SUFFIXES
from datasets.lists import write_list
from datasets.load import data_folder
from datasets.pairing import Case, find_cases, pair_folders
from datasets.prepare.division import divisions
from datasets.problems import raise_problems
from utils.common.errors import UserError
from utils.common.files import writing
from utils.common.printable import first_three, one_line
from utils.common.progress import Progress
from utils.common.tables import aligned


def split(
    base_dir: Path,
    number: int = 3,
    val_share: float = SHARE,
    test_share: float = 0.0,
    seed: int = 41,
    stratify_by: re.Pattern[str] | None = None,
    share_bins: int | None = None,
    group: re.Pattern[str] | None = None,
    mask_suffix: str | None = None,
    mask_threshold: float | None = None,
    overwrite: bool = False,
) -> str:
    """Divides all images of the folder, writes the lists and returns a table of their contents, and warnings.

    Args:
        base_dir: the data folder, with the layout of `datasets.pairing.LAYOUT`.
        number, val_share, test_share, seed: see `datasets.prepare.division.divisions`.
        stratify_by: its match in a case name (or the first group that took part) is the stratum of the case.
        share_bins: alternatively, the number of strata of about equal size by the share of target pixels.
        group: likewise for the group of the case (patient, video), which is never divided.
        mask_suffix, mask_threshold: as in training.
        overwrite: replace all lists of an earlier call.

    Raises:
        UserError: if there are lists of an earlier call, a pattern does not match some names, training would refuse a
            case, or there are too few cases or groups; existing lists stay unchanged.
    """
    base = data_folder(base_dir)
    before = sorted(path for path in base.iterdir() if re.fullmatch(r"(train|val|test)\d+\.txt", path.name))
    if before and not overwrite:
        there = ", ".join(path.name for path in before)
        raise UserError(f"{base} already contains lists: {there}. Pass --overwrite to replace all of them")
    cases, problems, orphans = pair_folders(base, mask_suffix=mask_suffix)
    raise_problems(problems)
    names = [case.name for case in cases]
    raise_problems(find_cases(base, names, mask_suffix)[1])  # as training reads the lists
    strata = _found(stratify_by, names, "--stratify_by") if stratify_by else None
    groups = _found(group, names, "--group") if group else None
    shares = _target_shares(cases, mask_threshold)
    if share_bins:
        strata = _bins(list(shares.values()), share_bins)
    lists = divisions(names, number, val_share, test_share, seed, strata, groups)
    _replace_lists(base, lists, before)
    by_name = [dict(zip(names, labels, strict=True)) if labels else None for labels in (strata, groups)]
    equal = len(vals := [lists[name] for name in lists if name.startswith("val")]) - len(set(map(tuple, vals)))
    notes = [f"warning: {equal} of the divisions equal another one, because there are too few cases"] if equal else []
    if orphans:
        some = first_three([one_line(path.name) for path in orphans])
        notes.append(f"warning: {len(orphans)} masks have no image ({' '.join(IMAGE_SUFFIXES)}) of their name: {some}")
    return "\n".join([_table(lists, shares, *by_name), *notes])


def _found(pattern: re.Pattern[str], names: Sequence[str], flag: str) -> list[str]:
    """The match of the pattern in each name: the first group that took part, or all of it."""
    matches = [pattern.search(name) for name in names]
    found = [
        next(text for text in (*match.groups(), match[0]) if text is not None) if match else "" for match in matches
    ]
    without = [name for name, value in zip(names, found, strict=True) if not value]
    if without:
        raise UserError(
            f"{flag} '{pattern.pattern}' does not match {len(without)} of {len(names)} names: "
            f"{', '.join(without[:10])}{' ...' if len(without) > 10 else ''}"
        )
    return found


def _target_shares(cases: Sequence[Case], threshold: float | None) -> dict[str, float]:
    """The share of target pixels of each case."""

    def share(case: Case) -> float | str:
        try:
            return float(read_mask(case.masks, threshold).mean())
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        looks = Progress(pool.map(share, cases), total=len(cases), desc="reading masks", unit="img", leave=False)
        shares = {case.name: value for case, value in zip(cases, looks, strict=True)}
    raise_problems([value for value in shares.values() if isinstance(value, str)])
    return shares


def _bins(shares: Sequence[float], count: int) -> list[str]:
    """The bin of each share, named by its upper end in percent; equal shares share a bin, so there may be fewer."""
    ends = np.unique(np.quantile(shares, np.linspace(0, 1, count + 1)[1:]))
    return [f"to {100 * ends[i]:6.3f} %" for i in np.searchsorted(ends, shares)]


def _replace_lists(base: Path, lists: Mapping[str, Sequence[str]], before: Sequence[Path]) -> None:
    """Writes all new lists before replacing old ones, and removes the remaining old ones, which would overlap them."""
    with writing(base), tempfile.TemporaryDirectory(dir=base, prefix=".split.") as scratch:
        for name, of_list in lists.items():
            write_list(Path(scratch) / name, of_list)
        for name in lists:
            (Path(scratch) / name).replace(base / name)
        for path in before:
            if path.name not in lists:
                path.unlink()


def _table(
    lists: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    strata: Mapping[str, str] | None,
    groups: Mapping[str, str] | None,
) -> str:
    """The table of the lists: cases, groups, mean share of target pixels, and strata."""
    rows = [("list", "cases", *(["groups"] if groups else []), "target share %", *(["strata"] if strata else []))]
    for name, cases in lists.items():
        row = [name, len(cases)]
        row += [len({groups[case] for case in cases})] if groups else []
        row += [f"{100 * np.mean([shares[case] for case in cases]):.3g}"]
        row += (
            [", ".join(f"{n} {' '.join(of.split())}" for of, n in sorted(Counter(map(strata.get, cases)).items()))]
            if strata
            else []
        )
        rows.append(row)
    return aligned(rows)
