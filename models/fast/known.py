"""The modules that faster twins may replace: exactly the known types, with known settings and without edits.

`knows_NAME(module)` is checked when modules are replaced, and again by each twin at each call, so that a hook, a
wrapper or another forward that is added later takes effect. Modules that are not listed here are never replaced.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from models.blocks import ChannelAttention, EfficientChannelAttention, ResidualBlock, ShuffleUp, SpatialAttention
from models.fast.fingerprints import as_recorded
from models.fast.narrow_conv import LARGEST

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(torch_module, f"_global{name}") for name in _HOOKS]

# The modules of these functions in an unmodified torch; they may have been replaced.
_TORCHS = {
    (nn.Conv2d, "forward"): "torch.nn.modules.conv",
    (nn.Conv2d, "_conv_forward"): "torch.nn.modules.conv",
    (nn.BatchNorm2d, "forward"): "torch.nn.modules.batchnorm",
    (nn.Sequential, "forward"): "torch.nn.modules.container",
    (nn.ReLU, "forward"): "torch.nn.modules.activation",
    (nn.Identity, "forward"): "torch.nn.modules.linear",
    (nn.PixelShuffle, "forward"): "torch.nn.modules.pixelshuffle",
    (nn.Module, "__call__"): "torch.nn.modules.module",
}


def nothing_in_the_way() -> bool:
    """Whether there are no global hooks, no tracing and no compilation, and torch's modules are unmodified."""
    if any(_GLOBAL_HOOKS) or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    return all(getattr(cls, name).__module__ == module for (cls, name), module in _TORCHS.items())


def untouched(module: nn.Module, *types: type, children: tuple[str, ...] = ()) -> bool:
    """Whether it is exactly of one of these types, with these children, and without hooks, own forward or compiler."""
    own = module.__dict__
    return (
        type(module) in types
        and not (own["_forward_hooks"] or own["_forward_pre_hooks"])
        and not (own["_backward_hooks"] or own["_backward_pre_hooks"])
        and "forward" not in own
        and own.get("_compiled_call_impl") is None
        and (not children or tuple(own["_modules"]) == children)
    )


def knows_conv(module: nn.Module, kernel: int | None = None, bias: bool | None = None) -> bool:
    """An ordinary convolution with integer zero padding; with `kernel`, of this size and keeping the map size."""
    if not untouched(module, nn.Conv2d) or module._modules or module._buffers:
        return False
    parameters, padding = module._parameters, module.padding
    ordinary = (
        tuple(parameters) == ("weight", "bias")
        and module.padding_mode == "zeros"
        and isinstance(padding, tuple)
        and all(isinstance(each, int) for each in padding)
        and module.groups == 1
        and (bias is None or bias == (parameters["bias"] is not None))
        and parameters["weight"].shape == (module.out_channels, module.in_channels, *module.kernel_size)
    )
    if not ordinary or kernel is None:
        return ordinary
    keeps = padding == (kernel // 2, kernel // 2) and module.stride == module.dilation == (1, 1)
    return keeps and module.kernel_size == (kernel, kernel)


def knows_norm(module: nn.Module, *twins: type) -> bool:
    """An ordinary batch norm with parameters and a numeric momentum."""
    if not untouched(module, nn.BatchNorm2d, *twins) or module._modules:
        return False
    parameters, buffers = module._parameters, module._buffers
    return (
        tuple(parameters) == ("weight", "bias")
        and None not in parameters.values()
        and tuple(buffers) == ("running_mean", "running_var", "num_batches_tracked")
        and isinstance(module.momentum, float)
        and (buffers["running_mean"] is None) == (buffers["running_var"] is None)
    )


def knows_channel_attention(module: nn.Module, *twins: type) -> bool:
    return (
        untouched(module, ChannelAttention, *twins, children=("reduce", "expand"))
        and as_recorded(ChannelAttention)
        and all(knows_conv(conv, kernel=1, bias=False) for conv in module._modules.values())
    )


def knows_spatial_attention(module: nn.Module, *twins: type) -> bool:
    if not untouched(module, SpatialAttention, *twins, children=("conv",)) or not as_recorded(SpatialAttention):
        return False
    conv = module._modules["conv"]
    size = getattr(conv, "kernel_size", (0,))[0]
    return size % 2 == 1 and size <= LARGEST and knows_conv(conv, kernel=size, bias=False) and conv.in_channels == 2


_BLOCK = ("conv1", "bn1", "conv2", "bn2", "channel_attention", "spatial_attention", "shortcut")


def knows_block(module: nn.Module, *twins: type) -> bool:
    """A residual block, whose children may also be of the types `twins`."""
    if not untouched(module, ResidualBlock, *twins, children=_BLOCK) or not as_recorded(ResidualBlock):
        return False
    child = module._modules
    return (
        knows_conv(child["conv1"], kernel=3, bias=True)
        and knows_norm(child["bn1"], *twins)
        and knows_conv(child["conv2"], kernel=3, bias=True)
        and knows_norm(child["bn2"], *twins)
        and knows_channel_attention(child["channel_attention"], *twins)
        and knows_spatial_attention(child["spatial_attention"], *twins)
        and _knows_shortcut(child["shortcut"], *twins)
    )


def _knows_shortcut(module: nn.Module, *twins: type) -> bool:
    if untouched(module, nn.Identity):
        return True
    if not untouched(module, nn.Sequential) or len(module._modules) != 2:
        return False
    conv, norm = module._modules.values()
    return knows_conv(conv, kernel=1, bias=True) and knows_norm(norm, *twins)


def knows_sequence(module: nn.Module) -> bool:
    """A Sequential or a ShuffleUp."""
    return untouched(module, nn.Sequential) or (untouched(module, ShuffleUp) and as_recorded(ShuffleUp))


def knows_eca(module: nn.Module, *twins: type) -> bool:
    if not untouched(module, EfficientChannelAttention, *twins, children=("conv",)):
        return False
    return untouched(module.conv, nn.Conv1d) and as_recorded(EfficientChannelAttention)


def knows_container(module: nn.Module, *types: type) -> bool:
    """A module of `models` without settings, or one that only calls its children."""
    return untouched(module, *types) and as_recorded(types[0])
