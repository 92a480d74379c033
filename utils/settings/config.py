"""Settings: a parser's defaults, then configs/NAME.yaml, then the command line; the last one that speaks wins.

A configuration's keys are flag names. A section named like a script holds what only that script takes:

    base_dir: DataSet/bus
    img_size: 256
    train_recon: {epochs: 100}
    train_seg: {epochs: 300}

One key is no flag: `published`, see `utils.reproduction.division_table.published`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from utils.common.errors import UserError
from utils.common.printable import one_line
from utils.common.processes import say
from utils.settings.arguments import (
    LOSS,
    HelpFormatter,
    Repeated,
    add_segmentation_arguments,
    add_shared_arguments,
    path,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Settings that a run may change when it goes on; all others are the experiment itself.
FREE_SETTINGS = {
    "Dataset",
    "cache",
    "channels_last",
    "compile",
    "config",
    "base_dir",
    "device",
    "deterministic",
    "workers",
    "output_dir",
    "resume",
    "save_every",
    "test_file_dir",  # no training looks at it
    "threads",
    "unlabeled_dir",  # which images there are is recorded with the lists
}

_UNSET = object()

SCRIPTS = ("train_recon", "train_seg", "evaluation")


class ScriptParser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors, with --Dataset and --config, and `settings()` in layers."""

    def __init__(self, script: str, description: str) -> None:
        super().__init__(
            prog=f"{script}.py",
            description=description,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self.script = script
        self.add_argument("--Dataset", metavar="NAME", help="takes its settings from configs/NAME.yaml")
        self.add_argument(
            "--config", type=path, metavar="FILE", help="a YAML file of your own, in place of configs/NAME.yaml"
        )

    def error(self, message: str) -> None:
        raise UserError(f"{message} (python {self.prog} --help lists the flags)")

    def settings(
        self, argv: Sequence[str] | None = None, recorded: Mapping[str, Any] | None = None
    ) -> argparse.Namespace:
        """The resolved settings.

        Args:
            argv: the command line; sys.argv's if not given.
            recorded: settings of a checkpoint, which win over the configuration but not over the command line.

        Raises:
            UserError: for a flag, key or value that is unknown or does not fit, naming the file it stands in.
        """
        given = self.given(argv)
        layers = [vars(self.parse_args([])), self._configuration(given), recorded or {}, given]
        settings = argparse.Namespace(**{name: value for layer in layers for name, value in layer.items()})
        if settings.Dataset is None:
            if settings.base_dir is None:
                raise UserError(f"which data? Pass --Dataset NAME ({', '.join(known_datasets())}) or --base_dir FOLDER")
            settings.Dataset = Path(settings.base_dir).resolve().name
        return settings

    def given(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """Only what stands in argv."""
        # argparse fills in no default where the namespace holds a value already.
        unset = argparse.Namespace(**dict.fromkeys(vars(self.parse_args([])), _UNSET))
        return {name: value for name, value in vars(self.parse_args(argv, unset)).items() if value is not _UNSET}

    def configured(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """What the configuration file says of this script's settings."""
        return self._configuration(self.given(argv))

    def _configuration(self, given: Mapping[str, Any]) -> dict[str, Any]:
        path = find_configuration(given.get("Dataset"), given.get("config"))
        if path is None:
            return {}
        values = read_yaml(path)
        values.pop("published", None)
        sections = {name: values.pop(name) or {} for name in SCRIPTS if name in values}
        known = vars(_every_shared_argument().parse_args([]))
        for name in values:
            if name not in known:
                raise UserError(f"{path}: unknown setting {name!r}; the settings are {', '.join(sorted(known))}")
        values = {name: value for name, value in values.items() if name in vars(self.parse_args([]))}
        values.update(sections.get(self.script, {}))
        repeated = {action.dest for action in self._actions if isinstance(action, Repeated)}
        # YAML 1.1's words for true and false, where nothing else can be meant.
        switches = {action.dest for action in self._actions if isinstance(action, argparse.BooleanOptionalAction)}
        words = {"yes": True, "on": True, "no": False, "off": False}
        values = {
            name: words.get(str(value).lower(), value) if name in switches else value for name, value in values.items()
        }
        # A list for a flag that takes one value is refused as such, not its last item taken.
        values = {
            name: value if name in repeated or not isinstance(value, list) else str(value)
            for name, value in values.items()
        }
        flags = [flag for name, value in values.items() for flag in as_flags(name, value)]
        try:
            return self.given(flags)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def known_datasets() -> list[str]:
    """The names that --Dataset takes."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def run_settings(script: ScriptParser, phase: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The settings of a training, `phase` being its folder in the experiment's.

    A run that is resumed keeps what it was begun with where it is older than a setting, or where its configuration
    file has been changed since, unless the command line says otherwise; it says so.

    Raises:
        UserError: see `ScriptParser.settings`; or if the run's last.pth cannot be read.
    """
    settings = script.settings(argv)
    last = output_dir(settings) / phase / "last.pth"
    if not settings.resume or not last.is_file():
        return settings
    from utils.networks.checkpoints import EARLIER, load_settings  # here: it imports torch
    from utils.settings.recorded import recorded_settings

    begun_with = recorded_settings(load_settings(last, phase), last)
    names = dict.fromkeys([*EARLIER, *script.configured(argv)])
    recorded = {name: begun_with[name] for name in names if name in begun_with and name not in FREE_SETTINGS}
    kept = script.settings(argv, recorded)
    for name in recorded:
        new, old = getattr(settings, name), getattr(kept, name)
        if old != new:
            say(f"{last}: the run was begun with --{name} {old} and keeps it; a new run would take {new}")
    return kept


def trained_resize(settings: Mapping[str, Any]) -> str:
    """The --resize that fits a checkpoint of these settings: crops were taken from images that kept their size."""
    return "keep" if settings.get("crop") else "img_size"


def output_dir(settings: argparse.Namespace) -> Path:
    """The folder of the experiment; each script writes into a folder of its own in it (recon, seg, evaluation)."""
    return Path(settings.output_dir or Path("checkpoints") / settings.Dataset)


def describe(settings: argparse.Namespace) -> str:
    """The resolved settings, one a line, as the scripts print them."""
    given = sorted((name, value) for name, value in vars(settings).items() if value is not None)
    return "\n".join(f"  {name:<15} {one_line(str(value))}" for name, value in given)


def as_flags(name: str, value: object) -> list[str]:
    """A setting as its flag, so that both are checked by the same rules: none for None, one for each item of a list."""
    if value is None:
        return []
    if isinstance(value, list):
        return [flag for item in value for flag in as_flags(name, item)]
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}={value}"]


def _every_shared_argument() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    add_shared_arguments(parser, epochs=1)
    add_segmentation_arguments(parser, [LOSS])
    return parser


def with_defaults(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run; what was not a setting yet when they were recorded has today's default."""
    return {**vars(_every_shared_argument().parse_args([])), **recorded}


def find_configuration(dataset: str | None, config: str | None) -> Path | None:
    """The file that --Dataset or --config names; None if neither is given.

    Raises:
        UserError: for an unknown Dataset.
    """
    if config is not None:
        return Path(config)
    if dataset is None:
        return None
    path = CONFIGS / f"{dataset}.yaml"
    if dataset not in known_datasets():
        raise UserError(
            f"there is no {path}; --Dataset takes {', '.join(known_datasets())}. For data of your own leave "
            "--Dataset out and pass --base_dir FOLDER, or write a configuration of your own and pass --config FILE"
        )
    return path


class _Loader(yaml.SafeLoader):
    """YAML of this century: a key stands once, and what YAML 1.1 takes for something else is the word that it looks
    like. There `0100` is 64, `1:30` is 90, `1_000` is 1000, and `off` is false. true and false are booleans."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                wrong = f"{key.value!r} is given twice" if isinstance(key, yaml.ScalarNode) else "a key must be a word"
                raise yaml.constructor.ConstructorError(None, None, wrong, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_NUMBERS = {  # of YAML 1.2's core schema
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in (*_NUMBERS, "timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_rule, _first) in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_rule})$"), list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a configuration file, unchecked.

    Raises:
        UserError: if it cannot be read or is none.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the configuration {path}: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{path}: expected lines of the form 'flag: value'")
    return values
