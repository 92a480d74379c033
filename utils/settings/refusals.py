"""What a script refuses before it imports torch: a wrong path or flag is named at once, not seconds later."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets.lists import read_list
from datasets.load import data_folder, list_path
from models import DPCONV, STRIDE, check_network
from utils.common.errors import UserError
from utils.common.processes import refuse_one_gpu_for_all, world_size
from utils.settings.arguments import other_code, view_words

SMALLEST = 2 * STRIDE  # pixels: two pixels of the deepest map, so that a batch norm has something to average


def check_training(settings: argparse.Namespace, folder: Path) -> None:
    """The network, the data folder and its lists, the run in `folder`, and what a job of several processes cannot do.

    Raises:
        UserError: names what is wrong, and the flag.
    """
    with naming_the_network(settings):
        layer, source = getattr(settings, "dynamic", DPCONV), getattr(settings, "kernel_source", "recon")
        check_network(settings.variant, layer, settings.encoder_bn, source)
    refuse_one_gpu_for_all(settings.device)
    if settings.batch_size < world_size():
        raise UserError(
            f"--batch_size {settings.batch_size} counts the images of all {world_size()} processes: it must be at "
            "least their number"
        )
    if settings.compile and settings.sync_bn and world_size() > 1:
        raise UserError("--compile does not take --sync_bn: one graph cannot hold what the processes tell each other")
    base = data_folder(settings.base_dir)
    for name in (settings.train_file_dir, settings.val_file_dir):
        read_list(list_path(base, name))
    has_run(folder / "last.pth", settings.resume)
    if settings.init_from and not Path(settings.init_from).is_file():
        raise UserError(f"--init_from {settings.init_from} was not found; it must be a checkpoint")


@contextmanager
def naming_the_network(settings: argparse.Namespace) -> Iterator[None]:
    """Within this context a network that cannot be built is an error of the flags that name it.

    Raises:
        UserError: for the ValueError of a rule that is broken, and a library that is not installed.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(f"{network_flags(settings)}: {error}") from error
    except ModuleNotFoundError as error:
        raise UserError(f"{network_flags(settings)} needs {error.name}, which is not installed") from error


def network_flags(settings: argparse.Namespace) -> str:
    """The flags that name the network of these settings."""
    usual = {"dynamic": DPCONV, "kernel_source": "recon"}
    others = {name: getattr(settings, name, default) for name, default in usual.items()}
    flags = [f"--{name} {value}" for name, value in others.items() if value != usual[name]]
    return " ".join([f"--variant {settings.variant}", *flags])


def check_evaluation(settings: argparse.Namespace) -> None:
    """The data folder, its list and the weights.

    Raises:
        UserError: names what is wrong, and the flag.
    """
    if (code := other_code(settings)) and settings.engine != "torch":
        raise UserError(f"--code {code} requires --engine torch: other engines take images alone")
    if code and view_words(settings):
        raise UserError(f"--code {code} takes neither --tta nor --tile: an image has one code there")
    if "tile" in settings or "overlap" in settings:
        try:
            settings.overlap = check_tiles(getattr(settings, "tile", None), getattr(settings, "overlap", None))
        except ValueError as error:
            raise UserError(str(error)) from error
        if settings.resize != "keep":
            raise UserError("--tile predicts images at their own size: pass --resize keep, too")
    refuse_one_gpu_for_all(settings.device)
    read_list(list_path(data_folder(settings.base_dir), settings.val_file_dir))
    for name in ("weights", "recon_weights", "seg_weights"):
        check_file(getattr(settings, name), f"--{name}")


def check_file(path: str | None, flag: str) -> None:
    """That a file which a flag names, if it names one, is there.

    Raises:
        UserError: if it is not.
    """
    if path and not Path(path).is_file():
        raise UserError(f"{flag} {path} was not found")


def has_run(last: Path, wanted: str | None) -> bool:
    """Whether there is a run to resume, `wanted` being the value of --resume.

    Raises:
        UserError: if there is a run and --resume was not given, or if there is none and it was (--resume auto takes
            both).
    """
    if not last.exists():
        if wanted == "yes":
            raise UserError(f"{last} is not there, nothing to resume; --resume auto starts in that case")
        return False
    if not wanted:
        raise UserError(f"{last.parent} holds a run already: --resume goes on with it, --output_dir starts elsewhere")
    return True


def check_tiles(tile: int | None, overlap: int | None) -> int:
    """The overlap of tiles, a quarter of the tile if it is None.

    Raises:
        ValueError: for sides that do not fit.
    """
    if tile is None:
        if overlap is not None:
            raise ValueError("an overlap is one of tiles: set tile, too")
        return 0
    if tile < SMALLEST or tile % STRIDE:
        raise ValueError(f"tile {tile}: a tile's side is a multiple of {STRIDE} of at least {SMALLEST} pixels")
    overlap = tile // 4 // STRIDE * STRIDE if overlap is None else overlap
    if not 0 <= overlap <= tile / 2 or overlap % STRIDE:
        raise ValueError(f"overlap {overlap}: a multiple of {STRIDE} up to half of the tile's {tile} pixels")
    return overlap


def check_threshold(threshold: float) -> float:
    """The threshold.

    Raises:
        ValueError: if it is not in 0..1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is no probability: it must lie in 0..1")
    return threshold


def check_comparison(given: Mapping[str, Any]) -> argparse.Namespace:
    """The settings of `evaluation.py --compare`, from what stands on the command line.

    Raises:
        UserError: for fewer than two runs, or a flag that a comparison does not take.
    """
    if other := sorted(given.keys() - {"compare", "report", "unlike_protocols"}):
        flags = ", ".join(f"--{name}" for name in other)
        raise UserError(
            f"--compare reads existing evaluations and takes --report and --unlike_protocols alone; leave out {flags}"
        )
    if len(given["compare"]) < 2:
        raise UserError("--compare needs two runs or more: --compare RUN_A RUN_B")
    return argparse.Namespace(**given)
