"""The flags that several scripts share, and the types of their values."""

from __future__ import annotations

import argparse
import functools
import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from datasets import AUGMENT_ORDERS, MASK_INTERPOLATIONS, NORMALIZATIONS
from models import DPCONV, ENCODER_BN, KERNEL_SOURCES, layers, networks
from utils.common.errors import UserError
from utils.common.printable import one_line
from utils.networks import ENGINES

CODES = ("own", "swap", "mean", "zero")
RESIZE = ("img_size", "keep", "back")
PRECISIONS = ("auto", "off", "bf16", "fp16")
DEVICES = "auto (CUDA, else XPU, else MPS, else the CPU), cpu, cuda, cuda:1, xpu, mps"
FIELDS = ("medical", "infrared", "both")  # of evaluation.py --field
AUTO = "auto"  # of --white_level
LARGEST_SIDE = 16384  # pixels: such an image in float32 has 3 GB
LOSS = "bce_dice"  # the paper's


class Repeated(argparse.Action):
    """A flag that may be given several times, or a list in a configuration; its value is the list of all."""

    def __call__(self, parser: object, namespace: argparse.Namespace, value: Any, flag: str | None = None) -> None:
        # argparse's own "append" would add to the default of `ScriptParser.given`, which is no list.
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*before, value] if isinstance(before, list) else [value])


class Parser(argparse.ArgumentParser):
    """A parser of command lines whose errors are one line, whatever stands in the command line."""

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the data is, and how it becomes tensors."""
    group = parser.add_argument_group("data")
    group.add_argument("--base_dir", type=path, metavar="FOLDER", help="holds images/, masks/ and the list files")
    group.add_argument(
        "--train_file_dir", type=path, metavar="LIST", default="train.txt", help="list, in base_dir or a path"
    )
    group.add_argument(
        "--val_file_dir", type=path, metavar="LIST", default="val.txt", help="list, in base_dir or a path"
    )
    group.add_argument(
        "--test_file_dir",
        type=path,
        metavar="LIST",
        help="test list, which no training reads; for evaluation.py --test",
    )
    group.add_argument("--img_size", type=image_side, default=256, help="side the images are resized to, pixels")
    group.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        default="imagenet",
        help="authors: divided by 255 a second time, as the released weights were trained",
    )
    group.add_argument(
        "--mask_suffix", help="what a mask's name adds to its image's, such as _gt; found by rule if not set"
    )
    group.add_argument(
        "--mask_threshold", type=mask_threshold, help="mask pixels brighter than this are target, if not binary"
    )
    group.add_argument(
        "--white_level",
        type=white_level_or_auto,
        metavar="N",
        help="value of 16-bit images that is white, such as 4095 for 12 bits; auto: the largest value of the bits that "
        "the training images use, kept in the checkpoint; 65535 if not set",
    )
    _switch(group, "--fit_masks", False, "resize a mask whose size is not its image's")
    group.add_argument(
        "--mask_interpolation",
        choices=MASK_INTERPOLATIONS,
        default="exact",
        help="how masks are resized: exact, so that they lie on their images and no target vanishes; nearest, as the "
        "released code does: OpenCV's INTER_NEAREST, which moves them by half a pixel of the resized image",
    )


def add_resize_argument(parser: argparse.ArgumentParser) -> None:
    """At which size images are predicted and compared; `trained_resize` says what a checkpoint was trained at."""
    meaning = "images and masks are resized to --img_size; keep: nothing is resized, images go one by one; "
    meaning += "back: images are resized, and their predictions back to the masks' size"
    parser.add_argument("--resize", choices=RESIZE, default="img_size", help=f"img_size: {meaning}")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which network."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--variant",
        choices=list(networks()),
        default="srs",
        help="the network: the paper's, srs_tiny for laptops, or a file of models/baselines",
    )
    group.add_argument(
        "--encoder_bn",
        choices=ENCODER_BN,
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
        type=image_side,
        metavar="N",
        help="train on NxN crops of the images as they are, half of them around a target; validate on whole images; "
        "--img_size is not used then",
    )
    group.add_argument(
        "--augment_order",
        choices=AUGMENT_ORDERS,
        default="before_resize",
        help="rotate and flip before the resize to --img_size, as the released code does, or after it, as this project "
        "did until 2026",
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const="yes",
        choices=["yes", "auto"],
        help="go on with the run in output_dir; auto: start one if there is none (for job scripts)",
    )
    _switch(group, "--sync_bn", False, "under torchrun: batch norms over the batch of all processes, not of each")
    _switch(
        group,
        "--compile",
        False,
        "torch.compile the training step of whole batches: meant for GPUs; compiling takes minutes",
    )
    _switch(
        group,
        "--channels_last",
        True,
        "memory layout of weights and maps, the fastest nearly everywhere; --no-channels_last: NCHW",
    )
    group.add_argument(
        "--cache",
        type=_budget,
        default=1.0,
        metavar="GB",
        help="keep decoded images in memory, up to that much in each process (torchrun's, not the loader's); 0: none",
    )
    group.add_argument(
        "--init_from", type=path, metavar="FILE", help="start a new run from the weights of this checkpoint"
    )
    group.add_argument("--save_every", type=natural, default=0, help="keep a checkpoint of every N-th epoch; 0: none")


def add_layer_argument(parser: argparse.ArgumentParser) -> None:
    """What stands in DPConv's place."""
    parser.add_argument(
        "--dynamic",
        choices=layers(),
        default=DPCONV,
        help="layer at the segmenter's deepest map: the paper's DPConv, or a file of models/dynamic in its place",
    )
    parser.add_argument(
        "--kernel_source",
        choices=KERNEL_SOURCES,
        default="recon",
        help="what that layer reads: the encoder of phase 1 (the paper); the same encoder with random weights; or the "
        "segmenter's own deepest map. The last two need no phase 1",
    )


