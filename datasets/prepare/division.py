"""Random divisions of a data set into lists, by scikit-learn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from datasets import SHARE
from utils.common.errors import UserError

_DRAWS = 200  # of groups, of which the one nearest to the wanted share is taken


def divide(
    names: Sequence[str],
    held: float | int,
    seed: int,
    strata: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """One random division of `names` into (kept, held out).

    Args:
        names: the cases.
        held: how many to hold out: a share between 0 and 1, rounded up, or a number. With groups about as many.
        seed: of the draw.
        strata: of each name; each stratum has about the same share on both sides.
        groups: of each name; a group is on one side as a whole.

    Raises:
        UserError: if there are too few names, groups, or members of a stratum.
    """
    count = math.ceil(round(held * len(names), 9)) if isinstance(held, float) else held
    if not 0 < count < len(names):
        raise UserError(f"{len(names)} cases cannot be divided into {len(names) - count} and {count}")
    if groups is not None:
        return _divide_groups(names, count, seed, strata, groups)
    if strata is not None:
        members = Counter(strata)
        rare = min(members, key=members.__getitem__)
        if members[rare] < 2 or min(count, len(names) - count) < len(members):
            raise UserError(
                f"{len(names)} cases in {len(members)} strata, {members[rare]} of them in {rare!r}, are too few for "
                f"lists of {len(names) - count} and {count} with cases of each: stratify by less"
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

    With a test share each division holds out a testN.txt of its own before it draws valN.txt. Its mean over the
    divisions is then the paper's figure, on images that chose no checkpoint. One test list for all of them would
    rest the figure on that one small draw of images.

    Division N depends on the seed and on N alone: more divisions leave the first as they are.

    Args:
        names, strata, groups: see `divide`; the names of a list are in the order of `names`.
        number: of divisions.
        val_share, test_share: of all cases; the rest is for training.
        seed: of all draws.

    Raises:
        UserError: see `divide`; or for shares that leave nothing for training.
    """
    if not 0 < val_share < 1 or not 0 <= test_share < 1 or val_share + test_share >= 1:
        raise UserError(f"a val_share of {val_share} and a test_share of {test_share} leave no training images")
    parts = 3 if test_share else 2
    if groups is not None and len(set(groups)) < parts:
        raise UserError(
            f"{len(set(groups))} groups are fewer than the {parts} lists of a division: {', '.join(set(groups))}"
        )
    order = {name: i for i, name in enumerate(names)}
    lists = {}
    for division in range(1, number + 1):
        seeds = np.random.SeedSequence([seed, division]).generate_state(2).tolist()
        rest, test = list(names), []
        if test_share:
            rest, test = divide(names, float(test_share), seeds[1], strata, groups)
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
    names: Sequence[str], count: int, seed: int, strata: Sequence[str] | None, groups: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Draws groups, which have sizes and strata of their own, many times and takes the draw nearest to what is wanted.

    StratifiedGroupKFold would do this for shares of 1/k only.
    """
    if len(set(groups)) < 2:
        raise UserError(f"all {len(names)} cases are of one group ({groups[0]!r}): two lists need two groups at least")
    share = count / len(names)
    _, stratum = np.unique(strata if strata is not None else [""] * len(names), return_inverse=True)
    whole = np.bincount(stratum)

    def distance(drawn: tuple[np.ndarray, np.ndarray]) -> float:
        held = np.bincount(stratum[drawn[1]], minlength=len(whole))
        return abs(held.sum() - share * len(names)) + np.abs(held - share * whole).sum()

    draws = GroupShuffleSplit(_DRAWS, test_size=share, random_state=seed).split(names, groups=groups)
    kept, out = min(draws, key=distance)
    return [names[i] for i in kept], [names[i] for i in out]
