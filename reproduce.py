"""The paper's protocol in one command: both phases and the evaluation of every random division, and the table.

    python reproduce.py --Dataset BUS                  # three divisions; a table with mean and standard deviation
    python reproduce.py --Dataset BUS --dry_run        # what it would run, and what is done
    python reproduce.py --Dataset sample --variant srs_tiny --recon_epochs 1 --seg_epochs 2 --divisions 2     # a trial
    python reproduce.py --Dataset BUS --nproc 4 --sync_bn                        # each training on four GPUs
    python reproduce.py --Dataset BUS --only 2         # one division: three GPUs can take one each

Any other flag is handed on to train_recon.py, train_seg.py and evaluation.py. The lists of division N are trainN.txt
and valN.txt in the data folder (`prepare_data.py split` draws them), and testN.txt where there is one. Each division
trains an encoder of its own, on its own training list.

It can be stopped or killed at any moment: the same command goes on inside the epoch and skips what is done. Writes
reproduce.md, reproduce.csv and reproduce.json into OUTPUT_DIR, the runs into OUTPUT_DIR/divisionN.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P leaves it out

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import evaluation
import train_recon
import train_seg
from models import needs_phase_1
from utils.common.errors import UserError
from utils.common.processes import say
from utils.common.script import run_script
from utils.reproduction import division_table
from utils.reproduction.division_table import Result
from utils.reproduction.protocol import (
    EvaluationStep,
    Step,
    TrainingStep,
    check_lists,
    find_test_lists,
    numbered,
    refuse_mixed,
    run_division,
    shown,
)
from utils.reproduction.run_scripts import CommandRunner
from utils.settings import arguments, config
from utils.settings.config import FREE_SETTINGS

NOT_HERE = {
    "epochs": "--recon_epochs and --seg_epochs name the phases' own",
    "resume": "reproduce.py always goes on where it was",
    "train_file_dir": "--train_file takes the lists of all divisions, as in train{}.txt",
    "val_file_dir": "--val_file takes the lists of all divisions, as in val{}.txt",
    "test_file_dir": "--test_file takes the lists of all divisions, as in test{}.txt",
    "recon_weights": "each division trains an encoder of its own; train_seg.py takes a given one",
    "init_from": "the protocol starts from scratch; the training scripts take it",
}


def parser() -> config.ScriptParser:
    parser = config.ScriptParser("reproduce", "The paper's protocol: both phases and the evaluation of every division.")
    parser.epilog = "Any other flag of train_recon.py and train_seg.py (--help lists them) is handed on to both."
    add = parser.add_argument
    add("--divisions", type=arguments.positive, default=3, metavar="N", help="random divisions of the data")
    add("--only", type=arguments.positive, nargs="+", metavar="N", help="run these divisions alone")
    add("--train_file", metavar="LISTS", default="train{}.txt", help="{} is the division's number")
    add("--val_file", metavar="LISTS", default="val{}.txt", help="these choose the best epoch, as in training")
    add("--test_file", metavar="LISTS", help="evaluated, too; test{}.txt if there are such lists")
    add("--recon_epochs", type=arguments.positive, metavar="N", help="of phase 1; as configured if not set")
    add("--seg_epochs", type=arguments.positive, metavar="N", help="of phase 2; as configured if not set")
    add("--nproc", type=arguments.positive, default=1, metavar="N", help="processes for each script, by torchrun")
    add("--output_dir", type=arguments.path, metavar="FOLDER", help="checkpoints/NAME of the Dataset if not set")
    add("--dry_run", action="store_true", help="print the commands, and which of them are done")
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of this script, and in `handed_on` those of the training scripts that were given.

    Raises:
        UserError: for a flag that neither knows, or that the protocol decides.
    """
    args, rest = parser().parse_known_args(argv)
    handed_on = _training_flags().given(rest)
    for name, why in NOT_HERE.items():
        if name in handed_on:
            raise UserError(f"reproduce.py does not take --{name}: {why}")
    args.handed_on = {**{name: getattr(args, name) for name in ("Dataset", "config")}, **handed_on}
    configured = train_seg.parser().settings(_flags(args.handed_on))
    args.base_dir = configured.base_dir
    args.output_dir = args.output_dir or str(config.output_dir(configured))
    args.published = division_table.published(args.Dataset, args.config)
    if args.only and max(args.only) > args.divisions:
        raise UserError(f"--only {max(args.only)}: there are {args.divisions} divisions")
    return args


def steps(args: argparse.Namespace, division: int) -> list[Step]:
    """What a division takes, in its order."""
    folder = Path(args.output_dir) / f"division{division}"
    lists = {"train_file_dir": numbered(args.train_file, division), "val_file_dir": numbered(args.val_file, division)}

    def training(title: str, script: ModuleType, epochs: int | None, encoder_from: Path | None = None) -> TrainingStep:
        argv = _flags({**_known_to(script, args), **lists, "epochs": epochs, "output_dir": folder})
        phase = script.__name__.removeprefix("train_")
        resolved = config.run_settings(script.parser(), phase, [*argv, "--resume=auto"])
        return TrainingStep(title, f"{script.__name__}.py", argv, resolved, phase, folder / phase, encoder_from)

    network = train_seg.parser().settings(_flags(_known_to(train_seg, args)))
    plan: list[Step] = []
    if needs_phase_1(network.variant, network.dynamic, network.kernel_source):
        plan.append(training("phase 1", train_recon, args.recon_epochs))
    plan.append(training("phase 2", train_seg, args.seg_epochs, folder / "recon" if plan else None))
    for on, pattern in (("val", args.val_file), ("test", args.test_file)):
        for weights in ("best", "last") if pattern else ():
            name, checkpoint = numbered(pattern, division), folder / "seg" / f"{weights}.pth"
            given = {**_known_to(evaluation, args), "val_file_dir": name, "weights": checkpoint, "output_dir": folder}
            argv = _flags(given)
            resolved, results = functools.partial(evaluation.settings, argv), evaluation.results_folder
            title = f"{weights} epoch on {name}"
            plan.append(EvaluationStep(title, "evaluation.py", argv, resolved, weights, on, checkpoint, results))
    return plan


