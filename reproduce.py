"""Run the paper's protocol, or an experiment, in one command: both phases, the evaluations, and the table.

    python reproduce.py --Dataset BUS                  # three divisions; a table with mean and standard deviation
    python reproduce.py --Dataset BUS --dry_run        # prints the commands, which are done, and the time to come
    python reproduce.py --Dataset sample --variant srs_tiny --recon_epochs 1 --seg_epochs 2 --divisions 2     # a trial
    python reproduce.py --Dataset BUS --nproc 4 --sync_bn                        # each training on four GPUs
    python reproduce.py --experiment busi128           # arms, divisions and seeds of experiments/busi128.yaml
    python reproduce.py --experiment busi128 --budget 150                    # stops within 150 minutes

With --Dataset, all other flags are passed to train_recon.py, train_seg.py and evaluation.py. The lists of division N
are trainN.txt and valN.txt in the data folder (written by `prepare_data.py split`), and testN.txt if it exists. Each
division trains its own encoder, on its own training list. Writes reproduce.md, .csv and .json to OUTPUT_DIR.

With --experiment, each finished run adds a line to docs/results/NAME.jsonl at once. The table is made from these lines.

An interrupted call can be repeated: it skips finished steps and resumes the interrupted epoch. Several processes, also
on other machines, can share OUTPUT_DIR: each takes other runs.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P omits it

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import evaluation
import train_recon
import train_seg
from utils.common.errors import UserError
from utils.common.processes import say
from utils.common.script import run_script
from utils.reproduction import division_table
from utils.reproduction.dataset_job import DatasetJob
from utils.reproduction.experiment_file import read_experiment
from utils.reproduction.experiment_job import ExperimentJob
from utils.reproduction.plan import Scripts, as_argv
from utils.reproduction.protocol_steps import check_images, shown
from utils.reproduction.work import Work, runner_for, work_through
from utils.settings import arguments, config

ROOT = Path(__file__).resolve().parent
SCRIPTS = Scripts(train_recon, train_seg, evaluation)
NOT_HERE = {
    "epochs": "use --recon_epochs and --seg_epochs",
    "resume": "reproduce.py always resumes",
    "train_file_dir": "use --train_file with a pattern for all divisions, e.g. train{}.txt",
    "val_file_dir": "use --val_file with a pattern for all divisions, e.g. val{}.txt",
    "test_file_dir": "use --test_file with a pattern for all divisions, e.g. test{}.txt",
    "recon_weights": "each division trains its own encoder; use train_seg.py for a given encoder",
    "init_from": "the protocol starts from scratch; use train_recon.py or train_seg.py",
}
OF_DATASET = ("Dataset", "config", "divisions", "train_file", "val_file", "test_file", "recon_epochs", "seg_epochs")
OF_EXPERIMENT = ("arms", "results_dir")


def parser() -> config.ScriptParser:
    parser = config.ScriptParser("reproduce", "Run the paper's protocol, or an experiment, and tabulate the results.")
    parser.epilog = "All other flags of train_recon.py and train_seg.py (see their --help) are passed to both."
    add = parser.add_argument
    numbers = {"type": arguments.positive, "metavar": "N"}
    folder = {"type": arguments.path, "metavar": "FOLDER"}
    add("--experiment", metavar="NAME", help="experiment to run: experiments/NAME.yaml, or a path to a YAML file")
    add("--arms", nargs="+", metavar="ARM", help="arms of the experiment to run (default: all)")
    add("--divisions", **numbers, default=3, help="number of random divisions of the data")
    add("--only", **numbers, nargs="+", help="numbers of the divisions to run (default: all)")
    add("--train_file", metavar="LISTS", default="train{}.txt", help="training lists; {} is the number of the division")
    add("--val_file", metavar="LISTS", default="val{}.txt", help="validation lists, which select the best epoch")
    add("--test_file", metavar="LISTS", help="test lists, evaluated in addition (default: test{}.txt if they exist)")
    add("--recon_epochs", **numbers, help="epochs of phase 1 (default: as configured)")
    add("--seg_epochs", **numbers, help="epochs of phase 2 (default: as configured)")
    add("--nproc", **numbers, default=1, help="processes of each script, by torchrun")
    add("--output_dir", **folder, help="output folder (default: checkpoints/NAME of the Dataset or experiment)")
    add("--results_dir", **folder, help="folder for the recorded results of an experiment (default: docs/results)")
    add("--budget", type=arguments.minutes, metavar="MINUTES", help="time limit, after which the runs can be resumed")
    add("--dry_run", action="store_true", help="dry run: print the commands, which are done, and the time to come")
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of this script, and in `handed_on` the given flags of the training scripts.

    Raises:
        UserError: for an unknown flag, or a flag that the protocol or the experiment decides.
    """
    given, rest = parser().given_and_rest(argv)
    args = argparse.Namespace(**{**vars(parser().parse_args([])), **given})
    handed_on = _training_flags().given(rest)
    for name, why in NOT_HERE.items():
        if name in handed_on:
            raise UserError(f"reproduce.py does not take --{name}: {why}")
    if args.experiment:
        return _experiment_settings(args, given, handed_on)
    if unfit := [name for name in OF_EXPERIMENT if name in given]:
        raise UserError(f"--{unfit[0]} requires --experiment")
    args.handed_on = {**{name: getattr(args, name) for name in ("Dataset", "config")}, **handed_on}
    configured = train_seg.parser().settings(as_argv(args.handed_on))
    args.base_dir = configured.base_dir
    args.output_dir = args.output_dir or str(config.output_dir(configured))
    args.published = division_table.published(args.Dataset, args.config)
    if args.only and max(args.only) > args.divisions:
        raise UserError(f"--only must be at most --divisions ({args.divisions}), got {max(args.only)}")
    return args


