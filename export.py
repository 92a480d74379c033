"""A trained SRS as a file for ONNX Runtime, OpenVINO or LibTorch, compared with torch before it is written.

    python export.py --weights checkpoints/BUSI/seg/best.pth --format onnx            # checkpoints/BUSI/seg/best.onnx
    python export.py --weights checkpoints/BUSI/seg/best.pth --format openvino --output srs.xml       # and srs.bin
    python export.py --weights checkpoints/BUSI/seg/best.pth --format torchscript                      # .../best.pt
    python export.py --recon_weights SRS_R.pth --seg_weights SRS_S.pth --encoder_bn batch --normalization authors \\
        --format onnx                                                                # the authors' released weights

Needs `pip install -r requirements-export.txt`, but for TorchScript. The file takes any batch and any size from 8x8 on;
docs/how_to/export.md says what is in it and how to run it.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P leaves it out

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
from utils.networks import EXPORT_FORMATS
from utils.settings.arguments import Parser, add_weights_arguments, names_authors_files, path
from utils.settings.refusals import check_file

if TYPE_CHECKING:  # torch and all that needs it is imported where it is used: --help and refusals come without
    from torch import nn


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="export.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add_weights_arguments(parser, "our checkpoint")
    parser.add_argument("--format", choices=EXPORT_FORMATS, required=True)
    parser.add_argument("--output", type=path, metavar="FILE", help="beside the weights, by their name, if not set")
    parser.add_argument("--encoder_bn", choices=ENCODER_BN, help="as trained if not set; frozen for the authors' files")
    parser.add_argument(
        "--normalization", choices=NORMALIZATIONS, help="as trained if not set; imagenet for the authors' files"
    )
    return parser


def main(args: argparse.Namespace) -> Path:
    """Exports and returns the path of the file."""
    names_weights(args)
    for name in ("weights", "recon_weights", "seg_weights"):
        check_file(getattr(args, name), f"--{name}")
    from utils.networks.export import FORMATS, export_model

    model, weights, metadata = load(args)
    output = Path(args.output or weights.with_suffix(FORMATS[args.format].suffix))
    if output.resolve() == weights.resolve():
        raise UserError(f"{output} holds the weights themselves: pass another --output")
    say(f"exporting {weights} to {args.format}, and comparing it with torch")
    export_model(model, args.format, output, metadata["normalization"], metadata)
    say(f"wrote {output}" + (f" and {output.with_suffix('.bin')}" if args.format == "openvino" else ""))
    return output


def names_weights(args: argparse.Namespace) -> bool:
    """Whether the weights are the authors' two files, not our checkpoint.

    Raises:
        UserError: if they are neither.
    """
    authors = names_authors_files({name for name, value in vars(args).items() if value is not None})
    if not authors and not args.weights:
        raise UserError("which weights? Pass --weights FILE, or the authors' two")
    return authors


def load(args: argparse.Namespace) -> tuple[nn.Module, Path, dict[str, str]]:
    """The network, the file it is from, and what a user of the exported file has to know."""
    import torch

    from datasets.transforms import constants
    from utils.common.files import sha256
    from utils.networks.checkpoints import load_checkpoint
    from utils.networks.load_weights import learned_shift, load_authors, load_segmenter
    from utils.settings.provenance import git_commit
    from utils.settings.recorded import recorded_settings

    known: dict[str, Any] = {}
    if names_weights(args):
        weights = Path(args.seg_weights)
        settings = {"variant": "srs", "img_size": 256, "normalization": "imagenet", "encoder_bn": "frozen"}
        files = [Path(args.recon_weights), weights]
    else:
        weights = Path(args.weights)
        checkpoint = load_checkpoint(weights, "seg")
        settings = recorded_settings(checkpoint["settings"], weights)
        known = {"Dataset": settings.get("Dataset"), "epoch": checkpoint.get("epoch")}
        known["white_level"] = settings["white_level"]
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
