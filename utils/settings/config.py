"""Settings: the defaults of a parser, overridden by configs/NAME.yaml, overridden by the command line.

The keys of a configuration are flag names. A section named after a script contains settings of that script alone:

    base_dir: DataSet/bus
    img_size: 256
    train_recon: {epochs: 100}
    train_seg: {epochs: 300}

The key `published` is not a flag, see `utils.reproduction.division_table.published`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.common.printable import one_line
from utils.common.processes import say
from utils.common.version import add_version
from utils.settings.arguments import (
    LOSS,
    HelpFormatter,
    Repeated,
    add_segmentation_arguments,
    add_shared_arguments,
    path,
)
from utils.settings.yaml_files import read_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Settings that may change when a run is resumed; all others define the experiment.
FREE_SETTINGS = {
    "Dataset",
    "cache",
    "channels_last",
    "compile",
    "config",
    "cuda_graphs",
    "base_dir",
    "device",
    "deterministic",
    "workers",
    "output_dir",
    "resume",
    "save_every",
    "test_file_dir",  # training never reads it
    "threads",
    "unlabeled_dir",  # the hash of its images is compared instead, with those of the lists
    "verbose",
}

_UNSET = object()

SCRIPTS = ("train_recon", "train_seg", "evaluation")
NOT_IN_FILES = {"help", "version", "Dataset", "config"}


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
        add_version(self)
        self.add_argument("--Dataset", metavar="NAME", help="data set: use the settings in configs/NAME.yaml")
        self.add_argument(
            "--config", type=path, metavar="FILE", help="configuration file (YAML) that replaces configs/NAME.yaml"
        )

    def error(self, message: str) -> None:
        raise UserError(f"{message} (python {self.prog} --help lists the flags)")

    def settings(
        self, argv: Sequence[str] | None = None, recorded: Mapping[str, Any] | None = None
    ) -> argparse.Namespace:
        """The resolved settings.

        Args:
            argv: the command line (default: sys.argv[1:]).
            recorded: settings of a checkpoint, which override the configuration but not the command line.

        Raises:
            UserError: for an unknown flag or key and for an invalid value, with the name of the file.
        """
        given = self.given(argv)
        layers = [vars(self.parse_args([])), self._configuration(given), recorded or {}, given]
        settings = argparse.Namespace(**{name: value for layer in layers for name, value in layer.items()})
        if settings.Dataset is None:
            if settings.base_dir is None:
                names = ", ".join(known_datasets())
                raise UserError(f"no data given: pass --Dataset NAME ({names}) or --base_dir FOLDER")
            settings.Dataset = Path(settings.base_dir).resolve().name
        return settings

    def given(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """The settings that argv contains, without defaults."""
        given, rest = self.given_and_rest(argv)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return given

    def given_and_rest(self, argv: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
        """The settings that argv contains, without defaults, and the words that this parser does not know."""
        # argparse adds no default where the namespace already has a value.
        unset = argparse.Namespace(**dict.fromkeys(vars(self.parse_args([])), _UNSET))
        found, rest = self.parse_known_args(argv, unset)
        return {name: value for name, value in vars(found).items() if value is not _UNSET}, rest

    def configured(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """The settings of this script in the configuration file."""
        return self._configuration(self.given(argv))

    def _configuration(self, given: Mapping[str, Any]) -> dict[str, Any]:
        path = find_configuration(given.get("Dataset"), given.get("config"))
        if path is None:
            return {}
        values = read_yaml(path)
        values.pop("published", None)
        sections = {name: _section(path, name, values.pop(name)) for name in SCRIPTS if name in values}
        known = vars(_every_shared_argument().parse_args([]))
        for name in values:
            if name not in known:
                names = ", ".join(sorted(known.keys() - NOT_IN_FILES))
                raise UserError(
                    f"{path}: unknown setting {name!r}. The settings are {names}; those of one script alone belong in "
                    f"its section ({', '.join(SCRIPTS)})"
                )
        values = {name: value for name, value in values.items() if name in vars(self.parse_args([]))}
        values.update(sections.get(self.script, {}))
        return self.from_file(values, path)

    def from_file(self, values: Mapping[str, Any], where: object) -> dict[str, Any]:
        """Settings as a YAML file has them, each checked as its flag.

        Raises:
            UserError: for one that this script does not take, or whose value does not fit; begins with `where`.
        """
        repeated = {action.dest for action in self._actions if isinstance(action, Repeated)}
        # The other words of YAML 1.1 for true and false, for settings that must be one of the two.
        switches = {action.dest for action in self._actions if isinstance(action, argparse.BooleanOptionalAction)}
        words = {"yes": True, "on": True, "no": False, "off": False}
        values = {
            name: words.get(str(value).lower(), value) if name in switches else value for name, value in values.items()
        }
        takes_a_value = {action.dest for action in self._actions if action.nargs != 0}
        for name, value in values.items():
            if name in NOT_IN_FILES:
                raise UserError(f"{where}: unknown setting {name!r}")
            if isinstance(value, bool) and name in takes_a_value - switches:
                raise UserError(f"{where}: {name} must be a value as on the command line, not {str(value).lower()}")
            if isinstance(value, dict) or (isinstance(value, list) and name not in repeated):
                raise UserError(f"{where}: {name} must be a single value, got {one_line(str(value))[:100]}")
        flags = [flag for name, value in values.items() for flag in as_flags(name, value)]
        try:
            return self.given(flags)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def known_datasets() -> list[str]:
    """The names that --Dataset takes."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def run_settings(script: ScriptParser, phase: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The settings of a training; `phase` is its folder within the experiment.

    A resumed run keeps its recorded value of a setting that was introduced after it started or that was changed in the
    configuration file since, unless the setting is given on the command line. A message names each such setting.

    Raises:
        UserError: see `ScriptParser.settings`; or if last.pth of the run cannot be read.
    """
    settings = script.settings(argv)
    last = output_dir(settings) / phase / "last.pth"
    if not settings.resume or not last.is_file():
        return settings
    from utils.networks.checkpoints import EARLIER, load_settings  # here: it imports torch
    from utils.settings.recorded import recorded_settings

    begun_with = recorded_settings(load_settings(last, phase), last, script)
    names = dict.fromkeys([*EARLIER, *script.configured(argv)])
    recorded = {name: begun_with[name] for name in names if name in begun_with and name not in FREE_SETTINGS}
    kept = script.settings(argv, recorded)
    for name in recorded:
        new, old = getattr(settings, name), getattr(kept, name)
        if old != new:
            say(f"{last}: the resumed run keeps its --{name} {old}; a new run would use {new}")
    return kept


def trained_resize(settings: Mapping[str, Any]) -> str:
    """The --resize that fits a checkpoint of these settings: crops are taken from images at their original size."""
    return "keep" if settings.get("crop") else "img_size"


def output_dir(settings: argparse.Namespace) -> Path:
    """The folder of the experiment, in which each script has its own folder (recon, seg, evaluation)."""
    return Path(settings.output_dir or Path("checkpoints") / settings.Dataset)


def describe(settings: argparse.Namespace) -> str:
    """The resolved settings, one per line."""
    given = sorted((name, value) for name, value in vars(settings).items() if value is not None)
    return "\n".join(f"  {name:<15} {one_line(str(value))}" for name, value in given)


def announce(title: str, settings: argparse.Namespace) -> None:
    """Prints the title of a script's work, with --verbose also the resolved settings."""
    say(f"{title}\n{describe(settings)}" if "verbose" in settings else title)


def as_flags(name: str, value: object) -> list[str]:
    """A setting as command-line flags, to be checked by the same rules: none for None, one for each item of a list."""
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
    """The recorded settings of a run, with the current defaults for settings that were introduced later."""
    return {**vars(_every_shared_argument().parse_args([])), **recorded}


def find_configuration(dataset: str | None, config: str | None) -> Path | None:
    """The file given by --Dataset or --config; None without both.

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
            f"{path} was not found. --Dataset must be one of {', '.join(known_datasets())}. For your own data, omit "
            "--Dataset and pass --base_dir FOLDER, or write a configuration and pass --config FILE"
        )
    return path


def _section(path: Path, name: str, values: object) -> dict[str, Any]:
    """The settings of one script in a configuration file."""
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: {name} must be a section of settings, e.g. {name}: {{device: cpu}}")
    return values or {}
