"""The encoder of phase 1 that phase 2 freezes: its file, its preprocessing, and what may be wrong with it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import needs_phase_1
from utils.common.errors import UserError
from utils.common.processes import say
from utils.settings.config import output_dir
from utils.settings.refusals import has_run, naming_the_network, network_flags

if TYPE_CHECKING:
    from models.nested import NestedEncoder


def encoder_file(settings: argparse.Namespace, last: Path) -> Path | None:
    """The file of the pretrained encoder; None if this run needs none.

    Args:
        settings: of train_seg.py.
        last: last.pth of the run; a run that resumes has its encoder there.

    Raises:
        UserError: if the file is missing, or if --recon_weights is given for a run that would not use it.
    """
    if has_run(last, settings.resume):
        return None
    with naming_the_network(settings):
        needed = needs_phase_1(settings.variant, settings.dynamic, settings.kernel_source)
    if settings.recon_weights and not needed:
        raise UserError(f"--recon_weights: {network_flags(settings)} uses no pretrained encoder. Omit --recon_weights")
    if settings.recon_weights and settings.init_from:
        raise UserError("--recon_weights cannot be combined with --init_from, whose checkpoint contains the encoder")
    if not needed or settings.init_from:
        return None
    path = Path(settings.recon_weights or output_dir(settings) / "recon" / "best.pth")
    if not path.is_file():
        raise UserError(
            f"{path} was not found: phase 2 requires the encoder of phase 1. Run python train_recon.py with the same "
            "--Dataset (or --base_dir) and --output_dir first, or pass --recon_weights FILE"
        )
    return path


def load_pretrained(path: Path, settings: argparse.Namespace) -> NestedEncoder:
    """The encoder in `path`; prints a warning for each reason to doubt that it is the one that is meant.

    Raises:
        UserError: if it cannot be read, or was trained with another preprocessing than this run uses.
    """
    from utils.networks.load_weights import load_encoder
    from utils.settings.recorded import recorded_settings, refuse_other_preprocessing

    encoder, trained_with = load_encoder(path)
    refuse_other_preprocessing(recorded_settings(trained_with, path), settings, path)
    for doubt in (_other_list(path, trained_with, settings), _unfinished(path, trained_with)):
        if doubt:
            say(f"warning: {doubt}")
    return encoder


def _other_list(path: Path, trained_with: Mapping[str, Any], settings: argparse.Namespace) -> str | None:
    from utils.networks.checkpoints import explain
    from utils.settings.provenance import list_hashes

    recorded = explain(lambda: dict((trained_with.get("run", {}).get("provenance") or {}).get("lists", {})), path)
    before, now = recorded.get("train_file_dir"), list_hashes(settings)
    if before is None or before == now["train_file_dir"]:
        return None
    if before == now["val_file_dir"]:
        return f"{path} was pretrained on the validation list of this run, so the validation figures are too good"
    return (
        f"{path} was pretrained on another training list than {settings.train_file_dir}. If that contained images of "
        f"{settings.val_file_dir}, the validation figures are too good"
    )


def _unfinished(path: Path, trained_with: Mapping[str, Any]) -> str | None:
    """Words for a phase 1 that has epochs left; its last.pth tells, if it is still there."""
    from utils.networks.checkpoints import epoch_of

    last, epochs = path.with_name("last.pth"), trained_with.get("epochs")
    if not last.is_file() or not isinstance(epochs, int):
        return None
    try:
        done = epoch_of(last)
    except UserError:  # it is written at this moment, or damaged: the encoder is intact
        return None
    if done is None or done >= epochs:
        return None
    return f"phase 1 is not finished: {last} has {done} of {epochs} epochs"
