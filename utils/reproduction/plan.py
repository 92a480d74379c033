"""The runs of an experiment, and the steps of each: the command lines of the scripts.

experiments/NAME.yaml, or --Dataset and flags  ->  runs  ->  steps: phase 1, phase 2, evaluations
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import models
from utils.common.errors import UserError
from utils.reproduction.experiment_file import Arm, Experiment
from utils.reproduction.protocol_steps import EvaluationStep, Step, TrainingStep, numbered
from utils.settings import config
from utils.settings.config import FREE_SETTINGS
from utils.settings.refusals import check_views, naming_the_network

# What phase 1 does not read, so that arms that differ in it share one.
NOT_READ_BY_PHASE_1 = {"encoder_bn", "mask_interpolation", "mask_suffix", "mask_threshold", "fit_masks"}
# What an experiment's own keys say, or the runner decides.
DECIDED = {
    "Dataset": "data.base_dir names the data",
    "config": "the experiment's file is the configuration",
    "base_dir": "data.base_dir names the data",
    "train_file_dir": "data.train_file names the lists",
    "val_file_dir": "data.val_file names the lists",
    "test_file_dir": "data.test_file names the lists",
    "seed": "seeds lists them",
    "epochs": "recon_epochs and seg_epochs name the phases' own",
    "code": "code lists them",
    "resume": "runs are always resumed",
    "init_from": "runs start from scratch",
    "unlabeled_dir": "both phases train on the images of the lists. Train such an encoder with train_recon.py",
    **dict.fromkeys(("output_dir", "recon_weights", "seg_weights", "weights"), "the runner names the files"),
    **dict.fromkeys(("report", "test", "compare", "unlike_protocols"), "the runner evaluates and tabulates"),
}


@dataclass(frozen=True)
class Scripts:
    """The scripts, which this package cannot import."""

    train_recon: ModuleType
    train_seg: ModuleType
    evaluation: ModuleType

    def __iter__(self):
        return iter((self.train_recon, self.train_seg, self.evaluation))


@dataclass(frozen=True, eq=False)
class Run:
    """One run: both phases and the evaluations, of an arm on a division with a seed.

    Attributes:
        arm, seed: "" and None for --Dataset alone.
        flags: of each script, by its name.
        lists: of the division, by "train", "val" and perhaps "test".
        epochs: of the phases, by "recon" and "seg"; None: as configured.
        folder: its seg/ and evaluation/ are in it.
        encoder: the folder that the recon/ of phase 1 is in, which may be other runs', too.
        codes: see `utils.reproduction.experiment_file.Arm`.
    """

    arm: str
    division: int
    seed: int | None
    flags: Mapping[str, Mapping[str, Any]]
    lists: Mapping[str, str]
    epochs: Mapping[str, int | None]
    folder: Path
    encoder: Path
    codes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, int, int | None]:
        return self.arm, self.division, self.seed

    @property
    def name(self) -> str:
        """Of its claim."""
        return f"{self.arm}-division{self.division}-seed{self.seed}" if self.arm else f"division{self.division}"

    @property
    def title(self) -> str:
        """In words."""
        return (
            f"arm {self.arm}, division {self.division}, seed {self.seed}" if self.arm else f"division {self.division}"
        )


def steps(run: Run, scripts: Scripts) -> list[Step]:
    """The steps of a run, in order. A training that has started keeps its settings, see `config.run_settings`."""
    plan: list[Step] = []
    for script in trainings(run, scripts):
        phase = _phase(script)
        argv = training_flags(run, script, bool(plan))
        settings = config.run_settings(script.parser(), phase, [*argv, "--resume=auto"])
        folder = _folder(run, phase) / phase
        before = run.encoder / "recon" if plan else None
        number = 1 if phase == "recon" else 2
        plan.append(TrainingStep(f"phase {number}", f"{script.__name__}.py", argv, settings, phase, folder, before))
    for on in ("val", "test"):
        for weights in ("best", "last") if on in run.lists else ():
            plan.append(_evaluation(run, scripts, on, weights))
    reported = "test" if "test" in run.lists else "val"
    return [*plan, *(_evaluation(run, scripts, reported, "best", code) for code in run.codes)]


def trainings(run: Run, scripts: Scripts) -> list[ModuleType]:
    """The training scripts of a run: both, or phase 2 alone where the network holds no pretrained encoder."""
    network = scripts.train_seg.parser().settings(as_argv({**run.flags["train_seg"], "base_dir": "."}))
    with naming_the_network(network):
        both = models.needs_phase_1(network.variant, network.dynamic, network.kernel_source)
    return [scripts.train_recon, scripts.train_seg] if both else [scripts.train_seg]


def training_flags(run: Run, script: ModuleType, after_phase_1: bool) -> list[str]:
    """The command line of a training script, without --resume."""
    phase = _phase(script)
    given = {
        **run.flags[script.__name__],
        "train_file_dir": run.lists["train"],
        "val_file_dir": run.lists["val"],
        "epochs": run.epochs[phase],
        "output_dir": _folder(run, phase),
    }
    if after_phase_1 and run.encoder != run.folder:
        given["recon_weights"] = run.encoder / "recon" / "best.pth"
    return as_argv(given)


def evaluation_settings(run: Run, scripts: Scripts) -> argparse.Namespace:
    """The settings of a run's evaluations, from the experiment's file alone; not their list and weights.

    What evaluation.py reads from the checkpoint is what phase 2 will record there.
    """
    script, training = scripts.evaluation, scripts.train_seg
    argv = [*as_argv({"base_dir": "."}), *training_flags(run, training, False)]
    trained_with = vars(training.parser().settings(argv))
    names = (*script.MODEL_SETTINGS, *script.DATA_SETTINGS)
    recorded = {**{name: trained_with[name] for name in names}, "resize": config.trained_resize(trained_with)}
    return script.parser().settings(as_argv({**run.flags["evaluation"], "base_dir": "."}), recorded)


def _phase(script: ModuleType) -> str:
    return script.__name__.removeprefix("train_")


def _folder(run: Run, phase: str) -> Path:
    return run.encoder if phase == "recon" else run.folder


def _evaluation(run: Run, scripts: Scripts, on: str, weights: str, code: str | None = None) -> EvaluationStep:
    script, name, checkpoint = scripts.evaluation, run.lists[on], run.folder / "seg" / f"{weights}.pth"
    given = {**run.flags["evaluation"], "val_file_dir": name, "weights": checkpoint, "output_dir": run.folder}
    argv = as_argv({**given, "code": code})
    settings = _read_once(functools.partial(script.settings, argv), checkpoint)
    title = f"{weights} epoch on {name}" + (f" with code {code}" if code else "")
    return EvaluationStep(
        title, "evaluation.py", argv, settings, weights, on, checkpoint, script.results_folder, code=code
    )


def _read_once(settings: Callable[[], argparse.Namespace], checkpoint: Path) -> Callable[[], argparse.Namespace]:
    """The same function, which reads the checkpoint again when the file has changed."""
    known: dict[tuple[int, int], argparse.Namespace] = {}

    def resolved() -> argparse.Namespace:
        status = checkpoint.stat()
        version = status.st_mtime_ns, status.st_ino
        if version not in known:
            known.clear()
            known[version] = settings()
        return known[version]

    return resolved


def as_argv(values: Mapping[str, object]) -> list[str]:
    """Settings as a command line."""
    return [flag for name, value in values.items() for flag in config.as_flags(name, value)]


def known_to(script: ModuleType, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that this script takes."""
    known = {action.dest for action in script.parser()._actions}
    return {name: value for name, value in flags.items() if name in known}


