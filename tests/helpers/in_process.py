"""reproduce.py whose scripts run inside its own process: seconds instead of one start of Python and torch a step.

python tests/helpers/in_process.py --experiment FILE ...       # as reproduce.py, with networks of one block a node
"""

from __future__ import annotations

from pathlib import Path

import pytest

import evaluation
import models
import reproduce
import train_recon
import train_seg
from models import registry
from utils.common.script import run_script
from utils.common.signals import Stopped
from utils.reproduction.run_scripts import CommandRunner

MODULES = {"train_recon": train_recon, "train_seg": train_seg, "evaluation": evaluation}


def shallow_networks(patch: pytest.MonkeyPatch) -> None:
    """Most of the time would go into reading checkpoints of a thousand tensors."""
    patch.setattr(registry, "RECONSTRUCTION_DEPTHS", (1, 1, 1, 1))
    patch.setitem(models.VARIANTS, "srs_tiny", registry.Variant((8, 16, 32, 64), (1, 1, 1, 1)))


def run_inside(patch: pytest.MonkeyPatch, calls: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Has the scripts run inside this process; returns `calls`, which gets what runs: the script, its --output_dir."""

    def run(runner, command, held):
        if runner.stopped():
            return 128 + runner.number
        script, *argv = command[1:]
        name = Path(script).stem
        (output,) = [flag.partition("=")[2] for flag in argv if flag.startswith("--output_dir")]
        calls.append((name, Path(output)))
        module = MODULES[name]
        parse = evaluation.settings if name == "evaluation" else module.parser().settings
        try:
            module.main(parse(argv))
        except Stopped as stopped:
            runner.number = stopped.number
            return 128 + stopped.number
        return 0

    patch.setattr(CommandRunner, "run", run)
    return calls
    return calls


def main() -> None:
    """reproduce.py with its command line."""
    with pytest.MonkeyPatch.context() as patch:
        shallow_networks(patch)
        run_inside(patch, [])
        run_script(reproduce.main, reproduce.settings)
