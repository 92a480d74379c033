"""Settings: a parser's defaults, then configs/NAME.yaml, then the command line; the last one that speaks wins.

A configuration's keys are flag names. A section named like a script holds what only that script takes:

    base_dir: DataSet/bus
    img_size: 256
    train_recon: {epochs: 100}
    train_seg: {epochs: 300}

One key is no flag: `published`, see `utils.published`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError
from utils.precision import CHOICES

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

_UNSET = object()


SCRIPTS = ("train_recon", "train_seg", "evaluation")
RESIZE = ("img_size", "keep", "back")


class Repeated(argparse.Action):
    """A flag that may be given several times, or a list in a configuration; its value is the list of all."""

    def __call__(self, parser: object, namespace: argparse.Namespace, value: Any, flag: str | None = None) -> None:
        # argparse's own "append" would add to the default of `ScriptParser.given`, which is no list.
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*before, value] if isinstance(before, list) else [value])


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


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
        self.add_argument("--config", metavar="FILE", help="a YAML file of your own, in place of configs/NAME.yaml")

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

    def _configuration(self, given: Mapping[str, Any]) -> dict[str, Any]:
        path = find_configuration(given.get("Dataset"), given.get("config"))
        if path is None:
            return {}
        values = read_yaml(path)
        values.pop("published", None)
        sections = {name: values.pop(name) or {} for name in SCRIPTS if name in values}
        known = {action.dest for action in _every_shared_argument()._actions}
        for name in values:
            if name not in known:
                raise UserError(f"{path}: unknown setting {name!r}; the settings are {', '.join(sorted(known))}")
        values = {name: value for name, value in values.items() if name in vars(self.parse_args([]))}
        values.update(sections.get(self.script, {}))
        repeated = {action.dest for action in self._actions if isinstance(action, Repeated)}
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


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the data is, and how it becomes tensors."""
    group = parser.add_argument_group("data")
    group.add_argument("--base_dir", metavar="FOLDER", help="holds images/, masks/ and the list files")
    group.add_argument("--train_file_dir", metavar="LIST", default="train.txt", help="list, in base_dir or a path")
    group.add_argument("--val_file_dir", metavar="LIST", default="val.txt", help="list, in base_dir or a path")
    group.add_argument("--img_size", type=_image_side, default=256, help="side the images are resized to, pixels")
    group.add_argument(
        "--normalization",
        choices=["imagenet", "authors"],
        default="imagenet",
        help="authors: divided by 255 a second time, as the released weights were trained",
    )
    group.add_argument(
        "--mask_suffix", help="what a mask's name adds to its image's, such as _gt; found by rule if not set"
    )
    group.add_argument("--mask_threshold", type=float, help="mask pixels brighter than this are target, if not binary")
    group.add_argument(
        "--fit_masks",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="resize a mask (nearest) whose size is not its image's",
    )


def add_resize_argument(parser: argparse.ArgumentParser) -> None:
    """At which size images are predicted and compared; `trained_resize` says what a checkpoint was trained at."""
    meaning = "images and masks are resized to --img_size; keep: nothing is resized, images go one by one; "
    meaning += "back: images are resized, and their predictions back to the masks' size"
    parser.add_argument("--resize", choices=RESIZE, default="img_size", help=f"img_size: {meaning}")


def trained_resize(settings: Mapping[str, Any]) -> str:
    """The --resize that fits a checkpoint of these settings: crops were taken from images that kept their size."""
    return "keep" if settings.get("crop") else "img_size"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which network."""
    group = parser.add_argument_group("model")
    group.add_argument("--variant", choices=["srs", "srs_tiny"], default="srs", help="the paper's, or a laptop's")
    group.add_argument(
        "--encoder_bn",
        choices=["frozen", "batch"],
        default="frozen",
        help="batch norms of the frozen encoder: running statistics (the paper), or the batch's (the released code)",
    )


def add_training_arguments(parser: argparse.ArgumentParser, epochs: int) -> None:
    """How it is trained."""
    group = parser.add_argument_group("training")
    group.add_argument("--base_lr", type=_rate, default=0.01, help="learning rate of the first step")
    group.add_argument("--batch_size", type=positive, default=8, help="images in a step, of all processes together")
    group.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        help="take each step's images in this many parts, one after the other: less memory (a batch norm sees a part)",
    )
    group.add_argument("--epochs", type=positive, default=epochs, help="passes over the training images")
    group.add_argument(
        "--crop",
        type=_image_side,
        metavar="N",
        help="train on NxN crops of the images as they are, half of them around a target; validate on whole images; "
        "--img_size is not used then",
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const="yes",
        choices=["yes", "auto"],
        help="go on with the run in output_dir; auto: start one if there is none (for job scripts)",
    )
    group.add_argument(
        "--sync_bn",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="under torchrun: batch norms over the batch of all processes, not of each",
    )
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="torch.compile the network: minutes at the start, worth them on GPUs (docs/performance.md)",
    )
    group.add_argument(
        "--channels_last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="memory layout of weights and maps, the fastest nearly everywhere; --no-channels_last: NCHW",
    )
    group.add_argument("--init_from", metavar="FILE", help="start a new run from the weights of this checkpoint")
    group.add_argument("--save_every", type=natural, default=0, help="keep a checkpoint of every N-th epoch; 0: none")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and with what it runs."""
    group = parser.add_argument_group("run")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--amp", choices=CHOICES, default="auto", help="mixed precision; auto: bf16 on GPUs that have it"
    )
    group.add_argument("--threads", type=positive, help="of torch on the CPU; one a core if not set")
    group.add_argument("--seed", type=natural, default=41, help="of the weights, the order and the augmentation")
    group.add_argument("--workers", type=natural, default=2, help="processes that load data; 0: the script itself does")
    group.add_argument(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="bit for bit the same on CUDA, too, which costs speed there; CPUs are so anyway",
    )
    group.add_argument("--output_dir", metavar="FOLDER", help="checkpoints/NAME of the Dataset if not set")


def add_shared_arguments(parser: argparse.ArgumentParser, epochs: int) -> None:
    """All four groups, as both phases take them."""
    add_data_arguments(parser)
    add_model_arguments(parser)
    add_training_arguments(parser, epochs)
    add_run_arguments(parser)


def output_dir(settings: argparse.Namespace) -> Path:
    """The folder of the experiment; each script writes into a folder of its own in it (recon, seg, evaluation)."""
    return Path(settings.output_dir or Path("checkpoints") / settings.Dataset)


def describe(settings: argparse.Namespace) -> str:
    """The resolved settings, one a line, as the scripts print them."""
    return "\n".join(f"  {name:<15} {value}" for name, value in sorted(vars(settings).items()) if value is not None)


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
    return parser


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


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a configuration file, unchecked.

    Raises:
        UserError: if it cannot be read or is none.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the configuration {path}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{path}: expected lines of the form 'flag: value'")
    return values


def positive(text: str) -> int:
    """An argument type: an integer of at least 1."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """An argument type: an integer of at least 0."""
    return _at_least(0, text)


def _image_side(text: str) -> int:
    return _at_least(16, text)  # two pixels of the deepest map, so that a batch norm has something to average


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _at_least(minimum: int, text: str) -> int:
    value = int(text)
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{value} is under {minimum}")
    return value