def main(args: argparse.Namespace) -> None:
    args.test_file = args.test_file or find_test_lists(args.base_dir, args.divisions)
    flags = {"--train_file": args.train_file, "--val_file": args.val_file, "--test_file": args.test_file}
    check_lists(args.base_dir, {flag: pattern for flag, pattern in flags.items() if pattern}, args.divisions)
    plans = {division: steps(args, division) for division in range(1, args.divisions + 1)}
    refuse_mixed(plans)
    # Everything is looked at before anything runs: hours into the first division is late for a fault in the third.
    progress = {division: [step.progress() for step in plan] for division, plan in plans.items()}
    if args.dry_run:
        for division, plan in plans.items():
            for step, state in zip(plan, progress[division], strict=True):
                say(f"# division {division}, {step.title}: {state.text}\n{shown(step, args.nproc)}")
        return
    done = {division for division, states in progress.items() if all(state.done for state in states)}
    chosen = [division for division in args.only or plans if division not in done]
    for division in chosen:
        _check_images(plans[division], args, division)
    with CommandRunner() as runner:
        for division in chosen:
            run_division(runner, division, plans[division], Path(args.output_dir) / f"division{division}", args.nproc)
            _tabulate(args, plans, done := done | {division})
    if not chosen:
        _tabulate(args, plans, done)
    say(f"wrote reproduce.md, reproduce.csv and reproduce.json into {args.output_dir}")


def _check_images(plan: list[Step], args: argparse.Namespace, division: int) -> None:
    """Reads every image and mask of a division: phase 1 reads no mask, and a faulty one would be found days later."""
    lists = {"training": args.train_file, "validation": args.val_file}
    lists |= {"test": args.test_file} if args.test_file else {}
    from utils.settings.data_loaders import checked_cases

    training = next(step for step in plan if isinstance(step, TrainingStep) and step.phase == "seg")
    checked_cases(training.settings, {purpose: numbered(pattern, division) for purpose, pattern in lists.items()})
    say(f"division {division}: all images and masks are readable, no case is in two lists")


def _tabulate(args: argparse.Namespace, plans: dict[int, list[Step]], done: set[int]) -> None:
    """Prints and writes the table of the divisions that are done."""
    results = [
        Result.read(division, step.on, step.weights, step.epoch(), step.summary())
        for division in sorted(done)
        for step in plans[division]
        if isinstance(step, EvaluationStep)
    ]
    phases = {step.phase: step.settings for step in plans[1] if isinstance(step, TrainingStep)}
    encoders = "; each trained an encoder of its own" if "recon" in phases else ""
    notes = [f"Divisions done: {', '.join(map(str, sorted(done)))}{encoders}."]
    if other := _other_settings(args, phases):
        notes.append(f"Not as in configs/{args.Dataset}.yaml: {', '.join(other)}.")
    if not args.test_file:
        notes.append("The val list chose the best epoch, which flatters it; the last epoch was chosen by nothing.")
    title = f"{phases['seg'].Dataset}: {phases['seg'].variant}, {len(done)} of {args.divisions} divisions"
    page = division_table.markdown(title, results, args.published, notes)
    record = {"published": args.published, "notes": notes, "settings": {name: vars(s) for name, s in phases.items()}}
    division_table.write(Path(args.output_dir), page, record, results)
    say(f"\n{page}\n")


def _other_settings(args: argparse.Namespace, phases: dict[str, argparse.Namespace]) -> list[str]:
    """Where the settings are not those of the Dataset's configuration alone: "seg epochs 2 (300)"."""
    scripts = {"recon": train_recon, "seg": train_seg} if args.Dataset else {}
    return [
        f"{phase} {name} {value} ({configured[name]})"
        for phase, script in scripts.items()
        if phase in phases and (configured := vars(script.parser().settings(["--Dataset", args.Dataset])))
        for name, value in vars(phases[phase]).items()
        if value != configured[name] and name not in {*FREE_SETTINGS, "train_file_dir", "val_file_dir"}
    ]


def _training_flags() -> config.ScriptParser:
    """A parser of the flags of both training scripts."""
    both = train_seg.parser()
    known = {action.dest for action in both._actions}
    for action in train_recon.parser()._actions:
        if action.dest not in known:
            both._add_action(action)
    return both


def _known_to(script: ModuleType, args: argparse.Namespace) -> dict[str, object]:
    """The flags that were given and that this script takes."""
    known = vars(script.parser().parse_args([]))
    return {name: value for name, value in args.handed_on.items() if name in known}


def _flags(values: dict[str, object]) -> list[str]:
    return [flag for name, value in values.items() for flag in config.as_flags(name, value)]


if __name__ == "__main__":
    run_script(main, settings)
