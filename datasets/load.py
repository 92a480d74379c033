"""From list files to checked cases: what a script does before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.lists import read_list
from datasets.pairing import LAYOUT, Case, find_cases
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
    """The cases of each list, every file of which has been decoded once.

    Args:
        base_dir: the data folder, laid out as `datasets.pairing.LAYOUT`.
        lists: what each list is for, and its file, relative to base_dir or a path of its own:
            {"training": "train.txt", "validation": "val.txt"}.
        need_masks, mask_suffix: see `datasets.pairing.find_cases`.
        fit_masks, mask_threshold, kept: see `datasets.checks.check_cases`.

    Raises:
        UserError: names every problem of all the lists (up to 20, and their number); a case in two lists is one.
    """
    from datasets.checks import check_cases  # here: it imports OpenCV, and a missing folder is refused without

    base = data_folder(base_dir)
    found: dict[str, list[Case]] = {}
    problems: list[str] = []
    for purpose, name in lists.items():
        cases, wrong = find_cases(base, read_list(list_path(base, name)), mask_suffix, need_masks)
        for other, others in found.items():
            shared = {case.name for case in others} & {case.name for case in cases}
            wrong += [f'"{name}": in the {other} list and in the {purpose} list' for name in sorted(shared)]
        found[purpose] = cases
        problems += wrong
    check_cases([case for cases in found.values() for case in cases], problems, fit_masks, mask_threshold, kept=kept)
    return found


def data_folder(base_dir: str | Path) -> Path:
    """base_dir, if it is there.

    Raises:
        UserError: shows the layout expected and how to make the sample set.
    """
    base = Path(base_dir)
    if not base.is_dir():
        raise UserError(
            f"the data folder {base} is not there; this layout is expected:",
            "",
            *LAYOUT.splitlines(),
            "",
            "--base_dir FOLDER points elsewhere. A sample set to try things on, in seconds:",
            "  python prepare_data.py sample DataSet/sample    and then    --Dataset sample",
        )
    return base


def list_path(base: Path, name: str) -> Path:
    """A list given by `name`: the file in the data folder, or else the path of its own."""
    inside = base / name
    if inside.is_file() or not Path(name).is_file():
        return inside  # if neither is there, the error of reading it names this one
    return Path(name)
