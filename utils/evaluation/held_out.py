"""`evaluation.py --test`: the evaluation of best.pth and last.pth on the test list."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.common.printable import some
from utils.common.processes import say
from utils.evaluation.shared_cases import case_names, shared_cases
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
    _check_cases(evaluations[0])
    return evaluations


def _check_cases(args: argparse.Namespace) -> None:
    """Checks that the list contains no training case; says if its cases chose best.pth.

    Raises:
        UserError: with the names of training cases.
    """
    from utils.networks.checkpoints import load_settings  # here: it imports torch

    trained_with = load_settings(Path(args.weights), "seg")
    base = Path(args.base_dir)
    evaluated = case_names(base, args.val_file_dir)
    if shared := shared_cases(trained_with, "train_file_dir", base, evaluated):
        raise UserError(
            f"{args.val_file_dir} must not contain training cases: {some(shared)} are also in "
            f"{trained_with['train_file_dir']}"
        )
    if shared := shared_cases(trained_with, "val_file_dir", base, evaluated):
        say(
            f"warning: {len(shared)} cases of {args.val_file_dir} are also in {trained_with['val_file_dir']}, which "
            "chose best.pth, so the figures of best.pth are too good; those of last.pth are not affected"
        )
