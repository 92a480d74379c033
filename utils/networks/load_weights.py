"""Loading of networks from checkpoints of this project and from the authors' state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from datasets.resizing import Shift
from models import DPCONV, SRS, build, build_reconstruction
from models.authors import load_reconstruction, load_srs
from models.nested import NestedEncoder
from utils.common.errors import UserError
from utils.networks.check_state import tensor_problem
from utils.networks.checkpoints import checked, explain, fill, load_checkpoint, load_state


def load_encoder(path: str | Path) -> tuple[NestedEncoder, dict[str, Any]]:
    """The encoder of a reconstruction checkpoint, of this project or the authors' 'SRS_R', and its training settings.

    The settings include its "run" (`run_facts`). The authors' file contains none; its normalization is returned.

    Raises:
        UserError: if the file is missing, damaged, or of another kind.
    """
    path = Path(path)
    content = load_state(path, "a reconstruction checkpoint")
    if "conv1.0.weight" in content:  # the stem, in the authors' names
        return explain(lambda: load_reconstruction(content), path).encode, {"normalization": "authors"}
    checkpoint = checked(content, path, "recon")
    network = build_reconstruction()
    fill(network, checkpoint["model"], path)
    return network.encode, {**checkpoint["settings"], "run": run_facts(checkpoint)}


def load_trained(
    weights: Path, recon_weights: Path | None = None, encoder_bn: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in evaluation mode, SRS or another, and its training settings.

    Args:
        weights: a checkpoint of phase 2, or, with `recon_weights`, the authors' 'SRS_S'.
        recon_weights: the authors' 'SRS_R'.
        encoder_bn: see `models.SRS` (default: as in training; "frozen" for the authors' files).

    Returns:
        The network; and its settings with its "mask_shift" (see `learned_shift`) and its "run" (`run_facts`), empty
        for the authors' files.

    Raises:
        UserError: if a file is missing, damaged, or of another kind.
    """
    if recon_weights is not None:
        return load_authors(recon_weights, weights, encoder_bn or "frozen"), {}
    checkpoint = load_checkpoint(weights, "seg")
    settings = checkpoint["settings"]
    own = settings.get("encoder_bn", "frozen")
    try:
        model = load_segmenter(checkpoint, encoder_bn or own, weights)
    except UserError as error:
        if encoder_bn not in (None, own):
            load_segmenter(checkpoint, own, weights)  # raises if the file is at fault
            raise UserError(f"{weights} does not run with encoder_bn {encoder_bn}: {error.__cause__}") from error
        raise
    return model, {**settings, "mask_shift": learned_shift(checkpoint, weights), "run": run_facts(checkpoint)}


def run_facts(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The origin of a checkpoint: its epoch, the best epoch then, if it is a last.pth, its settings and provenance.

    The values are unchecked; None for those that are not recorded.
    """
    facts = {name: checkpoint.get(name) for name in ("epoch", "best", "provenance", "settings")}
    return {**facts, "is_last": "optimizer" in checkpoint}


def learned_shift(checkpoint: Mapping[str, Any], path: Path) -> Shift:
    """The offset between the masks and the images in the training of a checkpoint: (down, right), network pixels.

    Zero for checkpoints that do not record it: their augmentation rotated it in all directions.

    Raises:
        UserError: if the recorded value is invalid.
    """
    shift = checkpoint.get("mask_shift", (0.0, 0.0))
    if (
        not isinstance(shift, tuple | list)
        or len(shift) != 2
        or not all(isinstance(x, float) and abs(x) <= 1 for x in shift)
    ):
        raise UserError(f"{path}: mask_shift must be two numbers between -1 and 1, got {str(shift)[:100]}")
    return shift[0], shift[1]


def load_segmenter(checkpoint: Mapping[str, Any], encoder_bn: str, path: Path) -> nn.Module:
    """The network of a phase 2 checkpoint that `utils.networks.checkpoints.load_checkpoint` has read from `path`.

    Raises:
        UserError: if the weights do not fit the variant of the checkpoint.
    """
    settings = {"dynamic": DPCONV, "kernel_source": "recon", **checkpoint["settings"]}
    options = {"layer": settings["dynamic"], "kernel_source": settings["kernel_source"], "encoder_bn": encoder_bn}
    network = explain(lambda: build(settings["variant"], **options), path)
    fill(network, checkpoint["model"], path)
    return network.eval()


def same_encoder(segmentation: Mapping[str, Any], reconstruction: Mapping[str, Any]) -> bool:
    """Whether a phase 2 checkpoint contains exactly the encoder of a phase 1 checkpoint."""
    frozen = _below("encoder.", segmentation["model"])
    pretrained = _below("encode.", reconstruction["model"])
    return frozen.keys() == pretrained.keys() and all(
        isinstance(value, Tensor) and tensor_problem(pretrained[name], value) is None and value.equal(pretrained[name])
        for name, value in frozen.items()
    )


def _below(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def load_authors(recon_path: Path, seg_path: Path, encoder_bn: str) -> SRS:
    """SRS from the authors' two files.

    Raises:
        UserError: if a file is missing, damaged, or not one of theirs.
    """
    recon = load_state(recon_path, "the authors' reconstruction weights (SRS_R)")
    explain(lambda: load_reconstruction(recon), recon_path)  # so that an error names the invalid file
    seg = load_state(seg_path, "the authors' segmentation weights (SRS_S)")
    return explain(lambda: load_srs(recon, seg, encoder_bn), seg_path)
