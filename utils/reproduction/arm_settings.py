"""The settings in which the arms of an experiment differ, and those that they share, from their recorded runs."""

from __future__ import annotations

from typing import Any

from utils.common.tables import markdown
from utils.reproduction.comparable_runs import Runs
from utils.reproduction.result_lines import Line
from utils.reproduction.table_cells import NONE
from utils.settings.config import FREE_SETTINGS

# What differs between runs in any case, and what changes no figure.
_LEFT_OUT = {"seed", "train_file_dir", "val_file_dir", "test_file_dir", "recon_weights", "init_from", *FREE_SETTINGS}
# What a reader asks for first, of those that all arms share; the lines hold the rest.
_SHARED = ("variant", "img_size", "crop", "batch_size", "base_lr", "epochs", "normalization", "encoder_bn", "amp")
_PHASES = {"recon": "phase 1", "seg": "phase 2"}


def settings_of(line: Line) -> dict[tuple[str, str], Any]:
    """The settings of a run by phase and name, without those that always differ between runs."""
    phases = {phase: line["settings"][phase] or {} for phase in _PHASES}
    return {(phase, name): value for phase, of in phases.items() for name, value in of.items() if name not in _LEFT_OUT}


def differing_settings(runs: Runs) -> str:
    """A Markdown table with a row for each arm and a column for each setting that arms differ in; "" if none does.

    Settings of phase 1 are compared between the arms that have one.
    """
    arms = _arms(runs)
    names = [key for key in dict.fromkeys(key for of in arms.values() for key in of) if _values(arms, key) > 1]
    headings = [f"{name} ({_PHASES[phase]})" for phase, name in names]
    rows = [[arm, *(_shown(of, name) for name in names)] for arm, of in arms.items()]
    return markdown(["arm", *headings], rows) if names else ""


def shared_settings(runs: Runs) -> str:
    """A sentence about each phase: the settings of `_SHARED` that are equal in all arms; "" without a run."""
    arms = _arms(runs)
    sentences = []
    for phase, title in _PHASES.items():
        alike = [name for name in _SHARED if _values(arms, (phase, name)) == 1]
        shown = {name: next(v for of in arms.values() if (v := _shown(of, (phase, name))) != NONE) for name in alike}
        if shown:
            sentences.append(f"{title.capitalize()}: {', '.join(f'{name} {value}' for name, value in shown.items())}.")
    return " ".join(sentences)


def uneven_settings(runs: Runs) -> list[str]:
    """A sentence about each setting that differs between the runs of one arm."""
    found = []
    for arm, of in runs.items():
        each = {str(run): settings_of(line) for run, line in of.items()}
        for phase, name in dict.fromkeys(key for values in each.values() for key in values):
            if _values(each, (phase, name)) > 1:
                values = dict.fromkeys(_shown(values, (phase, name)) for values in each.values())
                found.append(f"the runs of {arm} differ in {name} of {_PHASES[phase]}: {', '.join(values)}")
    return found


def _arms(runs: Runs) -> dict[str, dict[tuple[str, str], Any]]:
    return {arm: settings_of(next(iter(of.values()))) for arm, of in runs.items() if of}


def _values(arms: dict[str, dict[tuple[str, str], Any]], key: tuple[str, str]) -> int:
    """The number of different values among the arms that have this phase; 0 if the setting is None everywhere."""
    having = [_shown(of, key) for of in arms.values() if any(phase == key[0] for phase, _ in of)]
    return len(set(having)) if set(having) - {NONE} else 0


def _shown(settings: dict[tuple[str, str], Any], key: tuple[str, str]) -> str:
    value = settings.get(key)
    return NONE if value is None else str(value)
