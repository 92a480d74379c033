"""Brings data into the images/masks/train.txt layout, and looks at it before training (exit code 1: it is wrong).

    python prepare_data.py sample DataSet/sample                       # synthetic, to try things on
    python prepare_data.py sample DataSet/sample_infrared --look infrared
    python prepare_data.py busi Dataset_BUSI_with_GT DataSet/BUSI      # BUSI as distributed; several masks are merged
    python prepare_data.py sirst sirst DataSet/SIRST                   # SIRST v1 or v2 as distributed
    python prepare_data.py busbra BUSBRA DataSet/BUS-BRA               # its own folds; no patient in two lists
    python prepare_data.py busuclm BUS-UCLM DataSet/BUS-UCLM           # divided by patient
    python prepare_data.py folder NUDT-SIRST DataSet/NUDT-SIRST        # images/, masks/ and perhaps lists
    python prepare_data.py folder raw DataSet/mine --images jpg --masks labels --mask_pattern '{stem}_gt'
    python prepare_data.py split DataSet/BUSI                          # the paper's three random 70/30 divisions
    python prepare_data.py split DataSet/mine --group '^(patient[0-9]+)' --test_share 0.2
    python prepare_data.py check DataSet/BUSI --img_size 256           # what is there, what is odd

A folder or list that is there already is never overwritten without a word. docs/reference/data_sets.md goes through the
data sets one by one. Each verb lists its flags: python prepare_data.py VERB --help
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P leaves it out

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import LOOKS, MASK_INTERPOLATIONS, SHARE
from datasets.load import data_folder
from utils.common.errors import UserError
from utils.common.files import replacing
from utils.common.processes import say
from utils.common.script import run_script
from utils.settings.arguments import (
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
from utils.settings.arguments import folder as as_folder

if TYPE_CHECKING:  # each verb imports what it needs, OpenCV and scikit-learn among it: --help and refusals come without
    from datasets.prepare.convert import Converted


# What SRC is, by verb.
BUSI = "holds benign, malignant and normal"
SIRST = "holds images, masks and lists or idx_427; v2: mixed, annotations/masks and splits"
BUSBRA = "holds Images, Masks and 5-fold-cv.csv"
BUSUCLM = "holds images and masks"
FOLDER = "holds the folders"


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="prepare_data.py", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)

    sample = verbs.add_parser("sample", help="a small synthetic data set", formatter_class=HelpFormatter)
    sample.add_argument("out", type=as_folder, metavar="OUT", help="folder to make")
    sample.add_argument("--look", choices=LOOKS, default=LOOKS[0])
    sample.add_argument("--count", type=integer, default=80, help="images, 70 %% of them for training")
    sample.add_argument("--size", type=integer, default=128, help="side of the images, pixels")
    sample.add_argument("--seed", type=natural, default=0)

    busi = verbs.add_parser("busi", help="BUSI's raw class folders", formatter_class=HelpFormatter)
    _add_source(busi, BUSI)
    busi.add_argument("--normals", action="store_true", help="keep the images without a lesion")
    busi.add_argument("--fit_masks", action="store_true", help="resize a mask to its image's size")

    sirst = verbs.add_parser("sirst", help="SIRST v1 or v2 as distributed", formatter_class=HelpFormatter)
    _add_source(sirst, SIRST)

    busbra = verbs.add_parser("busbra", help="BUS-BRA as distributed", formatter_class=HelpFormatter)
    _add_source(busbra, BUSBRA, seed=False)
    busbra.add_argument("--folds", type=integer, choices=(5, 10), default=5, help="which of its cross-validations")

    busuclm = verbs.add_parser("busuclm", help="BUS-UCLM as distributed", formatter_class=HelpFormatter)
    _add_source(busuclm, BUSUCLM)
    busuclm.add_argument("--normals", action="store_true", help="keep the images without a lesion")

    folder = verbs.add_parser("folder", help="any pair of image and mask folders", formatter_class=HelpFormatter)
    _add_source(folder, FOLDER)
    folder.add_argument("--images", metavar="DIR", help="below SRC; images or IRSTD1k_Img if not set")
    folder.add_argument("--masks", metavar="DIR", help="below SRC, or the same; masks or IRSTD1k_Label if not set")
    folder.add_argument("--mask_pattern", metavar="NAME", help="of a mask, such as {stem}_gt; found by rule if not set")
    folder.add_argument(
        "--image_pattern", type=_regex, metavar="REGEX", help="images only; its groups are {1}, {2} in --mask_pattern"
    )
    folder.add_argument(
        "--train_list", type=path, metavar="FILE", help="in SRC, or a path; found by rule, or drawn, if not set"
    )
    folder.add_argument("--val_list", type=path, metavar="FILE", help="as --train_list")
    folder.add_argument("--mask_threshold", type=mask_threshold, help="mask pixels brighter than this are target")
    folder.add_argument("--fit_masks", action="store_true", help="resize a mask to its image's size")

    divide = verbs.add_parser(
        "split", help="random divisions: train1.txt, val1.txt, ...", formatter_class=HelpFormatter
    )
    divide.add_argument(
        "base", type=as_folder, metavar="BASE", help="holds images/ and masks/; the lists are written there"
    )
    divide.add_argument("--divisions", type=positive, default=3, help="how many; the paper reports the mean of three")
    divide.add_argument("--val_share", type=number, default=SHARE, help="of all cases, for valN.txt")
    divide.add_argument("--test_share", type=number, default=0.0, help="of all cases, for testN.txt; 0: no such lists")
    divide.add_argument("--seed", type=natural, default=41, help="of the draw")
    strata = divide.add_mutually_exclusive_group()
    strata.add_argument("--stratify_by", type=_regex, metavar="REGEX", help="what it finds in a name is its stratum")
    strata.add_argument("--share_bins", type=positive, metavar="N", help="strata: N bins of the share of target pixels")
    divide.add_argument("--group", type=_regex, metavar="REGEX", help="what it finds (patient, video) stays together")
    divide.add_argument("--mask_suffix", help="as in training")
    divide.add_argument("--mask_threshold", type=mask_threshold, help="as in training")
    divide.add_argument("--overwrite", action="store_true", help="replace all lists of an earlier draw")

    check = verbs.add_parser("check", help="look at a data set before training", formatter_class=HelpFormatter)
    check.add_argument("base", type=as_folder, metavar="BASE", help="holds images/, masks/ and the lists")
    check.add_argument(
        "--lists", nargs="+", default=["train.txt", "val.txt"], type=path, metavar="LIST", help="in BASE, or paths"
    )
    check.add_argument("--img_size", type=positive, default=256, help="side the images will be resized to, pixels")
    check.add_argument("--mask_suffix", help="as in training")
    check.add_argument("--mask_threshold", type=mask_threshold, help="as in training")
    check.add_argument("--fit_masks", action="store_true", help="as in training")
    check.add_argument("--mask_interpolation", choices=MASK_INTERPOLATIONS, default="exact", help="as in training")
    check.add_argument("--white_level", type=white_level_or_auto, metavar="N", help="as in training")
    check.add_argument("--json", type=as_folder, metavar="FILE", help="write the findings there, too")
    return parser


def _add_source(parser: argparse.ArgumentParser, holds: str, seed: bool = True) -> None:
    parser.add_argument("source", type=as_folder, metavar="SRC", help=holds)
    parser.add_argument("out", type=as_folder, metavar="OUT", help="folder to make")
    if seed:
        parser.add_argument("--seed", type=natural, default=41, help="of the division into lists, if drawn")


def _check_source(args: argparse.Namespace, holds: str) -> None:
    if not args.source.is_dir():
        raise UserError(f"the folder {args.source} was not found; it {holds}")


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


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
        say(f"  {name} is {file}")
    if not lists:
        say(f"  drawn with seed {args.seed}; python prepare_data.py split {args.out} draws more divisions")


def divide(args: argparse.Namespace) -> None:
    data_folder(args.base)
    from datasets.prepare.split import split

    flags = {name: value for name, value in vars(args).items() if name not in ("verb", "base", "divisions")}
    say(split(args.base, args.divisions, **flags))
    say(f"wrote them into {args.base}; to train: --train_file_dir train1.txt --val_file_dir val1.txt")


def _report(out: Path, converted: Converted) -> None:
    say("\n".join(converted.lines(out)))


def check(args: argparse.Namespace) -> None:
    """Exit code 1 if training would be wrong."""
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


if __name__ == "__main__":
    run_script(main, parser().parse_args)
