"""Evaluate a trained SRS on a list of images, with the figures of the paper, of medical and of infrared segmentation.

    python evaluation.py --Dataset KBT2019                     # checkpoints/KBT2019/seg/best.pth, validation list
    python evaluation.py --weights checkpoints/BUS/seg/best.pth                   # on the data of its training run
    python evaluation.py --weights checkpoints/BUS/seg/best.pth --Dataset BUSI    # on other data
    python evaluation.py --weights checkpoints/SIRST/seg/best.pth --resize keep   # at the original image size
    python evaluation.py --Dataset BUS --recon_weights SRS_R.pth --seg_weights SRS_S.pth \\
        --encoder_bn batch --normalization authors                       # the authors' released weights
    python evaluation.py --Dataset BUSI --report report              # also writes report/report.html
    python evaluation.py --Dataset SIRST --test              # best.pth and last.pth on the test list (--test_file_dir)
    python evaluation.py --compare checkpoints/BUSI checkpoints/BUSI-seed42    # two evaluations, image by image
    python evaluation.py --Dataset BUSI --code swap                  # code swap test: docs/explanation/method.md
    python evaluation.py --Dataset KBT2019 --engine openvino --amp bf16          # with OpenVINO

The variant, image size, normalization and encoder_bn are read from the checkpoint; flags on the command line override
them. The script writes per_image.csv, sweep.csv (every threshold), summary.json and examples.png to
OUTPUT_DIR/evaluation/WEIGHTS-LIST. Flags that change the figures are appended to this name, unless they agree with the
training (-keep, -32px, -normalization_authors, -tta, -swap); --code also writes per_image-own.csv and, for example,
per_image-swap.csv. docs/reference/metrics.md defines all figures.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P omits it

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.load import data_folder
from models import DPCONV
from utils.common.errors import UserError
from utils.common.locks import hold
from utils.common.printable import some
from utils.common.processes import is_writer, say
from utils.common.script import run_script
from utils.evaluation.held_out import held_out_evaluations
from utils.evaluation.result_files import refuse_other_results
from utils.evaluation.shared_cases import same_folder, shared_cases
from utils.settings import arguments, config, inference_arguments
from utils.settings.refusals import check_comparison, check_evaluation

if TYPE_CHECKING:  # torch is imported where it is used, so that --help and errors in the flags come at once
    from torch import nn

    from datasets.resizing import Shift

# Settings taken from the checkpoint unless they are given on the command line.
MODEL_SETTINGS = ("variant", "dynamic", "kernel_source", "encoder_bn", "img_size", "mask_interpolation")
MODEL_SETTINGS += ("normalization", "white_level", "amp")

# Settings also taken from the checkpoint if the command line names no data.
DATA_SETTINGS = ("Dataset", "base_dir", "val_file_dir", "test_file_dir", "mask_suffix", "mask_threshold", "fit_masks")

# Settings that change the figures. The name of the results contains those that differ from the training.
FIGURE_SETTINGS = ("img_size", "mask_interpolation", "mask_threshold", "normalization", "white_level", "encoder_bn")
FIGURE_SETTINGS += ("amp", "engine")


def parser() -> config.ScriptParser:
    parser = config.ScriptParser("evaluation", "Evaluate a trained SRS on a list of images.")
    arguments.add_data_arguments(parser)
    arguments.add_model_arguments(parser)
    arguments.add_layer_argument(parser)
    arguments.add_run_arguments(parser)
    inference_arguments.add_resize_argument(parser)
    inference_arguments.add_view_arguments(parser, argparse.SUPPRESS)
    parser.add_argument(
        "--batch_size",
        type=arguments.positive,
        default=8,
        help="batch size; always 1 with --encoder_bn batch, --resize keep and --resize back",
    )
    parser.add_argument(
        "--field",
        choices=inference_arguments.FIELDS,
        default="both",
        help="field whose figures are printed beside the paper's",
    )
    inference_arguments.add_engine_argument(parser)
    inference_arguments.add_code_argument(parser)
    inference_arguments.add_weights_arguments(parser, "checkpoint of train_seg.py (default: OUTPUT_DIR/seg/best.pth)")
    inference_arguments.add_result_arguments(parser)
    return parser


def settings(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The settings of this run. The command line overrides the checkpoint, which overrides the configuration."""
    script = parser()
    given = script.given(argv)
    if "compare" in given:
        return check_comparison(given)
    if "unlike_protocols" in given:
        raise UserError("--unlike_protocols requires --compare")
    if "test" in given:
        return argparse.Namespace(test=held_out_evaluations(settings, script, given))
    if inference_arguments.names_authors_files(given):
        masks = {"mask_interpolation": "nearest"}  # as in the released code
        trained_with = {**masks, "normalization": "authors", "encoder_bn": "batch"}
        usual = {**vars(script.parse_args([])), **script.configured(argv), **trained_with}
        return with_departures(script.settings(argv, masks), usual)
    if "weights" in given:
        path = given["weights"]
    else:
        configured = script.settings(argv)
        data_folder(configured.base_dir)
        path = config.output_dir(configured) / "seg" / "best.pth"
    if not Path(path).is_file():
        raise UserError(f"{path} was not found: run train_seg.py with the same --Dataset first, or pass --weights FILE")
    from utils.networks.checkpoints import load_settings
    from utils.settings.recorded import recorded_settings

    trained_with = recorded_settings(load_settings(Path(path), "seg"), Path(path))
    names_data = given.keys() & {"Dataset", "base_dir", "config"}
    names_data = names_data and not same_folder(trained_with.get("base_dir"), script.settings(argv).base_dir or "")
    brought = MODEL_SETTINGS + (() if names_data else DATA_SETTINGS)
    recorded = {"dynamic": DPCONV} | {name: trained_with[name] for name in brought if name in trained_with}
    if not names_data:  # a checkpoint never decides where files are written
        recorded["output_dir"] = str(beside_weights(Path(path)))
    if config.trained_resize(trained_with) != "img_size":
        recorded["resize"] = config.trained_resize(trained_with)
    if recorded.get("Dataset") in config.known_datasets():
        # The configuration may have an evaluation section, which the checkpoint does not record.
        argv = ["--Dataset", recorded["Dataset"], *(sys.argv[1:] if argv is None else argv)]
    return with_departures(script.settings(argv, {**recorded, "weights": str(path)}), {"engine": "torch", **recorded})


