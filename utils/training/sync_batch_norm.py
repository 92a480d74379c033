"""Batch norm over the batch of all processes: torch's SyncBatchNorm on CUDA, an equivalent in plain torch on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.common.distributed import AddUp
from utils.common.errors import UserError


class SyncBatchNorm2d(nn.BatchNorm2d, nn.SyncBatchNorm):
    """A BatchNorm2d that computes its training statistics over all processes, with the same parameters.

    (B, C, H, W) to the same shape and type; B may differ between the processes. Statistics are float32 (float64 for
    float64 maps). Without gradients it is an ordinary BatchNorm2d, because in validation the number and size of the
    batches differ between the processes.
    """

    process_group = None  # nn.SyncBatchNorm's: all processes

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return nn.BatchNorm2d.forward(self, x)
        if x.device.type == "cuda":
            return nn.SyncBatchNorm.forward(self, x)
        with torch.autocast(x.device.type, enabled=False):
            return self._over_all(x if x.dtype == torch.float64 else x.float()).to(x.dtype)

    def _over_all(self, x: Tensor) -> Tensor:
        count = x.numel() / self.num_features
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        # Two sums instead of one of x and x^2: the difference of two large numbers would be inaccurate.
        sums = AddUp.apply(torch.cat([mean * count, mean.new_full((1,), count)]))
        total = sums[-1].detach()
        whole_mean = sums[:-1] / total
        whole_variance = AddUp.apply((variance + (mean - whole_mean).square()) * count) / total
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(whole_mean, self.momentum)
                self.running_var.lerp_(whole_variance * total / (total - 1), self.momentum)
        scale = self.weight * torch.rsqrt(whole_variance + self.eps)
        shift = self.bias - whole_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def synchronise_batch_norms(model: nn.Module) -> None:
    """Makes every batch norm of the model a SyncBatchNorm2d, in place.

    Raises:
        UserError: for a batch norm of another class, which would keep the statistics of its process.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    for name, module in norms.items():
        if type(module) not in (nn.BatchNorm2d, SyncBatchNorm2d):
            raise UserError(f"--sync_bn synchronises nn.BatchNorm2d only, but {name} is a {type(module).__name__}")
    for module in norms.values():
        module.__class__ = SyncBatchNorm2d  # only `forward` differs
