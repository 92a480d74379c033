"""Random divisions of a data set into lists, with scikit-learn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from datasets import SHARE
from utils.common.errors import UserError

_DRAWS = 200  # random divisions of groups, of which the one nearest to the requested share is used


def divide(
    names: Sequence[str],
    held: float | int,
    seed: int,
    strata: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    keep: int = 1,
) -> tuple[list[str], list[str]]:
    """One random division of `names` into (kept, held out).

    Args:
        names: the cases.
        held: the cases to hold out: a share between 0 and 1, rounded up, or a number; approximate with groups.
        seed: random seed.
        strata: the stratum of each name; each stratum has about the same share on both sides.
        groups: the group of each name; a group is never divided.
        keep: least number of groups to keep, for the lists that are drawn from them.

    Raises:
        UserError: if there are too few names, groups, or members of a stratum.
    """
    count = math.ceil(round(held * len(names), 9)) if isinstance(held, float) else held
    if groups is not None:
        return _divide_groups(names, max(1, min(count, len(names) - 1)), seed, strata, groups, keep)
    if not 0 < count < len(names):
        raise UserError(f"{len(names)} cases cannot be divided into lists of {max(len(names) - count, 0)} and {count}")
    if strata is not None:
        members = Counter(strata)
        rare = min(members, key=members.__getitem__)
        if members[rare] < 2 or min(count, len(names) - count) < len(members):
            raise UserError(
                f"{len(names)} cases in {len(members)} strata, {members[rare]} of them in {rare!r}, are too few for "
                f"lists of {len(names) - count} and {count} cases with all strata. Use fewer strata"
            )
    kept, out = train_test_split(list(names), test_size=count, random_state=seed, stratify=strata)
    return kept, out


def divisions(
    names: Sequence[str],
    number: int = 3,
    val_share: float = SHARE,
    test_share: float = 0.0,
    seed: int = 41,
    strata: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> dict[str, list[str]]:
    """Random divisions of the same cases: {"train1.txt": names, "val1.txt": names, ..., "train3.txt": ...}.

    With a test share, each division first draws its own testN.txt, then its valN.txt. The mean over the divisions on
    these lists is then comparable with the paper's figure, but on images that selected no checkpoint. A single test
    list would base the figure on one small sample of images.

    Division N depends only on the seed and on N, so that more divisions do not change the first ones.

    Args:
        names, strata, groups: see `divide`; the names of a list are in the order of `names`.
        number: number of divisions.
        val_share, test_share: shares of all cases; the rest is for training.
        seed: random seed.

    Raises:
        UserError: see `divide`; or for shares that leave nothing for training.
    """
    if not 0 < val_share < 1 or not 0 <= test_share < 1 or val_share + test_share >= 1:
        raise UserError(
            "val_share must be positive, and val_share + test_share less than 1, so that training images remain; got "
            f"{val_share} and {test_share}"
        )
    order = {name: i for i, name in enumerate(names)}
    lists = {}
    for division in range(1, number + 1):
        seeds = np.random.SeedSequence([seed, division]).generate_state(2).tolist()
        rest, test = list(names), []
        if test_share:
            rest, test = divide(names, float(test_share), seeds[1], strata, groups, keep=2)
        val_count = math.ceil(round(val_share * len(names), 9))
        of_rest = [
            [labels[order[name]] for name in rest] if labels is not None else None for labels in (strata, groups)
        ]
        train, val = divide(rest, val_count, seeds[0], *of_rest)
        for part, drawn in (("train", train), ("val", val), ("test", test)):
            if drawn:
                lists[f"{part}{division}.txt"] = sorted(drawn, key=order.__getitem__)
    return lists


def _divide_groups(
    names: Sequence[str], count: int, seed: int, strata: Sequence[str] | None, groups: Sequence[str], keep: int
) -> tuple[list[str], list[str]]:
    """Draws many random divisions of the groups and returns the one nearest to the requested share and strata.

    StratifiedGroupKFold supports only shares of 1/k.
    """
    known, lists = sorted(set(groups)), keep + 1
    if len(known) < lists:
        raise UserError(
            f"a division into {lists} lists requires at least {lists} groups, got {len(known)}: {', '.join(known)}"
        )
    share = count / len(names)
    _, stratum = np.unique(strata if strata is not None else [""] * len(names), return_inverse=True)
    whole = np.bincount(stratum)

    def distance(drawn: tuple[np.ndarray, np.ndarray]) -> float:
        held = np.bincount(stratum[drawn[1]], minlength=len(whole))
        return abs(held.sum() - share * len(names)) + np.abs(held - share * whole).sum()

    held_groups = min(math.ceil(share * len(known)), len(known) - keep)
    draws = GroupShuffleSplit(_DRAWS, test_size=held_groups, random_state=seed).split(names, groups=groups)
    kept, out = min(draws, key=distance)
    return [names[i] for i in kept], [names[i] for i in out]
