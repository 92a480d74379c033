"""The modules that faster twins may replace: exactly the known types, with known settings and without edits.

`knows_NAME(module)` is checked when modules are replaced, and again by each twin at each call, so that a hook, a
wrapper or another forward that is added later takes effect. Modules that are not listed here are never replaced.
"""

from __future__ import annotations

from collections import OrderedDict
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.nn.modules import module as torch_module

from models.blocks import ChannelAttention, EfficientChannelAttention, ResidualBlock, ShuffleUp, SpatialAttention
from models.fast import native
from models.fast.fingerprints import as_recorded
from models.fast.narrow_conv import LARGEST

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(torch_module, f"_global{name}") for name in _HOOKS]
DTYPES = (torch.float32, torch.float64)  # of weights; `Packing` takes float32 alone

# The functions of torch that the plain forms use and the fast forms replace, and those that only the fast forms use.
_USED: dict[Any, str] = {
    nn: "Module.__call__ Module._call_impl Conv2d.__call__ Conv2d.forward Conv2d._conv_forward BatchNorm2d.__call__ "
    "BatchNorm2d.forward Sequential.__call__ Sequential.forward ReLU.__call__ ReLU.forward Identity.forward "
    "PixelShuffle.forward",
    F: "conv2d batch_norm relu max_pool2d interpolate pixel_shuffle linear",
    torch: "batch_norm relu sigmoid cat stack max_pool2d maximum addcmul",
    Tensor: "mean max sum amax flatten __add__ __mul__",
}
_READ = [(owner, attrgetter(*names.split())) for owner, names in _USED.items()]
_AT_IMPORT = [read(owner) for owner, read in _READ]


def _is_torchs(function: Any) -> bool:
    """Whether a function is defined by torch; a wrapper may have its name and `__module__`."""
    if isinstance(function, FunctionType):
        return function.__globals__["__name__"].split(".")[0] == "torch"
    return isinstance(function, (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType))


_UNPATCHED_AT_IMPORT = all(_is_torchs(function) for functions in _AT_IMPORT for function in functions)


def nothing_in_the_way() -> bool:
    """Whether torch computes as the fast forms assume.

    That is: its functions are the original ones; no global hooks, function or dispatch modes, transforms of torch.func,
    forward-mode derivatives or hooks on saved tensors are active; and nothing is traced or compiled.
    """
    if any(_GLOBAL_HOOKS) or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    measured = native.observer is not None  # by a dispatch mode that only measures, utils/benchmarking
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack() > measured:
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled() and _saved_by_hooks():
        return False
    return _UNPATCHED_AT_IMPORT and [read(owner) for owner, read in _READ] == _AT_IMPORT


def _saved_by_hooks() -> bool:
    """Whether hooks pack the tensors that autograd saves, as in activation checkpointing."""
    try:
        with disable_saved_tensors_hooks("used"):  # an error if there are any
            return False
    except RuntimeError:
        return True


def hooked(module: nn.Module) -> bool:
    own = module.__dict__
    return bool(
        own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    )


def with_hooked_ancestor(network: nn.Module) -> set[nn.Module]:
    """The hooked modules and all below them, which stay plain: a hook may change whatever its module contains."""
    return {inner for module in network.modules() if hooked(module) for inner in module.modules()}


def hooks_of(network: nn.Module) -> list[OrderedDict]:
    """The dictionaries of hooks of all modules that are hooked, for the memo of copy.deepcopy."""
    return [module.__dict__[name] for module in network.modules() if hooked(module) for name in _HOOKS]


def untouched(module: nn.Module, *types: type, children: tuple[str, ...] = ()) -> bool:
    """Whether it is exactly of one of these types, with these children, and without hooks, own forward or compiler."""
    own = module.__dict__
    return (
        type(module) in types
        and not hooked(module)
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
        and parameters["weight"].dtype in DTYPES
        and (bias is None or bias == (parameters["bias"] is not None))
        and parameters["weight"].shape == (module.out_channels, module.in_channels, *module.kernel_size)
        and _are_own(parameters)
    )
    if not ordinary or kernel is None:
        return ordinary
    keeps = padding == (kernel // 2, kernel // 2) and module.stride == module.dilation == (1, 1)
    return keeps and module.kernel_size == (kernel, kernel)


def _are_own(parameters: dict[str, Any]) -> bool:
    """Whether they are the module's own; torch.func.functional_call puts other tensors in their place for a call."""
    return all(each is None or type(each) is nn.Parameter for each in parameters.values())


def knows_norm(module: nn.Module, *twins: type) -> bool:
    """An ordinary batch norm with parameters and a numeric momentum."""
    if not untouched(module, nn.BatchNorm2d, *twins) or module._modules:
        return False
    parameters, buffers = module._parameters, module._buffers
    if (
        tuple(parameters) != ("weight", "bias")
        or None in parameters.values()
        or tuple(buffers) != ("running_mean", "running_var", "num_batches_tracked")
        or not isinstance(module.momentum, float)
        or not _are_own(parameters)
    ):
        return False
    dtype, mean, variance = parameters["weight"].dtype, buffers["running_mean"], buffers["running_var"]
    shapes = {each.shape for each in (*parameters.values(), mean, variance) if each is not None}
    if dtype not in DTYPES or shapes != {(module.num_features,)}:
        return False
    return mean is variance if mean is None or variance is None else mean.dtype == variance.dtype == dtype


def knows_channel_attention(module: nn.Module, *twins: type) -> bool:
    return (
        untouched(module, ChannelAttention, *twins, children=("reduce", "expand"))
        and as_recorded(ChannelAttention)
        and all(knows_conv(conv, kernel=1, bias=False) for conv in module._modules.values())
        and module.reduce.in_channels == module.expand.out_channels
        and module.reduce.out_channels == module.expand.in_channels
    )


def knows_spatial_attention(module: nn.Module, *twins: type) -> bool:
    if not untouched(module, SpatialAttention, *twins, children=("conv",)) or not as_recorded(SpatialAttention):
        return False
    conv = module._modules["conv"]
    size = getattr(conv, "kernel_size", (0,))[0]
    known = size % 2 == 1 and size <= LARGEST and knows_conv(conv, kernel=size, bias=False)
    return known and (conv.in_channels, conv.out_channels) == (2, 1)


_BLOCK = ("conv1", "bn1", "conv2", "bn2", "channel_attention", "spatial_attention", "shortcut")


def knows_block(module: nn.Module, *twins: type) -> bool:
    """A residual block, whose children may also be of the types `twins`; the widths of all parts fit together, because
    the C++ kernels read and write what a width says."""
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
        and _knows_shortcut(child["shortcut"], child["conv1"], *twins)
        and child["channel_attention"].reduce.in_channels == child["conv1"].out_channels
        and {child["conv1"].out_channels}
        == {
            child["bn1"].num_features,
            child["conv2"].in_channels,
            child["conv2"].out_channels,
            child["bn2"].num_features,
        }
    )


def _knows_shortcut(module: nn.Module, conv1: nn.Conv2d, *twins: type) -> bool:
    """Of a block with this first convolution."""
    if untouched(module, nn.Identity):
        return conv1.in_channels == conv1.out_channels
    if not untouched(module, nn.Sequential) or len(module._modules) != 2:
        return False
    conv, norm = module._modules.values()
    if not (knows_conv(conv, kernel=1, bias=True) and knows_norm(norm, *twins)):
        return False
    widths = conv1.in_channels, conv1.out_channels, conv1.out_channels
    return (conv.in_channels, conv.out_channels, norm.num_features) == widths


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
