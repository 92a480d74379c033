"""Brings data into the images/masks/train.txt layout.

python prepare_data.py sample DataSet/sample                       # synthetic, to try things on
python prepare_data.py sample DataSet/sample_infrared --look infrared
python prepare_data.py busi Dataset_BUSI_with_GT DataSet/BUSI      # BUSI as distributed; several masks are merged
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets.busi import convert_busi
from datasets.sample import LOOKS, make_sample
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
    return parser


_Defaults = argparse.ArgumentDefaultsHelpFormatter


def main(args: argparse.Namespace) -> None:
    if args.verb == "sample":
        make_sample(args.out, args.look, args.count, args.size, args.seed)
        print(f"{args.out}: {args.count} {args.look}-like images of {args.size}x{args.size}")
    else:
        counts = convert_busi(args.source, args.out, args.normals, args.seed)
        print(f"{args.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    run_script(main, parser().parse_args)
