"""Segment images: files, folders (including sub-folders) or patterns.

    python predict.py --weights checkpoints/BUSI/seg/best.pth scans/ --output masks
    python predict.py --weights checkpoints/BUSI/seg/best.pth "study/*/images/*.png" --output masks --tta --overlay
    python predict.py --weights checkpoints/SIRST/seg/best.pth frames/ --output masks --resize keep --probability 16
    python predict.py --weights checkpoints/SIRST/seg/best.pth panorama.tif --output masks --tile 512 --overlap 128
    python predict.py --recon_weights SRS_R.pth --seg_weights SRS_S.pth --encoder_bn batch --normalization authors \\
        scans/ --output masks                                                  # the authors' released weights

The script writes OUTPUT/NAME.png (0 and 255, at the original size of the image) and a contact sheet of up to 24 images,
OUTPUT/contact_sheet/contact_sheet.png. --probability and --overlay write to separate folders. Existing results are
skipped, so an interrupted call can be repeated. The exit code is 1 if an image could not be read; all other images are
still predicted. See docs/how_to/predict.md.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P omits it

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
from utils.common.printable import first_three, one_line
from utils.common.processes import is_writer, refuse_one_gpu_for_all, say
from utils.common.script import run_script
from utils.common.version import add_version
from utils.settings import arguments, inference_arguments
from utils.settings.refusals import check_file, check_threshold, check_tiles

if TYPE_CHECKING:  # torch is imported where it is used, so that --help and errors in the flags come at once
    from utils.prediction.predict_folder import Report
    from utils.prediction.predictor import Predictor

# A finished process waits for the others, which may have large images left. A process that died is noticed at once.
PATIENCE = timedelta(days=7)


def parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(
        prog="predict.py",
        description="Segment images with a trained SRS.",
        formatter_class=arguments.HelpFormatter,
        allow_abbrev=False,
    )
    add_version(parser)
    parser.add_argument(
        "inputs", nargs="+", type=arguments.path, metavar="INPUT", help="image file, folder, or pattern in quotes"
    )
    parser.add_argument("--output", required=True, type=arguments.folder, metavar="DIR", help="output folder")
    inference_arguments.add_weights_arguments(parser, "checkpoint of train_seg.py, e.g. checkpoints/NAME/seg/best.pth")
    inference = parser.add_argument_group("inference", "defaults: as in training")
    inference.add_argument(
        "--resize",
        choices=inference_arguments.RESIZE[:2],
        help="network input size; img_size: images are resized to --img_size; keep: original size",
    )
    inference.add_argument(
        "--img_size", type=arguments.image_side, help="side length to which images are resized, in pixels"
    )
    inference.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        help="pixel normalisation; imagenet: mean and standard deviation of ImageNet; authors: the same, then divided "
        "by 255 again",
    )
    inference.add_argument(
        "--white_level", type=arguments.white_level, metavar="N", help="white level of 16-bit images, e.g. 4095"
    )
    inference.add_argument(
        "--encoder_bn",
        choices=ENCODER_BN,
        help="batch-norm statistics of the frozen encoder; frozen: running statistics; batch: statistics of the "
        "current batch, with batch size 1",
    )
    inference_arguments.add_view_arguments(inference)
    inference.add_argument(
        "--threshold", type=arguments.number, default=0.5, help="probability threshold: pixels above it are target"
    )
    outputs = parser.add_argument_group("additional outputs")
    bits = "bit depth of probability maps to write"
    outputs.add_argument("--probability", type=arguments.integer, choices=[8, 16], help=bits)
    outputs.add_argument("--overlay", action="store_true", help="overlay pictures: images with the outline of the mask")
    outputs.add_argument("--overwrite", action="store_true", help="replacement of existing results (default: skip)")
    inference_arguments.add_engine_argument(parser)
    run = parser.add_argument_group("run")
    run.add_argument(
        "--batch_size", type=arguments.positive, default=8, help="batch size; smaller for images of many pixels"
    )
    run.add_argument("--device", default="auto", help=arguments.DEVICES)
    run.add_argument("--amp", choices=arguments.PRECISIONS, help="mixed precision (default: as in training)")
    run.add_argument("--threads", type=arguments.threads, help=arguments.THREADS)
    run.add_argument("--workers", type=arguments.positive, default=2, help="image-decoding threads")
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line.

    Raises:
        UserError: for values that are out of range, and if not exactly one kind of weights is given.
    """
    args = parser().parse_args(argv)
    given = {name for name, value in vars(args).items() if value is not None}
    try:
        check_tiles(args.tile, args.overlap)
        check_threshold(args.threshold)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not inference_arguments.names_authors_files(given) and not args.weights:
        raise UserError("no weights given: pass --weights FILE, or --recon_weights and --seg_weights")
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
    """Predicts; exits with 1 if an image could not be predicted."""
    refuse_one_gpu_for_all(args.device)
    inputs = find_inputs(args.inputs, leave_out=args.output)
    for name in ("weights", "recon_weights", "seg_weights"):
        check_file(getattr(args, name), f"--{name}")
    import torch

    from datasets.levels import unfit_white_level
    from utils.common.distributed import join
    from utils.common.files import sha256
    from utils.common.runtime import keep_freed_memory
    from utils.prediction import contact_sheet
    from utils.prediction.output_folder import Outputs
    from utils.prediction.predict_folder import predict_files

    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    predictor = build_predictor(args)
    join(predictor.device, PATIENCE)
    weights = [Path(file) for file in (args.weights, args.recon_weights, args.seg_weights) if file]
    alike = len({path.name for path in weights}) < len(weights)
    made_with = {
        "weights": {str(path) if alike else path.name: sha256(path) for path in weights},
        **predictor.settings,
    }
    shown = contact_sheet.choose(image.name for image in inputs)
    outputs = Outputs(args.output, args.probability, args.overlay, shown)
    say("\n".join(f"  {name:<15} {value}" for name, value in predictor.settings.items()))
    report = predict_files(predictor, inputs, outputs, made_with, args.overwrite, args.workers)
    say(f"{report.predicted} images predicted, {report.there_before} existing results skipped: {args.output}")
    if outputs.sheet.exists():
        say(f"contact sheet: {outputs.sheet}")
    if report.turned:
        say(
            f"warning: {len(report.turned)} images have an EXIF orientation, which is not applied: their masks match "
            f"the stored pixels, not the picture that viewers show: {one_line(first_three(report.turned))}"
        )
    if report.bits and (unfit := unfit_white_level(report.bits, predictor.white_level)):
        say(f"warning: {unfit}")
    if report.failures:
        if is_writer():
            failures = map(one_line, report.failures)
            print(f"{len(report.failures)} of {len(inputs)} images failed:", *failures, sep="\n  ", file=sys.stderr)
        sys.exit(1)
    return report


if __name__ == "__main__":
    run_script(main, settings)
