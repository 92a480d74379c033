"""Measure time and memory of prediction, of a training step of both phases and of the loader, against plain torch.

    python benchmark.py                                              # the table of docs/development/speed.md
    python benchmark.py --only seg_step --variant srs --img_size 256 --batch_size 8 --amp bf16 --json
    python benchmark.py --only predict --img_size 256 --batch_size 1 --engine openvino --amp bf16
    python benchmark.py profile --only predict --img_size 256 --batch_size 1         # time by operator
    python benchmark.py grow --only predict          # cost by image size, batch size and number of processes

The plain execution of the same weights is eager, NCHW and float32. It runs the network of `models/` without
`models/fast`, with a grouped convolution of each sample's kernel and the default allocator of the system. Ours and
plain alternate, each time in a separate process; the ratio is that of the medians. `of_peak` is the share of the speed
of 3x3 convolutions on this machine (float32, measured in the same run).
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P omits it

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from train_recon import Reconstruction
from train_seg import Segmentation
from utils.benchmarking.side_by_side import changed, compare, grow, line
from utils.common.errors import UserError
from utils.common.script import run_script
from utils.common.version import add_version
from utils.networks import ENGINES
from utils.settings.arguments import DEVICES, THREADS, HelpFormatter, Parser, positive, threads
from utils.settings.refusals import naming_the_network

if TYPE_CHECKING:  # torch is imported where it is used, so that --help comes at once
    import torch

    from utils.common.runtime import Batch

SCRIPT = Path(__file__)
WORKS = ("predict", "seg_step", "recon_step", "loader")
TABLE = [  # work, image size, batch size
    ("predict", 256, 1),
    ("predict", 256, 8),
    ("seg_step", 128, 8),
    ("seg_step", 256, 8),
    ("recon_step", 256, 8),
]


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="benchmark.py", description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    add_version(parser)
    parser.add_argument(
        "verb",
        nargs="?",
        choices=["time", "profile", "grow"],
        default="time",
        help="measurement; time: the table; profile: time by operator; grow: cost by size",
    )
    parser.add_argument("--only", choices=WORKS, help="row of the table to measure (default: all rows)")
    parser.add_argument("--variant", choices=list(models.networks()), default="srs", help="network")
    parser.add_argument("--img_size", type=positive, default=256, help="side length of the images in pixels")
    parser.add_argument("--batch_size", type=positive, default=8, help="batch size")
    parser.add_argument("--amp", choices=["off", "bf16", "fp16"], default="off", help="mixed precision of ours")
    parser.add_argument("--cuda_graphs", action="store_true", help="CUDA graphs for the training steps of ours")
    parser.add_argument("--engine", choices=ENGINES, default="torch", help="inference engine of ours")
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--threads", type=threads, help=THREADS)
    parser.add_argument("--rounds", type=positive, default=2, help="rounds, each of which measures ours and plain")
    parser.add_argument("--repeat", type=positive, default=3, help="timed runs per round, after two warm-up runs")
    parser.add_argument("--json", action="store_true", help="JSON output instead of a table")
    # The script calls itself with this flag, to measure in a separate process.
    parser.add_argument("--measure", choices=["ours", "plain"], help=argparse.SUPPRESS)
    return parser


def main(args: argparse.Namespace) -> None:
    if args.cuda_graphs and args.only not in ("seg_step", "recon_step"):
        raise UserError("--cuda_graphs is for training steps: add --only seg_step or --only recon_step")
    if args.measure:
        print(json.dumps(measure(args)))
    elif args.verb == "profile":
        if args.only == "loader":
            raise UserError("profile does not take --only loader: its time is not that of torch's operators")
        profile(args)
    elif args.verb == "grow":
        grow(SCRIPT, args)
    else:
        rows = []
        for changes in [{}] if args.only else table():
            rows.append(compare(SCRIPT, changed(args, **changes)))
            if not args.json:
                print(line(rows[-1]), flush=True)
        if args.json:
            print(json.dumps(rows[0] if args.only else rows, indent=2))


def table() -> Iterator[dict[str, Any]]:
    """The rows of the whole table; predictions with every installed engine."""
    for work, size, batch in TABLE:
        row = {"only": work, "img_size": size, "batch_size": batch}
        for engine in ENGINES if work == "predict" else ENGINES[:1]:
            if find_spec(engine):
                for amp in ("off",) if engine == "onnxruntime" else ("off", "bf16"):
                    yield {**row, "engine": engine, "amp": amp}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per image (median), peak memory in GB, and the share of the convolution peak."""
    import torch

    from utils.benchmarking.timing import convolution_peak, timed
    from utils.common.devices import peak_memory, pick_device, repeating_sizes
    from utils.common.runtime import spare_overheads

    device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.measure == "ours":
        spare_overheads()
    if args.only == "loader":
        return {"seconds_per_image": loader_seconds(args), "peak_rss_gb": peak_memory(device), "of_peak": 0.0}
    plain = args.measure == "plain"
    with repeating_sizes(not plain), prepared(args, plain, device) as work:
        seconds = timed(work, device, args.repeat) / args.batch_size
    memory = peak_memory(device)
    share = flops(args, device) / seconds / convolution_peak(device)
    return {"seconds_per_image": seconds, "peak_rss_gb": memory, "of_peak": share}