def add_segmentation_arguments(parser: argparse.ArgumentParser, losses: Collection[str]) -> None:
    """What is trained in phase 2 alone; `losses` are the names of `utils.training.losses`."""
    add_layer_argument(parser)
    parser.add_argument(
        "--loss",
        choices=losses,
        default=LOSS,
        help="loss of phase 2, a file of utils/training/losses; bce_dice is the paper's, 0.5 * BCE + Dice",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and with what it runs."""
    group = parser.add_argument_group("run")
    group.add_argument("--device", default="auto", help=DEVICES)
    group.add_argument(
        "--amp",
        choices=PRECISIONS,
        default="auto",
        help="mixed precision; off: float32, without TF32; auto: bf16 or fp16 on NVIDIA GPUs built for it, else off",
    )
    group.add_argument("--threads", type=positive, help="of torch on the CPU; one a core if not set")
    group.add_argument("--seed", type=natural, default=41, help="of the weights, the order and the augmentation")
    group.add_argument("--workers", type=natural, default=2, help="processes that load data; 0: the script itself does")
    _switch(
        group,
        "--deterministic",
        False,
        "bit for bit the same on CUDA, too, which costs speed there; CPUs are so anyway",
    )
    group.add_argument("--output_dir", type=path, metavar="FOLDER", help="checkpoints/NAME of the Dataset if not set")


def add_weights_arguments(parser: argparse.ArgumentParser, help: str) -> None:
    """A trained SRS: our checkpoint, of which `help` says more, or the authors' two files."""
    group = parser.add_argument_group("weights")
    group.add_argument("--weights", type=path, metavar="FILE", help=help)
    group.add_argument("--recon_weights", type=path, metavar="FILE", help="the authors' SRS_R, with --seg_weights")
    group.add_argument("--seg_weights", type=path, metavar="FILE", help="the authors' SRS_S, with --recon_weights")


def add_view_arguments(parser: argparse._ActionsContainer, default: Any = None) -> None:
    """From how many views and parts of an image its prediction is averaged, see utils/networks/views.py."""
    add = functools.partial(parser.add_argument, default=default)
    tta = "average the eight rotations and flips: eight times the work"
    parser.add_argument("--tta", action="store_true", default=default or False, help=tta)
    add("--tile", type=integer, metavar="N", help="predict images over N pixels in NxN tiles; resizes nothing")
    add("--overlap", type=integer, metavar="K", help="of neighbouring tiles, pixels (a quarter of a tile)")


def view_words(settings: argparse.Namespace) -> str:
    """What stands in settings of it, whose default was that nothing does, for the end of a sentence."""
    tile = f", in tiles of {settings.tile} pixels, overlap {settings.overlap}" if "tile" in settings else ""
    return tile + (", mean of eight rotations and flips" if "tta" in settings else "")


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    """What runs the network in prediction."""
    parser.add_argument(
        "--engine", choices=ENGINES, default="torch", help="what runs the network; see requirements-export.txt"
    )


def add_code_argument(parser: argparse.ArgumentParser) -> None:
    """Whose code DPConv gets, see utils/evaluation/code_swap.py; what is not given stands nowhere."""
    parser.add_argument(
        "--code",
        choices=CODES,
        default=argparse.SUPPRESS,
        help="also predict each image with another code in DPConv than its own, and test the differences: another "
        "image's (swap), the mean of the list (mean), zeros (zero); own: no such test",
    )


def other_code(settings: argparse.Namespace) -> str | None:
    """The code that is tested against the images' own; None if none is."""
    code = getattr(settings, "code", "own")
    return None if code == "own" else code


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be done with results. These are no settings of an experiment: what is not given stands nowhere, not
    even in summary.json."""
    add = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    add("--report", type=path, metavar="FOLDER", help="write a page to look at, FOLDER/report.html")
    add("--test", action="store_true", help="evaluate best.pth and last.pth of the run on --test_file_dir")
    add(
        "--compare",
        nargs="+",
        type=path,
        metavar="RUN",
        help="compare existing evaluations, image by image, with the first; takes --report, --unlike_protocols alone",
    )
    add("--unlike_protocols", action="store_true", help="have --compare take different protocols, and say in what")


def add_shared_arguments(parser: argparse.ArgumentParser, epochs: int) -> None:
    """All four groups, as both phases take them."""
    add_data_arguments(parser)
    add_model_arguments(parser)
    add_training_arguments(parser, epochs)
    add_run_arguments(parser)


def names_authors_files(given: Collection[str]) -> bool:
    """Whether a command line, of which the flags' names are given, names the authors' two files, not our checkpoint.

    Raises:
        UserError: if it names one of the two, or both kinds.
    """
    named = {"seg_weights", "recon_weights"}.intersection(given)
    if named and ("weights" in given or len(named) < 2):
        raise UserError("the authors' weights are two files: pass --recon_weights and --seg_weights, not --weights")
    return bool(named)


def path(text: str) -> str:
    """An argument type: a file or folder; ~ is the user's home, as a shell has it (not in --flag=~, nor in YAML)."""
    return os.path.expanduser(text)  # noqa: PTH111 - a name as it was given: Path would take a final / away


def folder(text: str) -> Path:
    """An argument type: the same as a Path."""
    return Path(path(text))


def positive(text: str) -> int:
    """An argument type: an integer of at least 1."""
    return _at_least(1, text)


def _switch(group: argparse._ArgumentGroup, name: str, default: bool, help: str) -> None:
    """--name and --no-name."""
    group.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=help)


