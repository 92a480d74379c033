"""`evaluation.py --test`: the evaluation of best.pth and last.pth on the test list."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.files import case_name
from datasets.lists import read_list
from datasets.load import list_path
from utils.common.errors import UserError
from utils.settings import config

NOT_WITH_TEST = {
    "weights": "it evaluates best.pth and last.pth of the run",
    "seg_weights": "it evaluates best.pth and last.pth of the run",
    "val_file_dir": "use --test_file_dir for the list",
}


def held_out_evaluations(
    settings: Callable[[Sequence[str]], argparse.Namespace], script: config.ScriptParser, given: Mapping[str, Any]
) -> list[argparse.Namespace]:
    """The settings of two evaluations, of best.pth and of last.pth, on the test list.

    Args:
        settings: `settings` of evaluation.py, called with a command line with --weights.
        given: the flags on the command line, including --test.

    Raises:
        UserError: if there is no test list, if it contains training cases, or for a flag that does not fit.
    """
    for name, why in NOT_WITH_TEST.items():
        if name in given:
            raise UserError(f"--test cannot be combined with --{name}: {why}")
    flags = [flag for name, value in given.items() if name != "test" for flag in config.as_flags(name, value)]
    run = Path(given["output_dir"]) if "output_dir" in given else config.output_dir(script.settings(flags))
    evaluations = []
    for name in ("best", "last"):
        args = settings([*flags, f"--weights={run / 'seg' / f'{name}.pth'}"])
        if not args.test_file_dir:
            raise UserError("--test requires a test list: pass --test_file_dir LIST, or add it to the configuration")
        args.val_file_dir = args.test_file_dir
        if "report" in args:
            args.report = str(Path(args.report) / name)
        evaluations.append(args)
    refuse_trained_cases(evaluations[0])
    return evaluations


def refuse_trained_cases(args: argparse.Namespace) -> None:
    """Checks that the list contains no training case, if the training list still exists.

    Raises:
        UserError: with the names of such cases.
    """
    from utils.networks.checkpoints import load_checkpoint  # here: it imports torch

    trained_with = load_checkpoint(Path(args.weights), "seg")["settings"]
    base, name = Path(args.base_dir), trained_with.get("train_file_dir")
    same_data = Path(trained_with.get("base_dir") or "").resolve() == base.resolve()
    if not same_data or not name or not (training := list_path(base, name)).is_file():
        return
    trained = {case_name(entry) for entry in read_list(training)}
    reported = map(case_name, read_list(list_path(base, args.val_file_dir)))
    if shared := [case for case in reported if case in trained]:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise UserError(
            f"{args.val_file_dir} must not contain training cases: {', '.join(shared[:3])}{more} are also in {name}"
        )
