"""Training runs of both phases with their real networks, in this process, which can be stopped in a given step."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import models
import train_recon
import train_seg
from utils.common.devices import pick_device
from utils.common.runtime import seed_everything
from utils.networks.checkpoints import load_checkpoint
from utils.settings.data_loaders import training_loaders
from utils.training.engine import fit

SCRIPTS = {"recon": train_recon, "seg": train_seg}
FLAGS = ["--img_size", "32", "--batch_size", "2", "--epochs", "2", "--variant", "srs_tiny", "--device", "cpu"]


def run(
    name: str, data: Path, folder: Path, workers: int = 0, stop_at: int | None = None, flags: Sequence[str] = ()
) -> tuple[dict[str, Any], int]:
    """As the script's main does, but that the process sends itself a signal in step `stop_at`.

    Returns:
        last.pth, and the number of training steps.
    """
    argv = ["--base_dir", str(data), *FLAGS, "--workers", str(workers), "--output_dir", str(folder.parent), *flags]
    args = SCRIPTS[name].settings(argv)
    seed_everything(args.seed)
    loaders = training_loaders(args, need_masks=name == "seg", val_batch_size=2)
    if name == "recon":
        phase = train_recon.Reconstruction(models.build_reconstruction(args.variant))
    else:
        phase = train_seg.Segmentation(models.build_srs(args.variant, args.encoder_bn))
    steps, step = 0, phase.step

    def counted(model, batch):
        nonlocal steps
        steps += torch.is_grad_enabled()
        if steps == stop_at and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGTERM)
        return step(model, batch)

    phase.step = counted
    fit(phase, *loaders, args, folder, pick_device(args.device))
    return load_checkpoint(folder / "last.pth", phase.name), steps