def natural(text: str) -> int:
    """An argument type: an integer of at least 0."""
    return _at_least(0, text)


def image_side(text: str) -> int:
    """An argument type: the side of an image that the networks take, pixels."""
    value = _at_least(16, text)  # two pixels of the deepest map, so that a batch norm has something to average
    if value > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{value} is over {LARGEST_SIDE}")
    return value


def integer(text: str) -> int:
    """An argument type: an integer in decimal digits. int() takes 0100 and 1_000, too."""
    if not re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text):
        raise ValueError(text)
    return int(text)


def number(text: str) -> float:
    """An argument type: a number in decimal digits. float() takes nan and 1_000, too."""
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text) or not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return float(text)


def mask_threshold(text: str) -> float:
    """An argument type: a value of mask files, of 8 or 16 bits."""
    value = number(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 255, or 65535 in masks of 16 bits")
    return value


def white_level(text: str) -> int:
    """An argument type: a value of 16-bit images."""
    value = integer(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} must be between 1 and 65535")
    return value


def white_level_or_auto(text: str) -> int | str:
    """An argument type: the same, or "auto"."""
    return text if text == AUTO else white_level(text)


def _rate(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _budget(text: str) -> float:
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is no amount of memory")
    return value


def _at_least(minimum: int, text: str) -> int:
    value = integer(text)
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{value} is under {minimum}")
    return value
