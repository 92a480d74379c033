"""Masks of images, without masks to compare with: files, folders (with their sub-folders) or patterns.

    python predict.py --weights checkpoints/BUSI/seg/best.pth scans/ --output masks
    python predict.py --weights checkpoints/BUSI/seg/best.pth "study/*/images/*.png" --output masks --tta --overlay
    python predict.py --weights checkpoints/SIRST/seg/best.pth frames/ --output masks --resize keep --probability 16
    python predict.py --weights checkpoints/SIRST/seg/best.pth panorama.tif --output masks --tile 512 --overlap 128
    python predict.py --recon_weights SRS_R.pth --seg_weights SRS_S.pth --encoder_bn batch --normalization authors \\
        scans/ --output masks                                                  # the authors' released weights

Writes OUTPUT/NAME.png (0 and 255, of the image's own size), and what --probability and --overlay ask for into folders
beside. What is there already is skipped, so that an interrupted call goes on. The exit code is 1 if an image could not
be read; all others are predicted all the same. docs/how_to/predict.md tells the rest.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P leaves it out

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import NORMALIZATIONS
from datasets.inputs import find_inputs
from models import ENCODER_BN
from utils.common.errors import UserError
from utils.common.printable import one_line
from utils.common.processes import is_writer, refuse_one_gpu_for_all, say
from utils.common.script import run_script
from utils.settings import arguments
from utils.settings.refusals import check_file, check_threshold, check_tiles

if TYPE_CHECKING:  # torch and all that needs it is imported where it is used: --help and refusals come without
    from utils.prediction.predict_folder import Report
    from utils.prediction.predictor import Predictor

# A process that is done waits for the others, which may have large images left; one that has died is noticed at once.
PATIENCE = timedelta(days=7)


def parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(prog="predict.py", description="Masks of images, from a trained SRS.", allow_abbrev=False)
    parser.add_argument(
        "inputs", nargs="+", type=arguments.path, metavar="INPUT", help="image, folder, or pattern in quotes"
    )
    parser.add_argument("--output", required=True, type=arguments.folder, metavar="DIR", help="folder of the results")
    arguments.add_weights_arguments(parser, "our checkpoint, such as checkpoints/NAME/seg/best.pth")
    how = parser.add_argument_group("how", "what is not set is as in training")
    how.add_argument("--resize", choices=arguments.RESIZE[:2], help="to the training's size, or not at all")
    how.add_argument("--img_size", type=arguments.image_side, help="side the images are resized to, pixels")
    how.add_argument("--normalization", choices=NORMALIZATIONS)
    how.add_argument(
        "--white_level", type=arguments.white_level, metavar="N", help="value of 16-bit images that is 255"
    )
    how.add_argument("--encoder_bn", choices=ENCODER_BN, help="with batch, images go through one by one")
    arguments.add_view_arguments(how)
    how.add_argument("--threshold", type=arguments.number, default=0.5, help="probabilities above it are target (0.5)")
    what = parser.add_argument_group("what is written, beside the masks")
    what.add_argument(
        "--probability", type=arguments.integer, choices=[8, 16], help="probability maps of that many bits"
    )
    what.add_argument("--overlay", action="store_true", help="images with their masks drawn on")
    what.add_argument("--overwrite", action="store_true", help="predict again what is there")
    arguments.add_engine_argument(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=arguments.positive, default=8, help="images at once, by their pixels (8)")
    run.add_argument("--device", default="auto", help=arguments.DEVICES)
    run.add_argument("--amp", choices=arguments.PRECISIONS, help="mixed precision")
    run.add_argument("--threads", type=arguments.positive, help="of torch on the CPU; one a core if not set")
    run.add_argument("--workers", type=arguments.positive, default=2, help="threads that decode images (2)")
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with weights of one kind."""
    args = parser().parse_args(argv)
    given = {name for name, value in vars(args).items() if value is not None}
    try:
        check_tiles(args.tile, args.overlap)
        check_threshold(args.threshold)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not arguments.names_authors_files(given) and not args.weights:
        raise UserError("which weights? Pass --weights FILE, or --recon_weights and --seg_weights")
    return args


def build_predictor(args: argparse.Namespace) -> Predictor:
    from utils.prediction.predictor import Predictor

    names = ("recon_weights", "device", "amp", "encoder_bn", "normalization", "img_size", "resize", "tta", "tile")
    names += ("white_level", "overlap", "batch_size", "engine", "threads", "threshold")
    try:
        return Predictor(
            args.weights or args.seg_weights,
            progress=is_writer(),
            **{name: getattr(args, name) for name in names},
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def main(args: argparse.Namespace) -> Report:
    """Predicts, and exits with 1 if an image could not be read."""
    refuse_one_gpu_for_all(args.device)
    inputs = find_inputs(args.inputs, leave_out=args.output)
    for name in ("weights", "recon_weights", "seg_weights"):
        check_file(getattr(args, name), f"--{name}")
    import torch

    from utils.common.distributed import join
    from utils.common.files import sha256
    from utils.common.runtime import keep_freed_memory
    from utils.prediction.output_folder import Outputs
    from utils.prediction.predict_folder import predict_files

    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    predictor = build_predictor(args)
    join(predictor.device, PATIENCE)
    weights = [Path(file) for file in (args.weights, args.recon_weights, args.seg_weights) if file]
    made_with = {
        "weights": {path.name: sha256(path) for path in weights},
        **predictor.settings,
    }
    outputs = Outputs(args.output, args.probability, args.overlay)
    say("\n".join(f"  {name:<15} {value}" for name, value in predictor.settings.items()))
    report = predict_files(predictor, inputs, outputs, made_with, args.overwrite, args.workers)
    say(f"{report.predicted} images predicted, {report.there_before} were there already: {args.output}")
    if report.turned:
        few = ", ".join(report.turned[:3]) + (" ..." if len(report.turned) > 3 else "")
        say(
            f"warning: {len(report.turned)} images have an EXIF orientation, which is not applied: their masks fit the "
            f"pixels as stored, not the picture as viewers show it: {one_line(few)}"
        )
    if report.failures:
        if is_writer():
            failures = map(one_line, report.failures)
            print(f"{len(report.failures)} could not be read:", *failures, sep="\n  ", file=sys.stderr)
        sys.exit(1)
    return report


if __name__ == "__main__":
    run_script(main, settings)