def with_departures(args: argparse.Namespace, usual: Mapping[str, Any]) -> argparse.Namespace:
    """The same settings; `departures` names those that change the figures and differ from the `usual` ones."""
    names = [name for name in FIGURE_SETTINGS if name in usual and getattr(args, name) != usual[name]]
    if args.resize == "keep" and "img_size" in names:
        names.remove("img_size")
    if names:  # left out of the settings otherwise, as tile and tta are
        args.departures = names
    return args


def beside_weights(weights: Path) -> Path:
    """The experiment folder of these weights: OUTPUT_DIR of OUTPUT_DIR/seg/best.pth."""
    folder = weights.parent if weights.parent.name else weights.absolute().parent
    return folder.parent if folder.name == "seg" else folder


def load_model(args: argparse.Namespace) -> tuple[nn.Module, Shift | None]:
    """The network, and the shift of its predictions that `datasets.resizing.restore` removes."""
    model, shift, _ = load_model_and_run(args)
    return model, shift


def load_model_and_run(args: argparse.Namespace) -> tuple[nn.Module, Shift | None, Mapping[str, Any]]:
    """The same, and `utils.networks.load_weights.run_facts` of the network; empty for the authors' files."""
    from utils.networks.load_weights import load_trained

    if args.seg_weights:
        model, trained_with = load_trained(Path(args.seg_weights), Path(args.recon_weights), args.encoder_bn)
    else:
        model, trained_with = load_trained(Path(args.weights), encoder_bn=args.encoder_bn)
    run = trained_with.get("run", {})
    if args.resize == "img_size" and args.mask_interpolation == "nearest":
        return model, (0.0, 0.0), run  # these masks are shifted against their images, as in training
    return model, trained_with.get("mask_shift"), run


def compared_at(args: argparse.Namespace, shift: Shift | None) -> str:
    """The size at which predictions are compared with masks, in words."""
    sizes = f"{args.img_size}x{args.img_size} pixels"
    words = {
        "img_size": f"{sizes}; images and masks were resized to it",
        "keep": "the original size of each image",
        "back": f"the original size of each image; predicted at {sizes}",
    }[args.resize] + inference_arguments.view_words(args)
    if shift is None:
        return f"{words}; predictions are shifted back by the offset of masks resized with INTER_NEAREST"
    if any(shift):
        down, right = shift
        return (
            f"{words}; predictions are shifted by {down:.2f} pixels up and {right:.2f} left, the offset of the masks "
            "in training"
        )
    return words


def results_folder(args: argparse.Namespace) -> Path:
    """The folder of the results of these settings."""
    weights = Path(args.weights or args.seg_weights).stem
    size = "" if args.resize == "img_size" else f"-{args.resize}"
    for name in getattr(args, "departures", ()):
        size += f"-{args.img_size}px" if name == "img_size" else f"-{name}_{getattr(args, name)}"
    views = (f"-tile{args.tile}-{args.overlap}" if "tile" in args else "") + ("-tta" if "tta" in args else "")
    other = inference_arguments.other_code(args)
    code = f"-{other}" if other else ""
    return config.output_dir(args) / "evaluation" / f"{weights}-{Path(args.val_file_dir).stem}{size}{views}{code}"


