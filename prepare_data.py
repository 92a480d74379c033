"""Convert data to the images/masks/train.txt layout, split it into lists, and check it before training.

    python prepare_data.py sample DataSet/sample                       # a synthetic data set for first trials
    python prepare_data.py sample DataSet/sample_infrared --look infrared
    python prepare_data.py busi Dataset_BUSI_with_GT DataSet/BUSI      # BUSI as distributed; several masks are merged
    python prepare_data.py sirst sirst DataSet/SIRST                   # SIRST v1 or v2 as distributed
    python prepare_data.py busbra BUSBRA DataSet/BUS-BRA               # with its folds; no patient is in two lists
    python prepare_data.py busuclm BUS-UCLM DataSet/BUS-UCLM           # divided by patient
    python prepare_data.py folder NUDT-SIRST DataSet/NUDT-SIRST        # images/, masks/ and optional lists
    python prepare_data.py folder raw DataSet/mine --images jpg --masks labels --mask_pattern '{stem}_gt'
    python prepare_data.py split DataSet/BUSI                          # the paper's three random 70/30 divisions
    python prepare_data.py split DataSet/mine --group '^(patient[0-9]+)' --test_share 0.2
    python prepare_data.py check DataSet/BUSI --img_size 256           # contents, errors and warnings

Existing folders are not overwritten, and lists only by split --overwrite. `check` exits with code 1 if it finds errors.
docs/reference/data_sets.md describes each data set.
The flags of a command: python prepare_data.py COMMAND --help
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P omits it

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
import json
import re
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from datasets import LOOKS, MASK_INTERPOLATIONS, SHARE
from datasets.load import data_folder
from utils.common.errors import UserError
from utils.common.files import replacing
from utils.common.processes import say
from utils.common.script import run_script
from utils.common.signals import Stopped
from utils.common.version import add_version
from utils.settings.argument_types import (
    HelpFormatter,
    Parser,
    integer,
    mask_threshold,
    natural,
    number,
    path,
    positive,
    white_level_or_auto,
)
from utils.settings.argument_types import folder as as_folder

if TYPE_CHECKING:  # each command imports OpenCV and scikit-learn only if it needs them, so that --help comes at once
    from datasets.prepare.convert import Converted


# The contents of SRC, by command.
BUSI = "contains benign, malignant and normal"
SIRST = "contains images, masks and lists or idx_427; v2: mixed, annotations/masks and splits"
BUSBRA = "contains Images, Masks and 5-fold-cv.csv"
BUSUCLM = "contains images and masks"
FOLDER = "contains the image and mask folders"


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="prepare_data.py", description=__doc__.splitlines()[0], epilog=__doc__.splitlines()[-1])
    add_version(parser)
    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    sample = _command(commands, "sample", "small synthetic data set")
    sample.add_argument("out", type=as_folder, metavar="OUT", help=OUT)
    sample.add_argument("--look", choices=LOOKS, default=LOOKS[0], help="kind of images")
    sample.add_argument("--count", type=integer, default=80, help="number of images, 70 %% of them for training")
    sample.add_argument("--size", type=integer, default=128, help="side length of the images in pixels")
    sample.add_argument("--seed", type=natural, default=0, help="random seed of the images")

    busi = _command(commands, "busi", "BUSI as distributed (class folders)")
    _add_source(busi, BUSI)
    busi.add_argument("--normals", action="store_true", help=NORMALS)
    busi.add_argument("--fit_masks", action="store_true", help=FIT_MASKS)

    sirst = _command(commands, "sirst", "SIRST v1 or v2 as distributed")
    _add_source(sirst, SIRST)

    busbra = _command(commands, "busbra", "BUS-BRA as distributed")
    _add_source(busbra, BUSBRA, seed=False)
    busbra.add_argument("--folds", type=integer, choices=(5, 10), default=5, help="number of cross-validation folds")

    busuclm = _command(commands, "busuclm", "BUS-UCLM as distributed")
    _add_source(busuclm, BUSUCLM)
    busuclm.add_argument("--normals", action="store_true", help=NORMALS)

    folder = _command(commands, "folder", "any pair of image and mask folders")
    _add_source(folder, FOLDER)
    folder.add_argument("--images", metavar="DIR", help="image folder in SRC (default: images or IRSTD1k_Img)")
    folder.add_argument(
        "--masks",
        metavar="DIR",
        help="mask folder in SRC; may be the image folder (default: masks or IRSTD1k_Label)",
    )
    folder.add_argument(
        "--mask_pattern", metavar="NAME", help="mask filename pattern, e.g. {stem}_gt (default: detected)"
    )
    folder.add_argument(
        "--image_pattern",
        type=_regex,
        metavar="REGEX",
        help="image filename pattern, whose groups are {1}, {2} in --mask_pattern; other files are skipped",
    )
    folder.add_argument(
        "--train_list",
        type=path,
        metavar="FILE",
        help="training list: a file in SRC, or a path (default: detected, otherwise a random division)",
    )
    folder.add_argument("--val_list", type=path, metavar="FILE", help="validation list, as --train_list")
    folder.add_argument("--mask_threshold", type=mask_threshold, help=MASK_THRESHOLD)
    folder.add_argument("--fit_masks", action="store_true", help=FIT_MASKS)

    divide = _command(commands, "split", "random divisions: train1.txt, val1.txt, ...")
    divide.add_argument(
        "base",
        type=as_folder,
        metavar="BASE",
        help="data folder: contains images/ and masks/; the lists are written to it",
    )
    divide.add_argument(
        "--divisions", type=positive, default=3, help="number of divisions; the paper reports the mean of three"
    )
    divide.add_argument("--val_share", type=number, default=SHARE, help="share of all cases in valN.txt")
    divide.add_argument(
        "--test_share", type=number, default=0.0, help="share of all cases in testN.txt; 0 writes no test lists"
    )
    divide.add_argument("--seed", type=natural, default=41, help="random seed of the divisions")
    strata = divide.add_mutually_exclusive_group()
    strata.add_argument(
        "--stratify_by", type=_regex, metavar="REGEX", help="pattern whose match in a case name is the stratum"
    )
    strata.add_argument(
        "--share_bins", type=positive, metavar="N", help="number of strata, by the share of target pixels"
    )
    divide.add_argument(
        "--group",
        type=_regex,
        metavar="REGEX",
        help="pattern whose match in a case name is the group (patient, video), which is never divided",
    )
    divide.add_argument("--mask_suffix", help=MASK_SUFFIX)
    divide.add_argument("--mask_threshold", type=mask_threshold, help=MASK_THRESHOLD)
    divide.add_argument(
        "--overwrite", action="store_true", help="replacement of the lists of an earlier call (default: an error)"
    )

    check = _command(commands, "check", "report on a data set before training")
    check.add_argument(
        "base", type=as_folder, metavar="BASE", help="data folder: contains images/, masks/ and the list files"
    )
    check.add_argument(
        "--lists",
        nargs="+",
        default=["train.txt", "val.txt"],
        type=path,
        metavar="LIST",
        help="lists: files in BASE, or paths (default: train.txt val.txt)",
    )
    check.add_argument(
        "--img_size", type=positive, default=256, help="side length to which images will be resized, in pixels"
    )
    check.add_argument("--mask_suffix", help=MASK_SUFFIX)
    check.add_argument("--mask_threshold", type=mask_threshold, help=MASK_THRESHOLD)
    check.add_argument("--fit_masks", action="store_true", help=FIT_MASKS)
    check.add_argument(
        "--mask_interpolation", choices=MASK_INTERPOLATIONS, default="exact", help="mask interpolation, as in training"
    )
    check.add_argument(
        "--white_level",
        type=white_level_or_auto,
        metavar="N",
        help="white level of 16-bit images, as in training (default: 65535)",
    )
    check.add_argument("--json", type=as_folder, metavar="FILE", help="JSON file to which the report is also written")
    return parser


# Help lines of several commands.
OUT = "output folder, which must not exist"
NORMALS = "inclusion of the images without a lesion"
FIT_MASKS = "resizing of masks whose size differs from their image's"
MASK_SUFFIX = "mask filename suffix, e.g. _gt (default: detected)"
MASK_THRESHOLD = "mask threshold: brighter mask pixels are target (default: masks must be binary)"


def _command(commands: argparse._SubParsersAction, name: str, help: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=help, description=help, formatter_class=HelpFormatter)


def _add_source(parser: argparse.ArgumentParser, contents: str, seed: bool = True) -> None:
    parser.add_argument("source", type=as_folder, metavar="SRC", help=f"source folder: {contents}")
    parser.add_argument("out", type=as_folder, metavar="OUT", help=OUT)
    if seed:
        parser.add_argument(
            "--seed", type=natural, default=41, help="random seed of the division, if there are no lists"
        )


def _check_source(args: argparse.Namespace, contents: str) -> None:
    if not args.source.is_dir():
        raise UserError(f"the source folder {args.source} was not found. SRC {contents}")


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"must be a regular expression, got {text!r} ({error})") from error


def main(args: argparse.Namespace) -> None:
    verbs = {"sample": sample, "busi": busi, "sirst": sirst, "busbra": busbra, "busuclm": busuclm, "folder": folder}
    verbs |= {"split": divide, "check": check}
    verbs[args.verb](args)


def sample(args: argparse.Namespace) -> None:
    from datasets.prepare.sample import make_sample

    make_sample(args.out, args.look, args.count, args.size, args.seed)
    say(f"{args.out}: {args.count} {args.look}-like images of {args.size}x{args.size}")


def busi(args: argparse.Namespace) -> None:
    _check_source(args, BUSI)
    from datasets.prepare.busi import convert_busi

    _report(args.out, convert_busi(args.source, args.out, args.normals, args.seed, args.fit_masks))


def sirst(args: argparse.Namespace) -> None:
    _check_source(args, SIRST)
    from datasets.prepare.sirst import convert_sirst

    _report(args.out, convert_sirst(args.source, args.out, args.seed))


def busbra(args: argparse.Namespace) -> None:
    _check_source(args, BUSBRA)
    from datasets.prepare.patients import convert_busbra

    _report(args.out, convert_busbra(args.source, args.out, args.folds))


def busuclm(args: argparse.Namespace) -> None:
    _check_source(args, BUSUCLM)
    from datasets.prepare.patients import convert_busuclm

    _report(args.out, convert_busuclm(args.source, args.out, args.normals, args.seed))


def folder(args: argparse.Namespace) -> None:
    _check_source(args, FOLDER)
    from datasets.prepare.pairs import convert_folders

    flags = {name: value for name, value in vars(args).items() if name not in ("verb", "source", "out")}
    converted, lists = convert_folders(args.source, args.out, **flags)
    _report(args.out, converted)
    for name, file in lists.items():
        say(f"  {name} was taken from {file}")
    if not lists:
        say(f"  random division with seed {args.seed}; for more divisions: python prepare_data.py split {args.out}")


def divide(args: argparse.Namespace) -> None:
    data_folder(args.base)
    from datasets.prepare.split import split

    flags = {name: value for name, value in vars(args).items() if name not in ("verb", "base", "divisions")}
    say(split(args.base, args.divisions, **flags))
    say(f"wrote the lists to {args.base}. To train on them: --train_file_dir train1.txt --val_file_dir val1.txt")


def _report(out: Path, converted: Converted) -> None:
    say("\n".join(converted.lines(out)))


def check(args: argparse.Namespace) -> None:
    """Prints the report; exits with code 1 if it contains errors."""
    data_folder(args.base)
    from datasets.prepare.survey import survey, table

    result = survey(
        args.base,
        args.lists,
        args.img_size,
        args.mask_suffix,
        args.mask_threshold,
        args.fit_masks,
        args.mask_interpolation,
        args.white_level,
    )
    say(table(result))
    if args.json:
        with replacing(args.json) as beside:
            beside.write_text(json.dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
    if result.errors:
        sys.exit(1)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Ends the script by an exception, as Ctrl-C does, so that unfinished files and folders are removed."""
    signal.signal(number, signal.SIG_IGN)  # a second SIGTERM would interrupt the removal
    raise Stopped(number, "terminated")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    run_script(main, parser().parse_args)
