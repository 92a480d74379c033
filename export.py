"""Export a trained SRS to ONNX, OpenVINO or TorchScript. The exported file is compared with torch before it is written.

    python export.py --weights checkpoints/BUSI/seg/best.pth --format onnx            # checkpoints/BUSI/seg/best.onnx
    python export.py --weights checkpoints/BUSI/seg/best.pth --format openvino --output srs.xml       # and srs.bin
    python export.py --weights checkpoints/BUSI/seg/best.pth --format torchscript                      # .../best.pt
    python export.py --recon_weights SRS_R.pth --seg_weights SRS_S.pth --encoder_bn batch --normalization authors \\
        --format onnx                                                                # the authors' released weights

ONNX and OpenVINO require `pip install -r requirements-export.txt`. The file accepts any batch size and any image size
from 8x8 pixels. docs/how_to/export.md describes its contents and how to run it.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P omits it

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import NORMALIZATIONS
from models import DPCONV, ENCODER_BN
from utils.common.errors import UserError
from utils.common.processes import say
from utils.common.script import run_script
from utils.common.version import add_version
from utils.networks import EXPORT_FORMATS
from utils.settings.arguments import HelpFormatter, Parser, path
from utils.settings.inference_arguments import add_weights_arguments, names_authors_files
from utils.settings.refusals import check_file

if TYPE_CHECKING:  # torch is imported where it is used, so that --help and errors in the flags come at once
    from torch import nn


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="export.py",
        description=__doc__.splitlines()[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_version(parser)
    add_weights_arguments(parser, "checkpoint of train_seg.py")
    parser.add_argument("--format", choices=EXPORT_FORMATS, required=True, help="file format")
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="output file (default: the name of the weights, in their folder)"
    )
    parser.add_argument(
        "--encoder_bn",
        choices=ENCODER_BN,
        help="batch-norm statistics of the frozen encoder (default: as in training; frozen for the authors' files)",
    )
    parser.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        help="pixel normalisation (default: as in training; imagenet for the authors' files)",
    )
    return parser


def main(args: argparse.Namespace) -> Path:
    """Exports and returns the path of the file."""
    names_weights(args)
    for name in ("weights", "recon_weights", "seg_weights"):
        check_file(getattr(args, name), f"--{name}")
    from utils.networks.export import FORMATS, export_model, files_of

    model, weights, metadata = load(args)
    output = Path(args.output or weights.with_suffix(FORMATS[args.format].suffix))
    files = files_of(output)
    for flag in ("weights", "recon_weights", "seg_weights"):
        source = getattr(args, flag)
        if source and any(file.exists() and file.samefile(source) for file in files):
            raise UserError(f"the export would overwrite --{flag} {source}: pass another --output")
    say(f"exporting {weights} to {args.format} and comparing the result with torch")
    export_model(model, args.format, output, metadata["normalization"], metadata)
    say(f"wrote {' and '.join(map(str, files))}")
    return output


def names_weights(args: argparse.Namespace) -> bool:
    """Whether the weights are the authors' two files rather than a checkpoint of this project.

    Raises:
        UserError: if no weights are given.
    """
    authors = names_authors_files({name for name, value in vars(args).items() if value is not None})
    if not authors and not args.weights:
        raise UserError("no weights given: pass --weights FILE, or --recon_weights and --seg_weights")
    return authors


def load(args: argparse.Namespace) -> tuple[nn.Module, Path, dict[str, str]]:
    """The network, the file of its weights, and the metadata that a user of the exported file needs."""
    import torch

    from datasets.transforms import constants
    from utils.common.files import sha256
    from utils.networks.checkpoints import load_checkpoint
    from utils.networks.load_weights import learned_shift, load_authors, load_segmenter
    from utils.settings.config import trained_resize
    from utils.settings.provenance import git_commit
    from utils.settings.recorded import recorded_settings

    settings: dict[str, Any] = {"variant": "srs", "img_size": 256, "normalization": "imagenet", "encoder_bn": "frozen"}
    if names_weights(args):
        weights = Path(args.seg_weights)
        files = [Path(args.recon_weights), weights]
        known: dict[str, Any] = {"mask_shift": "null"}  # it depends on the image: docs/how_to/export.md
    else:
        weights = Path(args.weights)
        checkpoint = load_checkpoint(weights, "seg")
        settings |= recorded_settings(checkpoint["settings"], weights)
        known = {"Dataset": settings.get("Dataset"), "epoch": checkpoint.get("epoch")}
        known["white_level"] = settings.get("white_level")
        known["mask_shift"] = json.dumps(learned_shift(checkpoint, weights))
        known["validation_figures"] = json.dumps(checkpoint.get("figures"))
        files = [weights]
    encoder_bn = args.encoder_bn or settings["encoder_bn"]
    normalization = args.normalization or settings["normalization"]
    model = load_authors(*files, encoder_bn) if len(files) == 2 else load_segmenter(checkpoint, encoder_bn, weights)
    mean, std = constants(normalization)
    known |= {
        "variant": settings["variant"],
        "dynamic": settings.get("dynamic", DPCONV),
        "kernel_source": settings.get("kernel_source", "recon"),
        "img_size": settings["img_size"],
        "resize": trained_resize(settings),
        "normalization": normalization,
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "encoder_bn": encoder_bn,
        "input": "image: float32 (batch, 3, height, width), RGB, (pixel / 255 - mean) / std",
        "output": "logits: float32 (batch, 1, height, width); over 0 is target; sigmoid gives the probability",
        "weights": ", ".join(file.name for file in files),
        "weights_sha256": ", ".join(sha256(file) for file in files),
        "git_commit": git_commit(),
        "torch": torch.__version__,
    }
    return model, weights, {name: str(value) for name, value in known.items() if value is not None}


if __name__ == "__main__":
    run_script(main, parser().parse_args)