def flops(args: argparse.Namespace, device: torch.device) -> int:
    """Floating-point operations per image according to the equations; a multiplication with an addition counts two."""
    from torch.utils.flop_counter import FlopCounterMode

    one = changed(args, batch_size=1)
    with prepared(one, plain=True, device=device) as work, FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@contextmanager
def prepared(args: argparse.Namespace, plain: bool, device: torch.device) -> Iterator[Callable[[], Any]]:
    """The work, as a function without arguments."""
    import torch

    from models.protocols import set_form
    from utils.common.precision import Precision
    from utils.networks.inference_engines import load_engine
    from utils.networks.speed import training
    from utils.training.cuda_graphs import GraphedNetwork
    from utils.training.optimizer import sgd_with_poly_decay

    torch.manual_seed(0)
    precision = Precision("off" if plain else args.amp, device)
    layout = torch.contiguous_format if plain else torch.channels_last
    batch: Batch = {
        "image": torch.randn(args.batch_size, 3, args.img_size, args.img_size),
        "mask": (torch.rand(args.batch_size, 1, args.img_size, args.img_size) > 0.9).float(),
    }
    batch = {name: value.to(device, memory_format=layout) for name, value in batch.items()}
    if args.only == "recon_step":
        with naming_the_network(args):
            network = models.build_reconstruction(args.variant)
    else:
        network = models.build(args.variant)
        set_form(network, "per_sample" if plain else "shared")
    network.to(device, memory_format=layout)
    if args.only == "predict":
        network = network.eval() if plain else load_engine(args.engine, network, precision)

        def predict() -> None:
            with torch.inference_mode(), precision.autocast():
                network(batch["image"])

        yield predict
        return
    network.train()
    phase = Reconstruction(network) if args.only == "recon_step" else Segmentation(network)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer, _ = sgd_with_poly_decay(trained, 1e-4, 1000)

    def step() -> None:
        with precision.autocast():
            loss, _ = phase.step(runs, batch)
        optimizer.zero_grad(set_to_none=True)
        precision.scaler.scale(loss).backward()
        precision.scaler.step(optimizer)
        precision.scaler.update()

    with nullcontext() if plain else training(network, device):
        runs = GraphedNetwork(network, batch["image"], precision) if args.cuda_graphs and not plain else network
        yield step


def loader_seconds(args: argparse.Namespace) -> float:
    """Seconds per image of the augmenting loader, two processes, over sample images of this size."""
    import torch

    from datasets.folder import SegmentationFolder, make_loader
    from datasets.load import load_lists
    from datasets.prepare.sample import make_sample
    from datasets.transforms import Transform
    from utils.benchmarking.timing import timed

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "sample"
        make_sample(base, count=64, size=args.img_size)
        cases = load_lists(base, {"training": "train.txt"})["training"]
        dataset = SegmentationFolder(cases, Transform(args.img_size, augment=True))
        if args.measure == "ours":
            dataset.keep_decoded(10**9)
        loader = make_loader(dataset, args.batch_size, workers=2 * (args.measure == "ours"), shuffle_seed=0)
        return timed(lambda: [None for _ in loader], torch.device("cpu"), args.repeat) / len(cases)


def profile(args: argparse.Namespace) -> None:
    """Prints the operators that take the most time, and the time without the profiler."""
    from utils.benchmarking.operator_times import operator_table
    from utils.benchmarking.timing import timed
    from utils.common.devices import pick_device
    from utils.common.runtime import spare_overheads

    spare_overheads()
    device = pick_device(args.device)
    with prepared(changed(args, only=args.only or "seg_step"), plain=False, device=device) as work:
        alone = timed(work, device, args.repeat)
        print(operator_table(work, device, args.repeat))
    print(f"{1000 * alone:9.2f}  total time without the profiler")


if __name__ == "__main__":
    run_script(main, parser().parse_args)
