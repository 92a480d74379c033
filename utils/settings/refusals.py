"""Checks of flags and paths before torch is imported, so that errors come at once instead of seconds later."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets.lists import read_list
from datasets.load import data_folder, list_path
from models import DPCONV, STRIDE, check_network
from utils.common.errors import UserError
from utils.common.processes import refuse_one_gpu_for_all, world_size
from utils.settings.inference_arguments import other_code, view_words

SMALLEST = 2 * STRIDE  # pixels: two pixels of the deepest map, since a batch norm needs more than one value


def check_training(settings: argparse.Namespace, folder: Path) -> None:
    """Checks the network, the data folder and its lists, the run in `folder`, and the flags of a multi-process job.

    Raises:
        UserError: for the first problem, with the flag.
    """
    with naming_the_network(settings):
        layer, source = getattr(settings, "dynamic", DPCONV), getattr(settings, "kernel_source", "recon")
        check_network(settings.variant, layer, settings.encoder_bn, source)
    refuse_one_gpu_for_all(settings.device)
    try:
        os.fsencode(folder).decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"the output folder {folder} has a name that is not UTF-8. TensorBoard cannot write into it: pass another "
            "--output_dir"
        ) from error
    if settings.batch_size < world_size():
        raise UserError(
            f"--batch_size must be at least the number of processes ({world_size()}), got {settings.batch_size}: it "
            "counts the images of all processes"
        )
    if settings.compile and settings.sync_bn and world_size() > 1:
        raise UserError("--compile cannot be combined with --sync_bn: a compiled graph cannot contain communication")
    if settings.cuda_graphs:
        others = {"--compile": settings.compile, "--accumulate": settings.accumulate > 1}
        if unfit := [flag for flag, used in others.items() if used]:
            raise UserError(f"--cuda_graphs cannot be combined with {unfit[0]}")
        if world_size() > 1:
            raise UserError("--cuda_graphs supports one process: run without torchrun, or omit --cuda_graphs")
    base = data_folder(settings.base_dir)
    for name in (settings.train_file_dir, settings.val_file_dir):
        read_list(list_path(base, name))
    if not has_run(folder / "last.pth", settings.resume):
        check_file(settings.init_from, "--init_from")


@contextmanager
def naming_the_network(settings: argparse.Namespace) -> Iterator[None]:
    """A context in which errors of building a network name the flags of that network.

    Raises:
        UserError: instead of a ValueError, and if a library is not installed.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(f"{network_flags(settings)}: {error}") from error
    except ModuleNotFoundError as error:
        raise UserError(f"{network_flags(settings)} requires {error.name}, which is not installed") from error


def network_flags(settings: argparse.Namespace) -> str:
    """The flags that select the network of these settings."""
    usual = {"dynamic": DPCONV, "kernel_source": "recon"}
    others = {name: getattr(settings, name, default) for name, default in usual.items()}
    flags = [f"--{name} {value}" for name, value in others.items() if value != usual[name]]
    return " ".join([f"--variant {settings.variant}", *flags])


def check_evaluation(settings: argparse.Namespace) -> None:
    """Checks the views, the data folder, its list and the weights.

    Raises:
        UserError: for the first problem, with the flag.
    """
    check_views(settings)
    refuse_one_gpu_for_all(settings.device)
    read_list(list_path(data_folder(settings.base_dir), settings.val_file_dir))
    for name in ("weights", "recon_weights", "seg_weights"):
        check_file(getattr(settings, name), f"--{name}")


def check_views(settings: argparse.Namespace) -> None:
    """Checks --code, --tta, --tile and --overlap of evaluation.py; sets the default of the overlap.

    Raises:
        UserError: for the first combination that is impossible.
    """
    if (code := other_code(settings)) and settings.engine != "torch":
        raise UserError(f"--code {code} requires --engine torch: other engines accept only images")
    if code and view_words(settings):
        raise UserError(f"--code {code} accepts neither --tta nor --tile: its test needs one code per image")
    if "tile" in settings or "overlap" in settings:
        try:
            settings.overlap = check_tiles(getattr(settings, "tile", None), getattr(settings, "overlap", None))
        except ValueError as error:
            raise UserError(str(error)) from error
        if settings.resize != "keep":
            raise UserError("--tile requires --resize keep: tiles are predicted at the original size")


def check_file(path: str | None, flag: str) -> None:
    """Checks that the file of a flag exists, if one is given.

    Raises:
        UserError: if it does not exist.
    """
    if path and not Path(path).is_file():
        raise UserError(f"{flag} {path} was not found")


def has_run(last: Path, wanted: str | None) -> bool:
    """Whether there is a run to resume; `wanted` is the value of --resume.

    Raises:
        UserError: if there is a run but --resume was not given, or the reverse (--resume auto accepts both); or if a
            new run would overwrite weights of a run whose last.pth is gone.
    """
    if not last.exists():
        if wanted == "yes":
            raise UserError(f"nothing to resume: {last} does not exist")
        if weights := [*last.parent.glob("best.pth"), *last.parent.glob("epoch*.pth")]:
            raise UserError(
                f"{last.parent} contains {weights[0].name} but no {last.name}, and a new run would overwrite it. "
                "Choose another --output_dir, or move the folder away"
            )
        return False
    if not wanted:
        raise UserError(
            f"{last.parent} already contains a run: continue it with --resume, or choose another --output_dir"
        )
    return True


def check_tiles(tile: int | None, overlap: int | None) -> int:
    """The overlap of tiles; a quarter of the tile if `overlap` is None.

    Raises:
        ValueError: for an invalid tile or overlap.
    """
    if tile is None:
        if overlap is not None:
            raise ValueError("overlap requires tile")
        return 0
    if tile < SMALLEST or tile % STRIDE:
        raise ValueError(f"tile must be a multiple of {STRIDE} and at least {SMALLEST} pixels, got {tile}")
    overlap = tile // 4 // STRIDE * STRIDE if overlap is None else overlap
    if not 0 <= overlap <= tile / 2 or overlap % STRIDE:
        raise ValueError(
            f"overlap must be a multiple of {STRIDE} and at most half of the tile ({tile} pixels), got {overlap}"
        )
    return overlap


def check_threshold(threshold: float) -> float:
    """The threshold.

    Raises:
        ValueError: if it is not between 0 and 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    return threshold


def check_comparison(given: Mapping[str, Any]) -> argparse.Namespace:
    """The settings of `evaluation.py --compare`, from the flags on the command line.

    Raises:
        UserError: for fewer than two runs, or a flag that --compare cannot be combined with.
    """
    if other := sorted(given.keys() - {"compare", "report", "unlike_protocols"}):
        flags = ", ".join(f"--{name}" for name in other)
        raise UserError(f"--compare may be combined only with --report and --unlike_protocols; omit {flags}")
    if len(given["compare"]) < 2:
        raise UserError("--compare requires at least two runs: --compare RUN_A RUN_B")
    return argparse.Namespace(**given)
