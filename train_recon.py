"""Phase 1: pretrain the reconstruction autoencoder, whose frozen encoder phase 2 uses.

    python train_recon.py --Dataset BUS                      # the paper's protocol, from configs/BUS.yaml
    python train_recon.py --base_dir path/to/my_data         # your own images
    python train_recon.py --Dataset sample --variant srs_tiny --img_size 128 --epochs 10
    python train_recon.py --Dataset BUS --unlabeled_dir more_ultrasound    # adds images without masks

The network learns to reconstruct its input image (mean squared error); masks are not read. The script writes best.pth
and last.pth, log.jsonl, TensorBoard events and validation.png (images and reconstructions) to OUTPUT_DIR/recon.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P omits it

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import models
from utils.common.errors import UserError
from utils.common.locks import hold
from utils.common.script import run_script
from utils.settings import arguments, config
from utils.settings.refusals import check_training, naming_the_network

if TYPE_CHECKING:  # torch is imported where it is used, so that --help and errors in the flags come at once
    from torch import Tensor, nn

    from utils.common.runtime import Batch


class Reconstruction:
    """Phase 1, for the engine: the autoencoder and its loss."""

    name = "recon"
    watch, higher_is_better = "loss", False
    watch_from = 2  # as in the paper: the first two epochs are never the best
    columns = ("image", "reconstruction")  # of `draw`

    def __init__(self, model: models.NestedUNet) -> None:
        self.model = model

    def step(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error to the (normalised) input image."""
        losses = (model(batch["image"]).float() - batch["image"]).square().mean((1, 2, 3))
        return losses.mean(), {"loss": losses}

    def draw(self, model: nn.Module, batch: Batch) -> list[tuple[Tensor, ...]]:
        """input | reconstruction"""
        return list(zip(batch["image"], model(batch["image"]), strict=True))


def parser() -> config.ScriptParser:
    parser = config.ScriptParser("train_recon", "Phase 1 of SRS: pretrain the reconstruction autoencoder.")
    arguments.add_shared_arguments(parser, epochs=100)
    parser.epilog = (
        "Both phases take the same flags. Phase 1 reads no masks, so the flags of masks have no effect here; nor has "
        "--encoder_bn."
    )
    parser.add_argument(
        "--unlabeled_dir",
        action=arguments.Repeated,
        type=arguments.path,
        metavar="FOLDER",
        help="folder of additional training images without masks, searched recursively; may be repeated",
    )
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return config.run_settings(parser(), "recon", argv)


def main(args: argparse.Namespace) -> None:
    folder = config.output_dir(args) / "recon"
    with naming_the_network(args):
        has_phase_1 = models.needs_encoder(args.variant)
    if not has_phase_1:
        raise UserError(
            f"--variant {args.variant} has no phase 1, because it has no reconstruction encoder. Run train_seg.py"
        )
    check_training(args, folder)
    with hold(folder):
        train(args, folder)


def train(args: argparse.Namespace, folder: Path) -> None:
    """Trains in a folder that this process has locked."""
    from utils.common.runtime import set_up
    from utils.settings.data_loaders import training_loaders
    from utils.training.engine import fit

    config.announce("phase 1: reconstruction", args)
    device = set_up(args)
    train, val = training_loaders(args, False, args.batch_size, args.unlabeled_dir or ())
    phase = Reconstruction(models.build_reconstruction(args.variant))
    fit(phase, train, val, args, folder, device)


if __name__ == "__main__":
    run_script(main, settings)
