"""The flags of the data, the network, the training and the run, which several scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from datasets import AUGMENT_ORDERS, MASK_INTERPOLATIONS, NORMALIZATIONS
from models import DPCONV, ENCODER_BN, KERNEL_SOURCES, layers, networks
from utils.settings.argument_types import AUTO as AUTO  # re-exported, with the types of other scripts' flags
from utils.settings.argument_types import HelpFormatter as HelpFormatter
from utils.settings.argument_types import Parser as Parser
from utils.settings.argument_types import Repeated as Repeated
from utils.settings.argument_types import (
    budget,
    image_side,
    mask_threshold,
    natural,
    path,
    positive,
    rate,
    seed,
    threads,
    white_level_or_auto,
)
from utils.settings.argument_types import folder as folder
from utils.settings.argument_types import integer as integer
from utils.settings.argument_types import minutes as minutes
from utils.settings.argument_types import number as number
from utils.settings.argument_types import white_level as white_level

PRECISIONS = ("auto", "off", "bf16", "fp16")
DEVICES = "compute device: auto (CUDA, else XPU, else MPS, else the CPU), cpu, cuda, cuda:1, xpu or mps"
THREADS = "CPU threads (default: one per core)"
LOSS = "bce_dice"  # the paper's
WATCHED = ("iou", "pooled_iou", "iou_with_target", "F1", "loss")  # values of --watch


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The data folder, its lists, and the preprocessing."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--base_dir", type=path, metavar="FOLDER", help="data folder: contains images/, masks/ and the list files"
    )
    group.add_argument(
        "--train_file_dir",
        type=path,
        metavar="LIST",
        default="train.txt",
        help="training list: a file in base_dir, or a path",
    )
    group.add_argument(
        "--val_file_dir",
        type=path,
        metavar="LIST",
        default="val.txt",
        help="validation list: a file in base_dir, or a path",
    )
    group.add_argument(
        "--test_file_dir",
        type=path,
        metavar="LIST",
        help="test list, read only by evaluation.py --test: a file in base_dir, or a path",
    )
    group.add_argument(
        "--img_size", type=image_side, default=256, help="side length to which images are resized, in pixels"
    )
    group.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        default="imagenet",
        help="pixel normalisation; imagenet: mean and standard deviation of ImageNet; authors: the same, then divided "
        "by 255 again, as the released weights require",
    )
    group.add_argument("--mask_suffix", help="mask filename suffix, e.g. _gt (default: detected)")
    group.add_argument(
        "--mask_threshold",
        type=mask_threshold,
        help="mask threshold: brighter mask pixels are target (default: masks must be binary)",
    )
    group.add_argument(
        "--white_level",
        type=white_level_or_auto,
        metavar="N",
        help="white level of 16-bit images, e.g. 4095 for 12 bits; auto: detected in the training images and stored in "
        "the checkpoint (default: 65535)",
    )
    _switch(group, "--fit_masks", False, "resizing of masks whose size differs from their image's")
    group.add_argument(
        "--mask_interpolation",
        choices=MASK_INTERPOLATIONS,
        default="exact",
        help="mask interpolation; exact: aligned with the image, and no target vanishes; nearest: OpenCV's "
        "INTER_NEAREST, as in the released code, which shifts masks by half a pixel of the resized image",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The network."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--variant",
        choices=list(networks()),
        default="srs",
        help="segmentation network; srs: the paper's network; srs_tiny: a small one; others: models/baselines/NAME.py",
    )
    group.add_argument(
        "--encoder_bn",
        choices=ENCODER_BN,
        default="frozen",
        help="batch-norm statistics of the frozen encoder; frozen: running statistics (paper); batch: statistics of "
        "the current batch (released code)",
    )


def add_training_arguments(parser: argparse.ArgumentParser, epochs: int) -> None:
    """The training loop; `epochs` is the default of --epochs."""
    group = parser.add_argument_group("training")
    group.add_argument("--base_lr", type=rate, default=0.01, help="initial learning rate")
    group.add_argument("--batch_size", type=positive, default=8, help="batch size over all processes together")
    group.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        help="gradient accumulation: number of parts into which each batch is split, to save memory; batch norms see "
        "one part at a time",
    )
    group.add_argument("--epochs", type=positive, default=epochs, help="number of epochs")
    group.add_argument(
        "--crop",
        type=image_side,
        metavar="N",
        help="side length of random training crops at the original resolution, in phase 2 half of them around a "
        "target; validation uses whole images; --img_size, --mask_interpolation and --augment_order have no effect",
    )
    group.add_argument(
        "--augment_order",
        choices=AUGMENT_ORDERS,
        default="before_resize",
        help="order of augmentation and resizing; before_resize: rotate and flip first (released code); after_resize: "
        "resize first (this project until 2026)",
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const="yes",
        choices=["yes", "auto"],
        help="resume the run in output_dir; auto: resume it if it exists, otherwise start a new run (for job scripts)",
    )
    _switch(group, "--sync_bn", False, "synchronised batch norm: statistics over the batch of all torchrun processes")
    _switch(
        group,
        "--compile",
        False,
        "torch.compile for the training step: takes minutes at the start, intended for GPUs",
    )
    _switch(
        group,
        "--cuda_graphs",
        False,
        "CUDA graphs for the training step: for a GPU that waits for Python, as with small batches; one process",
    )
    _switch(
        group,
        "--channels_last",
        True,
        "channels_last memory layout, usually the fastest; --no-channels_last selects NCHW",
    )
    group.add_argument(
        "--cache",
        type=budget,
        default=1.0,
        metavar="GB",
        help="memory for decoded images, in GB per process; 0 disables the cache",
    )
    group.add_argument("--init_from", type=path, metavar="FILE", help="checkpoint whose weights initialise the new run")
    group.add_argument(
        "--save_every",
        type=natural,
        default=0,
        help="checkpoint interval in epochs; 0 keeps only best.pth and last.pth",
    )


def add_layer_argument(parser: argparse.ArgumentParser) -> None:
    """The dynamic layer and its input."""
    parser.add_argument(
        "--dynamic",
        choices=layers(),
        default=DPCONV,
        help="dynamic layer at the segmenter's deepest map; dpconv: the paper's; others: models/dynamic/NAME.py",
    )
    parser.add_argument(
        "--kernel_source",
        choices=KERNEL_SOURCES,
        default="recon",
        help="input of the dynamic layer; recon: the encoder of phase 1 (paper); random: the same encoder with random "
        "weights; self: the segmenter's own deepest map. random and self require no phase 1",
    )


def add_segmentation_arguments(parser: argparse.ArgumentParser, losses: Collection[str]) -> None:
    """The arguments of phase 2 alone; `losses` are the names of `utils.training.losses`."""
    add_layer_argument(parser)
    parser.add_argument(
        "--loss",
        choices=losses,
        default=LOSS,
        help="loss of phase 2; bce_dice: 0.5 * BCE + Dice (paper); others: utils/training/losses/NAME.py",
    )
    parser.add_argument(
        "--watch",
        choices=WATCHED,
        default="iou",
        help="validation metric that selects best.pth; iou: mean over the images (paper); pooled_iou and "
        "iou_with_target: for lists that contain images without a target",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The device, the seed and the output folder."""
    group = parser.add_argument_group("run")
    group.add_argument("--device", default="auto", help=DEVICES)
    group.add_argument(
        "--amp",
        choices=PRECISIONS,
        default="auto",
        help="mixed precision; off: float32 without TF32; auto: bf16 or fp16 on NVIDIA GPUs that support it, "
        "otherwise off",
    )
    group.add_argument("--threads", type=threads, help=THREADS)
    group.add_argument(
        "--seed", type=seed, default=41, help="random seed for initialisation, shuffling and augmentation"
    )
    group.add_argument("--workers", type=natural, default=2, help="data-loading workers; 0 loads in the main process")
    _switch(
        group,
        "--deterministic",
        False,
        "deterministic algorithms: reproducible on CUDA too (slower); CPU runs always are",
    )
    group.add_argument(
        "--output_dir", type=path, metavar="FOLDER", help="output folder (default: checkpoints/NAME of the Dataset)"
    )
    group.add_argument(
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,  # not a setting of an experiment: left out unless given
        help="verbose output: also print all settings, which training writes to settings.txt",
    )


def add_shared_arguments(parser: argparse.ArgumentParser, epochs: int) -> None:
    """All four groups, as both phases take them."""
    add_data_arguments(parser)
    add_model_arguments(parser)
    add_training_arguments(parser, epochs)
    add_run_arguments(parser)


def _switch(group: argparse._ArgumentGroup, name: str, default: bool, help: str) -> None:
    """--name and --no-name."""
    group.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=help)
