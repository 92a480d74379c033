"""Cases of an evaluated list that the network was trained on, or that chose its epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.lists import read_list
from datasets.load import list_path
from datasets.pairing import find_cases
from utils.common.errors import UserError


def shared_cases(trained_with: Mapping[str, Any], name: str, base: Path, evaluated: Sequence[str]) -> list[str]:
    """The evaluated cases that are also in a list of the training, in the same order.

    None are found if the data folder is another one, or if the list of the training is gone.

    Args:
        trained_with: the settings of the training.
        name: "train_file_dir" or "val_file_dir".
        base: the data folder.
        evaluated: the names of the cases.
    """
    of_training = trained_with.get(name)
    if not isinstance(of_training, str) or not same_folder(trained_with.get("base_dir"), base):
        return []
    try:
        trained = set(case_names(base, of_training))
    except UserError:  # the list is gone
        return []
    return [case for case in evaluated if case in trained]


def case_names(base: Path, file: str) -> list[str]:
    """The names of the cases of a list, without its problems.

    Raises:
        UserError: if the list cannot be read.
    """
    return [case.name for case in find_cases(base, read_list(list_path(base, file)), need_masks=False)[0]]


def same_folder(recorded: object, folder: str | Path) -> bool:
    """Whether the data folder that a checkpoint has recorded, which may be anything, is `folder`."""
    try:
        return isinstance(recorded, str) and Path(recorded).resolve() == Path(folder).resolve()
    except (OSError, ValueError):  # not a path of this system
        return False
