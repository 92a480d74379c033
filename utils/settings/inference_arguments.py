"""The flags of prediction and evaluation: weights, size, views, engine, code test and results."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Collection

from utils.common.errors import UserError
from utils.networks import ENGINES
from utils.settings.argument_types import integer, path

CODES = ("own", "swap", "mean", "zero")
RESIZE = ("img_size", "keep", "back")
FIELDS = ("medical", "infrared", "both")  # values of evaluation.py --field


def add_resize_argument(parser: argparse.ArgumentParser) -> None:
    """The size of prediction and comparison; `trained_resize` returns the value that fits a checkpoint."""
    parser.add_argument(
        "--resize",
        choices=RESIZE,
        default="img_size",
        help="evaluation size; img_size: images and masks are resized to --img_size; keep: original size, batch size "
        "1; back: images are resized, and predictions are resized back to the size of the masks",
    )


def add_weights_arguments(parser: argparse.ArgumentParser, help: str) -> None:
    """A trained SRS: a checkpoint of this project, described by `help`, or the authors' two files."""
    group = parser.add_argument_group("weights")
    group.add_argument("--weights", type=path, metavar="FILE", help=help)
    group.add_argument(
        "--recon_weights", type=path, metavar="FILE", help="the authors' SRS_R file; requires --seg_weights"
    )
    group.add_argument(
        "--seg_weights", type=path, metavar="FILE", help="the authors' SRS_S file; requires --recon_weights"
    )


def add_view_arguments(parser: argparse._ActionsContainer, default: str | None = None) -> None:
    """Test-time augmentation and tiles, see utils/networks/views.py."""
    parser.add_argument(
        "--tta",
        action="store_true",
        default=default or False,
        help="test-time augmentation: mean of the eight rotations and flips, at eight times the cost",
    )
    parser.add_argument(
        "--tile",
        type=integer,
        default=default,
        metavar="N",
        help="tile size in pixels: larger images are predicted in NxN tiles, without resizing",
    )
    parser.add_argument(
        "--overlap",
        type=integer,
        default=default,
        metavar="K",
        help="overlap of neighbouring tiles in pixels; requires --tile (default: a quarter of the tile)",
    )


def view_words(settings: argparse.Namespace) -> str:
    """Those flags in words, for the end of a phrase. They are left out of the settings unless given."""
    tile = f", in tiles of {settings.tile} pixels, overlap {settings.overlap}" if "tile" in settings else ""
    return tile + (", mean of eight rotations and flips" if "tta" in settings else "")


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    """The library that runs the network in prediction."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="torch",
        help="inference engine; onnxruntime and openvino require requirements-export.txt",
    )


def add_code_argument(parser: argparse.ArgumentParser) -> None:
    """The code swap test of utils/evaluation/code_swap.py; left out of the settings unless given."""
    parser.add_argument(
        "--code",
        choices=CODES,
        default=argparse.SUPPRESS,
        help="code test: predict each image with another DPConv code as well, and test the differences; swap: another "
        "image's code; mean: the mean over the list; zero: zeros; own: no test (default: own)",
    )


def other_code(settings: argparse.Namespace) -> str | None:
    """The code that is tested against the images' own; None if none is."""
    code = getattr(settings, "code", "own")
    return None if code == "own" else code


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with the results. These are not settings of an experiment: they are left out of the settings and of
    summary.json unless given."""
    add = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    add("--report", type=path, metavar="FOLDER", help="report folder: writes FOLDER/report.html")
    add(
        "--test",
        action="store_true",
        help="test-set evaluation: best.pth and last.pth of the run on --test_file_dir",
    )
    add(
        "--compare",
        nargs="+",
        type=path,
        metavar="RUN",
        help="existing evaluations to compare with the first, image by image; may be combined only with --report and "
        "--unlike_protocols",
    )
    add(
        "--unlike_protocols",
        action="store_true",
        help="comparison of different protocols: --compare accepts them and lists the differences",
    )


def names_authors_files(given: Collection[str]) -> bool:
    """Whether the given flags name the authors' two files rather than a checkpoint of this project.

    Raises:
        UserError: if they name only one of the two files, or both kinds of weights.
    """
    named = {"seg_weights", "recon_weights"}.intersection(given)
    if named and ("weights" in given or len(named) < 2):
        raise UserError(
            "the authors' weights are two files: pass both --recon_weights and --seg_weights, and no --weights"
        )
    return bool(named)
