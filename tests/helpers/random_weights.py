"""A checkpoint of phase 2 that no training has gone into, for whatever only needs one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import models
from utils.networks.checkpoints import save_checkpoint


def save_random_weights(path: Path, variant: str = "srs_tiny", recorded: dict | None = None, **settings: Any) -> Path:
    """Its last layer is scaled up: a fresh network's probabilities hardly differ from pixel to pixel."""
    torch.manual_seed(0)
    state = models.build_srs(variant).state_dict()
    state["segmenter.decode.head.weight"] *= 200
    defaults = {"variant": variant, "encoder_bn": "frozen", "img_size": 32, "normalization": "imagenet", "amp": "off"}
    save_checkpoint(path, {"phase": "seg", "model": state, "settings": {**defaults, **settings}, **(recorded or {})})
    return path