def main(args: argparse.Namespace) -> dict | list:
    """Evaluates, writes the summary and returns it; with --test both summaries, with --compare the rows."""
    if "compare" in args:
        from utils.report import compare

        return compare.main(args)
    if "test" in args:
        return [main(of_weights) for of_weights in args.test]
    check_evaluation(args)
    folder = results_folder(args)
    with hold(folder):
        refuse_other_results(folder, args)
        return evaluate_into(folder, args)


def evaluate_into(folder: Path, args: argparse.Namespace) -> dict:
    """Evaluates, and writes the results into a folder that this process has locked."""
    from datasets.kept import Kept
    from datasets.levels import unfit_white_level
    from datasets.pairing import files_hash
    from utils.common.pictures import save_png
    from utils.common.precision import Precision
    from utils.common.runtime import describe_execution, set_up
    from utils.common.tables import aligned
    from utils.evaluation.code_swap import check_codes, run_code_test
    from utils.evaluation.evaluate import MaskLogits, draw_examples, evaluate
    from utils.evaluation.protocol_card import protocol_card, words
    from utils.evaluation.result_files import written_together
    from utils.evaluation.results import table, write_results
    from utils.networks.inference_engines import load_engine
    from utils.report import code_section
    from utils.report.example_cases import look_at_cases
    from utils.report.layer_words import layer_words
    from utils.report.report import write_report
    from utils.settings.data_loaders import checked_cases, evaluation_loader
    from utils.settings.provenance import provenance

    config.announce("evaluation", args)
    device = set_up(args)
    precision = Precision(args.amp, device)
    network, shift, run = load_model_and_run(args)
    if other := inference_arguments.other_code(args):
        check_codes(network, other)
    engine = load_engine(args.engine, network, precision, args.threads, args.normalization)
    views = {name: value for name, value in vars(args).items() if name in ("tta", "tile", "overlap")}
    predict = MaskLogits(engine, precision, shift, **views)
    kept = Kept()
    cases = checked_cases(args, {"validation": args.val_file_dir}, kept=kept)["validation"]
    loader = evaluation_loader(args, cases, 1 if args.encoder_bn == "batch" else args.batch_size, args.resize)
    if unfit := unfit_white_level(kept.bits().values(), args.white_level):
        say(f"warning: {unfit}")
    execution = f"{device.type}, {describe_execution(args, precision)}"
    execution += f", {engine.speed.short}" if args.engine == "torch" else f", {args.engine}"
    header = {
        "data": f"{args.Dataset}: {len(cases)} images of {args.val_file_dir}",
        "network": f"{args.variant}, {args.weights or args.seg_weights}",
        "execution": execution,
        "output": folder,
    }
    say(aligned(list(header.items())))
    names = [case.name for case in cases]
    if shared := shared_cases(run.get("settings", {}), "train_file_dir", Path(args.base_dir), names):
        say(f"warning: {len(shared)} of {len(cases)} images are in the training list: {some(shared)}")
    results = evaluate(predict, loader)
    summary = {"compared_at": compared_at(args, shift), **results.summary()}
    test = run_code_test(network, loader, precision, other, args.seed, shift) if other else None
    summary |= {"code": test.summary()} if test else {}
    modules = {"modules": engine.speed.words} if hasattr(engine, "speed") else {}
    files = {"files": {"evaluated": files_hash(cases)}}
    summary |= {"settings": vars(args), "provenance": {**provenance(args, device), **files, **modules}}
    summary["protocol"] = protocol_card(args, results.names, run)
    if not is_writer():
        return summary
    say("\n".join([table(summary, args.field), *words(summary["protocol"])]))
    if test:
        say(code_section.as_text(test))
    with written_together(folder, summary) as beside:
        write_results(results, beside)
        if test:
            test.write(beside)
        save_png(beside / "examples.png", draw_examples(predict, loader, results))
    of_codes = f"per_image-own.csv, per_image-{other}.csv, " if test else ""
    say(
        f"wrote per_image.csv, {of_codes}sweep.csv, summary.json, examples.png (image | target | prediction | errors) "
        f"to {folder}"
    )
    if "report" in args:
        # Other engines run a file: what DPConv does in it is seen in the network that the file was written from.
        layer = layer_words(network, vars(args))
        cases = look_at_cases(predict, getattr(engine, "network", network), loader, results, layer)
        weights = Path(args.weights) if args.weights else None
        page = write_report(Path(args.report), folder, cases, weights, results.sweep, test, layer)
        say(f"wrote {page}")
    return summary


if __name__ == "__main__":
    run_script(main, settings)
