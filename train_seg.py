"""Phase 2: train the segmenter, whose DPConv kernels come from the frozen encoder of phase 1.

    python train_seg.py --Dataset BUS                        # the paper's protocol, with the encoder of train_recon.py
    python train_seg.py --base_dir path/to/my_data --recon_weights checkpoints/BUS/recon/best.pth
    python train_seg.py --Dataset BUS --encoder_bn batch --normalization authors     # as in the released code
    python train_seg.py --Dataset BUS --dynamic static               # a control: one learned kernel for all images
    python train_seg.py --Dataset BUS --kernel_source random         # a control: an untrained encoder

The script writes best.pth and last.pth (each contains the whole SRS), log.jsonl, TensorBoard events and validation.png
(image, target, prediction) to OUTPUT_DIR/seg.
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
from utils.common.processes import say
from utils.common.script import run_script
from utils.evaluation.pixel_metrics import confusion, figures, predicted_share
from utils.settings import arguments, config
from utils.settings.refusals import check_training, naming_the_network
from utils.training import losses
from utils.training.pretrained_encoder import encoder_file, load_pretrained
from utils.training.shapes import check_shape
from utils.training.watched_figures import derive, empty_note, parts

if TYPE_CHECKING:  # torch is imported where it is used, so that --help and errors in the flags come at once
    from torch import Tensor, nn

    from utils.common.runtime import Batch


class Segmentation:
    """Phase 2, for the engine: SRS, whose encoder is frozen, or another network; and its loss."""

    name = "seg"
    watch_from = 0
    columns = ("image", "target", "probability")  # of `draw`

    def __init__(
        self,
        model: models.protocols.SegmentationNetwork,
        mask_shift: tuple[float, float] = (0.0, 0.0),
        loss: str = arguments.LOSS,
        watch: str = "iou",
        layer: str = models.DPCONV,
    ) -> None:
        self.model = model
        self.layer = layer
        self.watch, self.higher_is_better = watch, watch != "loss"
        # The offset of the resized masks, which the network learns; `datasets.resizing.restore` removes it again.
        self.recorded = {"mask_shift": mask_shift}
        self.loss = losses.load(loss)

    def step(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the paper's figures of each image.

        Raises:
            UserError: if the network or the loss returns something else than `models.protocols` and `losses` define.
        """
        logits = model(batch["image"])
        check_shape(logits, batch["mask"].shape, "the network must return logits of shape")
        logits = logits.float()
        of_images = self.loss(logits, batch["mask"])
        counts = confusion(logits.detach(), batch["mask"])
        paper = figures(counts)
        validating = {} if of_images.requires_grad else parts(counts, paper["iou"])
        return of_images.mean(), {"loss": of_images, **paper, "predicted": predicted_share(counts), **validating}

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """The validation figures, pooled_iou and iou_with_target among them."""
        return derive(means)

    def draw(self, model: nn.Module, batch: Batch) -> list[tuple[Tensor, ...]]:
        """input | target | predicted probability"""
        return list(zip(batch["image"], batch["mask"], model(batch["image"]).sigmoid(), strict=True))

    def distributions(self, model: models.SRS, batch: Batch) -> dict[str, Tensor]:
        """DPConv's code g, (B, 64), or that of the layer in its place. Equal codes mean an ordinary convolution."""
        from models.protocols import code_maker

        layer = code_maker(model)
        return {f"{self.layer}/g": layer.code(model.deep_features(batch["image"]))} if layer else {}


def parser() -> config.ScriptParser:
    parser = config.ScriptParser("train_seg", "Phase 2 of SRS: train the segmenter and its DPConv.")
    arguments.add_shared_arguments(parser, epochs=300)
    arguments.add_segmentation_arguments(parser, losses.names())
    parser.add_argument(
        "--recon_weights",
        type=arguments.path,
        metavar="FILE",
        help="pretrained reconstruction network: a checkpoint of train_recon.py, or the authors' SRS_R file (default: "
        "OUTPUT_DIR/recon/best.pth)",
    )
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return config.run_settings(parser(), "seg", argv)


def main(args: argparse.Namespace) -> None:
    folder = config.output_dir(args) / "seg"
    check_training(args, folder)
    encoder_file(args, folder / "last.pth")  # an error comes before torch is imported
    with hold(folder):
        train(args, folder)


def train(args: argparse.Namespace, folder: Path) -> None:
    """Trains in a folder that this process has locked."""
    from utils.common.runtime import set_up
    from utils.settings.data_loaders import training_loaders
    from utils.training.engine import fit

    config.announce("phase 2: segmentation", args)
    device = set_up(args)
    # With batch statistics, a prediction depends on the other images of its batch. The released code uses batch size 1.
    train, val = training_loaders(args, True, val_batch_size=1 if args.encoder_bn == "batch" else args.batch_size)
    pretrained = encoder_file(args, folder / "last.pth")
    encoder = load_pretrained(pretrained, args) if pretrained else None
    with naming_the_network(args):
        options = {"layer": args.dynamic, "kernel_source": args.kernel_source, "encoder_bn": args.encoder_bn}
        model = models.build(args.variant, encoder=encoder, **options)
    empty, images = val.dataset.without_target(), len(val.dataset)
    if empty == images and args.watch == "iou_with_target":
        raise UserError(f"--watch iou_with_target: no image of {args.val_file_dir} has a target")
    if note := empty_note(empty, images, args.watch):
        say(note)
    phase = Segmentation(model, train.dataset.mask_shift(), args.loss, args.watch, args.dynamic)
    fit(phase, train, val, args, folder, device)


if __name__ == "__main__":
    run_script(main, settings)
