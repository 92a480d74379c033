"""Brings data into the images/masks/train.txt layout, and looks at it before training (exit code 1: it is wrong).

    python prepare_data.py sample DataSet/sample                       # synthetic, to try things on
    python prepare_data.py sample DataSet/sample_infrared --look infrared
    python prepare_data.py busi Dataset_BUSI_with_GT DataSet/BUSI      # BUSI as distributed; several masks are merged
    python prepare_data.py check DataSet/BUSI --img_size 256           # what is there, what is odd

Each verb lists its flags: python prepare_data.py VERB --help
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from datasets.busi import convert_busi
from datasets.sample import LOOKS, make_sample
from datasets.survey import survey, table
from utils.config import positive
from utils.files import replacing
from utils.runtime import run_script


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare_data.py", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)

    sample = verbs.add_parser("sample", help="a small synthetic data set", formatter_class=_Defaults)
    sample.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    sample.add_argument("--look", choices=LOOKS, default=LOOKS[0])
    sample.add_argument("--count", type=int, default=80, help="images, 70 %% of them for training")
    sample.add_argument("--size", type=int, default=128, help="side of the images, pixels")
    sample.add_argument("--seed", type=int, default=0)

    busi = verbs.add_parser("busi", help="BUSI's raw class folders", formatter_class=_Defaults)
    busi.add_argument("source", type=Path, metavar="SRC", help="holds benign, malignant and normal")
    busi.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    busi.add_argument("--normals", action="store_true", help="keep the images without a lesion")
    busi.add_argument("--seed", type=int, default=41, help="of the division into train.txt and val.txt")

    check = verbs.add_parser("check", help="look at a data set before training", formatter_class=_Defaults)
    check.add_argument("base", type=Path, metavar="BASE", help="holds images/, masks/ and the lists")
    check.add_argument("--lists", nargs="+", default=["train.txt", "val.txt"], metavar="LIST", help="in BASE, or paths")
    check.add_argument("--img_size", type=positive, default=256, help="side the images will be resized to, pixels")
    check.add_argument("--mask_suffix", help="as in training")
    check.add_argument("--mask_threshold", type=float, help="as in training")
    check.add_argument("--fit_masks", action="store_true", help="as in training")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, too")
    return parser


_Defaults = argparse.ArgumentDefaultsHelpFormatter


def main(args: argparse.Namespace) -> None:
    {"sample": sample, "busi": busi, "check": check}[args.verb](args)


def sample(args: argparse.Namespace) -> None:
    make_sample(args.out, args.look, args.count, args.size, args.seed)
    print(f"{args.out}: {args.count} {args.look}-like images of {args.size}x{args.size}")


def busi(args: argparse.Namespace) -> None:
    counts = convert_busi(args.source, args.out, args.normals, args.seed)
    print(f"{args.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def check(args: argparse.Namespace) -> None:
    """Exit code 1 if training would be wrong."""
    result = survey(args.base, args.lists, args.img_size, args.mask_suffix, args.mask_threshold, args.fit_masks)
    print(table(result))
    if args.json:
        with replacing(args.json) as beside:
            beside.write_text(json.dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
    if result.errors:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main, parser().parse_args)