def experiment_runs(experiment: Experiment, scripts: Scripts, output_dir: Path, free: Mapping[str, Any]) -> list[Run]:
    """The runs in the order of their execution.

    Args:
        free: flags of the command line, base_dir among them: they change no result.

    Raises:
        UserError: for a flag that no script takes, a value that does not fit, or an evaluation that is impossible;
            names the file and the arm.
    """
    flags = {name: _checked(experiment, name, arm, scripts) for name, arm in experiment.arms.items()}
    patterns = {on: experiment.data[f"{on}_file"] for on in ("train", "val", "test")}
    runs = []
    for name, division, seed in experiment.order():
        given = {
            script.__name__: {**flags[name][script.__name__], **known_to(script, free), "seed": seed}
            for script in scripts
        }
        run = Run(
            name,
            division,
            seed,
            given,
            {on: numbered(pattern, division) for on, pattern in patterns.items() if pattern},
            {"recon": experiment.recon_epochs, "seg": experiment.seg_epochs},
            output_dir / name / f"division{division}-seed{seed}",
            output_dir / "encoders",
            experiment.arms[name].code,
        )
        runs.append(replace(run, encoder=run.encoder / _encoder_name(run, scripts.train_recon)))
    for name, run in {run.arm: run for run in runs}.items():
        try:
            _check_evaluations(run, scripts)
        except UserError as error:
            raise UserError(f"{experiment.path}, arm {name}: {error}") from error
    return runs


def _check_evaluations(run: Run, scripts: Scripts) -> None:
    """The checks of evaluation.py, which would fail after the training."""
    settings = evaluation_settings(run, scripts)
    for code in run.codes or ("own",):
        settings.code = code
        check_views(settings)
    if run.codes and (settings.variant not in models.VARIANTS or settings.dynamic != models.DPCONV):
        from utils.evaluation.code_swap import check_codes  # here: it imports torch

        with naming_the_network(settings):
            network = models.build(settings.variant, layer=settings.dynamic, kernel_source=settings.kernel_source)
        check_codes(network, run.codes[0])


def _encoder_name(run: Run, script: ModuleType) -> str:
    """Of the folder of phase 1: the same for all runs whose settings of it differ from the defaults in the same way."""
    parser = script.parser()
    resolved = vars(parser.settings([*training_flags(run, script, False), "--base_dir=."]))
    defaults = vars(parser.parse_args([]))
    own = {name: value for name, value in resolved.items() if name not in FREE_SETTINGS and value != defaults[name]}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    return f"{run.division}-{run.seed}-{digest[:8]}"


def _checked(experiment: Experiment, name: str, arm: Arm, scripts: Scripts) -> dict[str, dict[str, Any]]:
    """The flags of an arm for each script, as its parser reads them."""
    where = f"{experiment.path}, arm {name}"
    for flag in [*arm.flags, *(flag for section in arm.sections.values() for flag in section)]:
        if flag in DECIDED:
            raise UserError(f"{where}: {flag} is not taken here, {DECIDED[flag]}")
    every = [known_to(script, arm.flags) for script in scripts]
    if unknown := [flag for flag in arm.flags if not any(flag in known for known in every)]:
        raise UserError(f"{where}: unknown flag {unknown[0]!r}; python train_seg.py --help lists the flags")
    of_scripts = {}
    for script, known in zip(scripts, every, strict=True):
        values = {**known, **arm.sections.get(script.__name__, {})}
        of_scripts[script.__name__] = script.parser().from_file(values, where)
    for flag in NOT_READ_BY_PHASE_1:
        of_scripts["train_recon"].pop(flag, None)
    return of_scripts
