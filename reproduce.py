"""Experiments in one command: both phases and the evaluations of every run, and the table of their results.

    python reproduce.py --Dataset BUS                  # the paper's protocol: three divisions, a table with mean and sd
    python reproduce.py --Dataset BUS --dry_run        # what it would run, what is done, and how long the rest takes
    python reproduce.py --Dataset sample --variant srs_tiny --recon_epochs 1 --seg_epochs 2 --divisions 2     # a trial
    python reproduce.py --Dataset BUS --nproc 4 --sync_bn                        # each training on four GPUs
    python reproduce.py --experiment busi128           # arms, divisions and seeds of experiments/busi128.yaml
    python reproduce.py --experiment busi128 --budget 150 --output_dir /data/runs      # two hours and a half of it

With --Dataset any other flag is handed on to train_recon.py, train_seg.py and evaluation.py. The lists of division N
are trainN.txt and valN.txt in the data folder (`prepare_data.py split` draws them), and testN.txt where there is one.
Each division trains an encoder of its own, on its own training list. Writes reproduce.md, .csv, .json into OUTPUT_DIR.

With --experiment each finished run adds a line to docs/results/NAME.jsonl at once, from which the table is made.

It can be stopped or killed at any moment: the same command resumes inside the epoch and skips what is done. Several
processes and machines that share OUTPUT_DIR take different runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -P leaves it out

import _this_folder  # noqa: F401
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
from utils.reproduction.protocol import check_images, shown
from utils.reproduction.work import Work, runner_for, work_through
from utils.settings import arguments, config

ROOT = Path(__file__).resolve().parent
SCRIPTS = Scripts(train_recon, train_seg, evaluation)
NOT_HERE = {
    "epochs": "--recon_epochs and --seg_epochs name the phases' own",
    "resume": "reproduce.py always resumes",
    "train_file_dir": "--train_file takes the lists of all divisions, as in train{}.txt",
    "val_file_dir": "--val_file takes the lists of all divisions, as in val{}.txt",
    "test_file_dir": "--test_file takes the lists of all divisions, as in test{}.txt",
    "recon_weights": "each division trains an encoder of its own; train_seg.py takes a given one",
    "init_from": "the protocol starts from scratch; the training scripts take it",
}
OF_DATASET = ("Dataset", "config", "divisions", "train_file", "val_file", "test_file", "recon_epochs", "seg_epochs")
OF_EXPERIMENT = ("arms", "results_dir")


def parser() -> config.ScriptParser:
    parser = config.ScriptParser("reproduce", "All runs of the paper's protocol, or of an experiment, and their table.")
    parser.epilog = "Any other flag of train_recon.py and train_seg.py (--help lists them) is handed on to both."
    add = parser.add_argument
    add("--experiment", metavar="NAME", help="experiments/NAME.yaml, or a path to such a file")
    add("--arms", nargs="+", metavar="ARM", help="run these arms of the experiment alone")
    add("--divisions", type=arguments.positive, default=3, metavar="N", help="random divisions of the data")
    add("--only", type=arguments.positive, nargs="+", metavar="N", help="run these divisions alone")
    add("--train_file", metavar="LISTS", default="train{}.txt", help="{} is the division's number")
    add("--val_file", metavar="LISTS", default="val{}.txt", help="these choose the best epoch, as in training")
    add("--test_file", metavar="LISTS", help="evaluated, too; test{}.txt if there are such lists")
    add("--recon_epochs", type=arguments.positive, metavar="N", help="of phase 1; as configured if not set")
    add("--seg_epochs", type=arguments.positive, metavar="N", help="of phase 2; as configured if not set")
    add("--nproc", type=arguments.positive, default=1, metavar="N", help="processes for each script, by torchrun")
    add("--output_dir", type=arguments.path, metavar="FOLDER", help="checkpoints/NAME if not set")
    add(
        "--results_dir", type=arguments.path, metavar="FOLDER", help="of an experiment's lines; docs/results if not set"
    )
    add("--budget", type=arguments.minutes, metavar="MINUTES", help="stop before this time is over, as at a signal")
    add("--dry_run", action="store_true", help="print the commands, which of them are done, and the time to come")
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of this script, and in `handed_on` those of the training scripts that were given.

    Raises:
        UserError: for a flag that neither knows, or that the protocol or the experiment decides.
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
        raise UserError(f"--only {max(args.only)}: there are {args.divisions} divisions")
    return args


def _experiment_settings(args: argparse.Namespace, given: dict, handed_on: dict) -> argparse.Namespace:
    fixed = [name for name in OF_DATASET if name in given]
    fixed += [name for name in handed_on if name not in config.FREE_SETTINGS]
    if fixed:
        raise UserError(f"--{fixed[0]} does not go with --experiment, whose file says what is run: {args.experiment}")
    args.handed_on = handed_on
    args.experiment = read_experiment(args.experiment)
    args.output_dir = args.output_dir or str(Path("checkpoints") / args.experiment.name)
    args.results_dir = args.results_dir or str(ROOT / "docs" / "results")
    args.base_dir = handed_on.get("base_dir") or args.experiment.data["base_dir"]
    return args


def main(args: argparse.Namespace) -> None:
    job = ExperimentJob(args, SCRIPTS) if args.experiment else DatasetJob(args, SCRIPTS)
    job.check()
    # Everything is looked at before anything runs: hours into the first run is late for a fault in the last.
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
    with runner_for(args.budget) as runner:
        work_through(work, runner)
    job.tabulate()


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
