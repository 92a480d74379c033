"""The smallest SRS there is, which exports in a second; and optional libraries."""

from __future__ import annotations

import pytest
import torch

from models.dpconv import DPConv
from models.nested import NestedEncoder, NestedUNet
from models.srs import SRS
from utils.common.errors import UserError
from utils.common.libraries import library


def small_srs(encoder_bn="frozen"):
    """One block a node, and batch norms that have seen something."""
    torch.manual_seed(0)
    encoder = NestedEncoder((8, 16, 32, 64), (1, 1, 1, 1), stem=8)
    segmenter = NestedUNet((8, 8, 16, 64), (1, 1, 1, 1), stem=8, out_channels=1, local_contrast=False)
    srs = SRS(encoder, segmenter, DPConv(64, 64), encoder_bn)
    for module in srs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return srs.eval()


def need(*names):
    """Skips the test without these libraries. (importorskip would let OpenVINO report home.)"""
    for name in names:
        try:
            library(name)
        except UserError as error:
            pytest.skip(str(error))
