"""Batch norms folded into the convolutions before them, for prediction: the same function in fewer operations."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> None:
    """Folds each batch norm of `network` that follows a convolution into it, in place, and leaves an identity there.

    Exact up to rounding, for running statistics: a network in evaluation mode, whose weights do not change any more.
    """
    for module in network.modules():
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                # The blocks and their Sequentials name a batch norm right after the convolution it belongs to.
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
