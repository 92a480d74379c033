"""experiments/NAME.yaml: what an experiment compares, and on what. docs/how_to/experiments.md describes the keys.

data: {base_dir: DataSet/BUSI, train_file: "train{}.txt", val_file: "val{}.txt"}
divisions: 3
seeds: [41, 42]
recon_epochs: 20
seg_epochs: 40
flags: {variant: srs_tiny, img_size: 128}
arms:
  none: {dynamic: none}
  dpconv: {dynamic: dpconv}
code: [swap]
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import DPCONV, VARIANTS
from utils.common.errors import UserError
from utils.reproduction.result_lines import NAME
from utils.settings.argument_types import seed
from utils.settings.config import SCRIPTS
from utils.settings.inference_arguments import CODES
from utils.settings.yaml_files import read_yaml

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
KEYS = ("data", "divisions", "seeds", "recon_epochs", "seg_epochs", "flags", "arms", "groups", "code")
DATA = {"base_dir": None, "train_file": "train{}.txt", "val_file": "val{}.txt", "test_file": None}
OTHER_CODES = tuple(code for code in CODES if code != "own")


@dataclass(frozen=True)
class Arm:
    """The settings of one arm, in addition to those of all arms.

    Attributes:
        flags: of all scripts; a script gets those that it takes. Unchecked: `utils.reproduction.plan.experiment_runs`
            has the parsers.
        sections: flags of one script alone, by its name.
        code: other codes than the images' own that its best epoch is evaluated with.
    """

    flags: Mapping[str, Any]
    sections: Mapping[str, Mapping[str, Any]]
    code: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """The content of an experiment's file.

    Attributes:
        data: base_dir, train_file, val_file, test_file; lists hold {} for the division's number.
        groups: the arms in the order in which they are run, see `order`.
    """

    path: Path
    data: Mapping[str, str | None]
    divisions: tuple[int, ...]
    seeds: tuple[int, ...]
    recon_epochs: int | None
    seg_epochs: int | None
    arms: Mapping[str, Arm]
    groups: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        return self.path.stem

    def order(self) -> list[tuple[str, int, int]]:
        """(arm, division, seed) of every run, in the order of execution: one group of arms after the other; of a group
        one seed after the other; of a seed one division after the other, on which all arms run. So what is done at any
        moment can be compared, and a second seed comes when the first has been on all divisions."""
        return [
            (arm, division, seed)
            for group in self.groups
            for seed in self.seeds
            for division in self.divisions
            for arm in group
        ]


def known_experiments() -> list[str]:
    """The names that --experiment takes."""
    return sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))


def read_experiment(name: str) -> Experiment:
    """The experiment of experiments/NAME.yaml, or of a YAML file that is named by its path.

    Raises:
        UserError: for an unknown name, or a file with anything but the keys and values above; names the file.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(known_experiments())
        raise UserError(f"--experiment {name}: {path} was not found; there are {known}, or pass a path to a YAML file")
    values = read_yaml(path)
    try:
        return _experiment(path, values)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _experiment(path: Path, values: Mapping[str, Any]) -> Experiment:
    if not NAME.fullmatch(path.stem):
        raise ValueError("an experiment's name is made of letters, digits, _, . and -")
    _only(values, KEYS, "key")
    for key in ("data", "arms", "seeds", "divisions"):
        if key not in values:
            raise ValueError(f"{key} is missing")
    data = _mapping(values["data"], "data")
    _only(data, tuple(DATA), "key of data")
    if not isinstance(data.get("base_dir"), str):
        raise ValueError("data.base_dir must name the data folder, such as DataSet/BUSI")
    for key, value in data.items():
        if not isinstance(value, str) and (value is not None or key != "test_file"):
            raise ValueError(f"data.{key} must be a text, found {value!r}")
    divisions = values["divisions"]
    divisions = list(range(1, _positive(divisions, "divisions") + 1)) if isinstance(divisions, int) else divisions
    common = _mapping(values.get("flags") or {}, "flags")
    arms = _mapping(values["arms"], "arms")
    if not arms:
        raise ValueError("arms must name at least one arm")
    of_all = _codes(values.get("code"), "code")
    read = {name: _arm(name, arms[name], common, of_all) for name in arms}
    return Experiment(
        path,
        {**DATA, **data},
        _numbers(divisions, "divisions", 1),
        _seeds(values["seeds"]),
        *(None if values.get(key) is None else _positive(values[key], key) for key in ("recon_epochs", "seg_epochs")),
        read,
        _groups(values.get("groups"), list(read)),
    )


def _arm(name: str, given: Any, common: Mapping[str, Any], of_all: tuple[str, ...]) -> Arm:
    if not NAME.fullmatch(name):
        raise ValueError(f"arm {name!r}: a name is made of letters, digits, _, . and -")
    given = dict(_mapping(given or {}, f"arm {name}"))
    own_codes = "code" in given
    code = _codes(given.pop("code", None), f"arm {name}, code")
    parts = [dict(common), given]
    sections: dict[str, dict[str, Any]] = {}
    for part in parts:
        for script in SCRIPTS:
            if script in part:
                sections.setdefault(script, {}).update(_mapping(part.pop(script) or {}, f"arm {name}, {script}"))
    flags = {key: value for part in parts for key, value in part.items()}
    by_dpconv = flags.get("variant", "srs") in VARIANTS and flags.get("dynamic", DPCONV) == DPCONV
    return Arm(flags, sections, code if own_codes else of_all if by_dpconv else ())


def _groups(groups: Any, arms: list[str]) -> tuple[tuple[str, ...], ...]:
    if groups is None:
        return (tuple(arms),)
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise ValueError("groups must be lists of arms, such as [[none, dpconv], [gate]]")
    named = tuple(tuple(map(str, group)) for group in groups)  # YAML reads an arm "1" as a number
    if sorted(arm for group in named for arm in group) != sorted(arms):
        raise ValueError(f"groups must name each arm once; the arms are {', '.join(arms)}")
    return named


def _only(values: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"unknown {what} {unknown[0]!r}; known are {', '.join(known)}")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} must have the form {{name: value}}, found {value!r}")
    return value


def _positive(value: Any, what: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{what} must be an integer of at least 1, found {value!r}")
    return value


def _numbers(values: Any, what: str, least: int) -> tuple[int, ...]:
    whole = isinstance(values, list) and all(type(value) is int and value >= least for value in values)
    if not whole or not values or len(set(values)) < len(values):
        raise ValueError(f"{what} must be different integers of at least {least}, such as [41, 42], found {values!r}")
    return tuple(values)


def _seeds(values: Any) -> tuple[int, ...]:
    numbers = _numbers(values, "seeds", 0)
    for number in numbers:
        try:
            seed(str(number))  # as the flag
        except ArgumentTypeError as error:
            raise ValueError(f"seeds: {error}") from error
    return numbers


def _codes(values: Any, what: str) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list) or any(value not in OTHER_CODES for value in values):
        raise ValueError(f"{what} must be a list of {', '.join(OTHER_CODES)}, found {values!r}")
    return tuple(values)
