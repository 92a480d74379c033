"""IoU, F1, SE, PC, SP and ACC of a trained SRS on a list of images.

    python evaluation.py --Dataset KBT2019                        # checkpoints/KBT2019/seg/best.pth on its val list
    python evaluation.py --weights checkpoints/BUS/seg/best.pth                   # on the data it was trained with
    python evaluation.py --weights checkpoints/BUS/seg/best.pth --Dataset BUSI    # on other data
    python evaluation.py --Dataset BUS --recon_weights SRS_R.pth --seg_weights SRS_S.pth \\
        --encoder_bn batch --normalization authors                       # the authors' released weights

Our checkpoint brings along the variant, image size, normalization and encoder_bn it was trained with; a flag on the
command line still wins. Writes per_image.csv, summary.json and examples.png into OUTPUT_DIR/evaluation/WEIGHTS-LIST.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from datasets.load import data_folder
from models import SRS
from utils import config
from utils.checkpoint import load_checkpoint
from utils.data import checked_cases, evaluation_loader
from utils.distributed import is_writer, say
from utils.errors import UserError
from utils.evaluation import draw_examples, evaluate, table, write_results
from utils.pictures import save_png
from utils.precision import Precision
from utils.provenance import provenance
from utils.runtime import run_script, set_up
from utils.weights import MODEL_SETTINGS, load_trained, names_authors_files

# What a checkpoint decides, too, where the command line names no data.
DATA_SETTINGS = ("Dataset", "base_dir", "val_file_dir", "mask_suffix", "mask_threshold", "fit_masks", "output_dir")


def parser() -> config.ScriptParser:
    parser = config.ScriptParser("evaluation", "Evaluate a trained SRS on a list of images.")
    config.add_data_arguments(parser)
    config.add_model_arguments(parser)
    config.add_run_arguments(parser)
    parser.add_argument("--batch_size", type=config.positive, default=8, help="1 is used with --encoder_bn batch")
    config.add_weights_arguments(parser, "our checkpoint; OUTPUT_DIR/seg/best.pth if not set")
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The settings of this run: the command line, then the checkpoint, then the configuration."""
    script = parser()
    given = script.given(argv)
    if names_authors_files(given):
        return script.settings(argv)
    if "weights" in given:
        path = given["weights"]
    else:
        configured = script.settings(argv)
        data_folder(configured.base_dir)
        path = config.output_dir(configured) / "seg" / "best.pth"
    if not Path(path).is_file():
        raise UserError(f"{path} is not there: run train_seg.py with the same --Dataset first, or pass --weights FILE")
    trained_with = load_checkpoint(Path(path), "seg")["settings"]
    names_data = given.keys() & {"Dataset", "base_dir", "config"}
    names = MODEL_SETTINGS + (() if names_data else DATA_SETTINGS)
    recorded = {name: trained_with[name] for name in names if name in trained_with}
    return script.settings(argv, {**recorded, "weights": str(path)})


def load_model(args: argparse.Namespace) -> SRS:
    if args.seg_weights:
        return load_trained(Path(args.seg_weights), Path(args.recon_weights), args.encoder_bn)[0]
    return load_trained(Path(args.weights), encoder_bn=args.encoder_bn)[0]


def main(args: argparse.Namespace) -> dict:
    """Evaluates and returns the summary that it also writes."""
    say(f"evaluation, with\n{config.describe(args)}")
    device = set_up(args)
    model = load_model(args).fuse().to(device, memory_format=torch.channels_last)
    cases = checked_cases(args, {"validation": args.val_file_dir})["validation"]
    loader = evaluation_loader(args, cases, batch_size=1 if args.encoder_bn == "batch" else args.batch_size)
    results = evaluate(model, loader, device, Precision(args.amp, device))
    summary = {**results.summary(), "settings": vars(args), "provenance": provenance(args, device)}
    if not is_writer():
        return summary
    print(table(summary))
    weights = Path(args.weights or args.seg_weights).stem
    folder = config.output_dir(args) / "evaluation" / f"{weights}-{Path(args.val_file_dir).stem}"
    write_results(results, summary, folder)
    save_png(folder / "examples.png", draw_examples(model, loader, results, device, args.normalization))
    print(f"wrote per_image.csv, summary.json and examples.png (image | target | prediction | errors) into {folder}")
    return summary


if __name__ == "__main__":
    run_script(main, settings)