def _experiment_settings(args: argparse.Namespace, given: dict, handed_on: dict) -> argparse.Namespace:
    fixed = [name for name in OF_DATASET if name in given]
    fixed += [name for name in handed_on if name not in config.FREE_SETTINGS or name == "unlabeled_dir"]
    if fixed:
        raise UserError(f"--{fixed[0]} does not go with --experiment, whose file says what is run: {args.experiment}")
    args.handed_on = handed_on
    args.experiment = read_experiment(args.experiment)
    args.output_dir = args.output_dir or str(Path("checkpoints") / args.experiment.name)
    args.results_dir = args.results_dir or str(ROOT / "docs" / "results")
    args.base_dir = handed_on.get("base_dir") or args.experiment.data["base_dir"]
    return args


def main(args: argparse.Namespace) -> None:
    runner = runner_for(args.budget)  # first of all: the checks count
    job = ExperimentJob(args, SCRIPTS) if args.experiment else DatasetJob(args, SCRIPTS)
    job.check()
    # Every run is checked before the first one starts: an error in the last would be found hours later.
    plans = [(run, [] if job.recorded(run) else job.steps(run)) for run in job.chosen]
    progress = [[(step, step.progress()) for step in steps] for _, steps in plans]
    to_do = [plan for plan, of in zip(plans, progress, strict=True) if not all(state.done for _, state in of)]
    if args.dry_run:
        for (run, _), states in zip(plans, progress, strict=True):
            if place := job.recorded(run):
                say(f"# {run.title}: done, in {place}")
            for step, state in states:
                say(f"# {run.title}, {step.title}: {state.text}\n{shown(step, args.nproc)}")
        from utils.reproduction.times import Times  # here: torch comes with it

        say(Times(to_do, job.lines()).summary())
        return
    for run, steps in {run.division: (run, steps) for run, steps in reversed(to_do)}.values():
        check_images(run, steps)
    work = Work(job.chosen, job.folder / "claims", job.steps, job.is_finished, job.finish, args.nproc, job.keep_going)
    with runner:
        done = work_through(work, runner)
    job.conclude(done)


def _training_flags() -> config.ScriptParser:
    """A parser of the flags of both training scripts."""
    both = train_seg.parser()
    known = {action.dest for action in both._actions}
    for action in train_recon.parser()._actions:
        if action.dest not in known:
            both._add_action(action)
    return both


if __name__ == "__main__":
    run_script(main, settings)
