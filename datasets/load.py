"""Loading and checking of the cases of list files, before a script starts to work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.lists import read_list
from datasets.pairing import LAYOUT, Case, find_cases, shared_masks
from utils.common.errors import UserError

if TYPE_CHECKING:
    from datasets.kept import Kept


def load_lists(
    base_dir: str | Path,
    lists: Mapping[str, str],
    need_masks: bool = True,
    mask_suffix: str | None = None,
    fit_masks: bool = False,
    mask_threshold: float | None = None,
    kept: Kept | None = None,
) -> dict[str, list[Case]]:
    """The cases of each list, after decoding every file once.

    Args:
        base_dir: the data folder, with the layout of `datasets.pairing.LAYOUT`.
        lists: the file of each list by purpose, in base_dir or a path: {"training": "train.txt", "validation":
            "val.txt"}.
        need_masks, mask_suffix: see `datasets.pairing.find_cases`.
        fit_masks, mask_threshold, kept: see `datasets.checks.check_cases`.

    Raises:
        UserError: with every problem of all lists (up to 20, and their number), e.g. a case in two lists.
    """
    from datasets.checks import check_cases  # here, because it imports OpenCV

    base = data_folder(base_dir)
    found: dict[str, list[Case]] = {}
    problems: list[str] = []
    for purpose, name in lists.items():
        cases, wrong = find_cases(base, read_list(list_path(base, name)), mask_suffix, need_masks)
        for other, others in found.items():
            shared = {case.name for case in others} & {case.name for case in cases}
            wrong += [f'"{name}": in both the {other} list and the {purpose} list' for name in sorted(shared)]
            wrong += [
                f"{mask}: a mask of two cases, one in the {other} list and one in the {purpose} list. Remove masks "
                "from the image folder and the lists."
                for mask in shared_masks(others, cases)
            ]
        found[purpose] = cases
        problems += wrong
    check_cases([case for cases in found.values() for case in cases], problems, fit_masks, mask_threshold, kept=kept)
    return found


def data_folder(base_dir: str | Path) -> Path:
    """base_dir as a path, if it exists.

    Raises:
        UserError: if it does not exist, with the expected layout.
    """
    base = Path(base_dir)
    if not base.is_dir():
        raise UserError(
            f"the data folder {base} was not found. It must have this layout:",
            "",
            *LAYOUT.splitlines(),
            "",
            "Pass your data folder with --base_dir FOLDER, or create a small sample data set:",
            "  python prepare_data.py sample DataSet/sample    and then    --Dataset sample",
        )
    return base


def list_path(base: Path, name: str) -> Path:
    """The path of a list: `name` in the data folder if it exists there, otherwise `name` as a path."""
    inside = base / name
    if inside.is_file() or not Path(name).is_file():
        return inside  # also if neither exists, for the error message
    return Path(name)
