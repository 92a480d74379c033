"""Acceleration for CPUs: faster twins of the modules of `models`, compared with the plain ones. The folder is optional.

    with fast.for_training(network) as found:        # for training; the plain modules are restored afterwards
        ...
    network, found = fast.for_prediction(network, torch.float32)         # a copy for prediction

`models` does not import this folder; only `utils/networks/speed.py` does. A module is replaced only if its type,
settings and source are known (known.py, fingerprints.py). Each fast network is compared with the plain one before its
first use (comparison.py, trial.py, kept_state.py).

    training     twins.py, training_steps.py, norm_passes.py, batch_norm.py, conv_gradients.py
    prediction   packed_network.py, packed_conv.py, winograd.py
    both         columns.py, narrow_conv.py, pooling.py, worth_it.py, and native/ (C++)
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from models.fast import comparison, trial, worth_it
from models.fast.fingerprints import CLASSES, as_recorded
from models.fast.kept_state import give_memory_back
from models.fast.known import hooked, hooks_of, nothing_in_the_way, with_hooked_ancestor
from models.fast.native import library
from models.fast.packed_conv import AutocastIsOff, can_pack
from models.fast.packed_network import Packing
from models.fast.twins import KNOWN, PLAIN, swap, swap_back


@dataclass(frozen=True)
class Found:
    """The fast modules of a network by kind, and the modules that stay plain although their kind has a fast form."""

    fast: dict[str, int] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    why: str | None = None  # the reason why the whole network is plain, in words
    compiled: bool = False  # whether the fast modules use the C++ kernels (native/)


_IN_THE_WAY = "torch's functions were edited, or global hooks, modes, transforms or saved-tensor hooks are active"


class for_training:
    """A context in which the known modules of `network` are replaced by their faster twins; its value is `Found`.

    The modules stay the same objects, but of a subclass: `type(module)` is that of the twin, while copies and pickles
    are plain. A twin runs its plain form if it is edited during the context (a hook, settings, another forward, the
    source of its class), and while torch does not compute as it assumes (`known.nothing_in_the_way`). Modules that are
    hooked at the beginning, and all below them, are not twins.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __enter__(self) -> Found:
        kinds = {name: type(module).__name__ for name, module in self.network.named_modules()}
        plain, why = _left_plain(self.network), None
        if _has_known(self.network):
            compare = nothing_in_the_way()
            why = comparison.difference(self.network, _make_twins, training=True) if compare else _IN_THE_WAY
        names = swap(self.network) if why is None else ()
        compiled = bool(names) and library("training") is not None
        return Found(dict(Counter(kinds[name] for name in names)), plain, why, compiled)

    def __exit__(self, *error: Any) -> None:
        swap_back(self.network)


def for_prediction(network: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, Found]:
    """A copy of `network` for prediction, in evaluation mode, with convolutions in `dtype`; and its fast modules.

    The copy has the hooks of the network, not copies of them. It does not follow later edits; `unedited` tells those of
    torch and of classes.

    Returns the network itself if it contains no known modules, cannot be copied, or differs from its copy.
    """
    if not _has_known(network) or not can_pack(dtype):
        return network, Found(plain=_left_plain(network))
    if not unedited()[0]:
        return network, Found(why=_IN_THE_WAY)
    # Before the copy is made, to limit the peak memory.
    make = _make_packed if dtype == torch.float32 else _make_packed_without_winograd
    why = comparison.difference(network, make, training=False, refuses=partial(_turns_autocast_off, dtype))
    if why is not None:
        return network, Found(plain=_left_plain(network), why=why)
    shared = {id(hooks): hooks for hooks in hooks_of(network)}  # what they record stays where their owner reads it
    made = copy.deepcopy(network, shared).eval().requires_grad_(False)
    plain = _left_plain(made)
    packed = dict(_pack(made.to(memory_format=torch.channels_last), dtype))
    _spare_memory()
    return made, Found(packed, plain, compiled=library("prediction") is not None)


def _turns_autocast_off(dtype: torch.dtype, network: nn.Module) -> str | None:
    """What keeps a network from running in `dtype`, in words; None if nothing does. Packs it."""
    if dtype == torch.float32:
        return None
    _pack(network.to(memory_format=torch.channels_last), dtype)
    try:
        with torch.inference_mode(), torch.autocast("cpu", dtype):
            network(torch.zeros(1, 3, *trial.SIZE))
    except AutocastIsOff as error:
        return str(error)
    return None


def unedited() -> tuple[bool, ...]:
    """Whether torch, and each class that has a fast form, is as prediction assumes; cheap enough for every call."""
    with torch.no_grad():  # in prediction, no tensors are saved
        return nothing_in_the_way(), *map(as_recorded, CLASSES)


@lru_cache
def _spare_memory() -> None:
    """Returns the memory of the unpacked weights, once per process: later in a training, it would be needed again."""
    give_memory_back()


def _make_twins(network: nn.Module, allowed: Callable[[str], bool]) -> Sequence[str]:
    return list(swap(network, allowed))


def _make_packed(network: nn.Module, allowed: Callable[[str], bool]) -> Sequence[str]:
    names: list[str] = []
    _pack(network, torch.float32, allowed, names)
    return names


def _make_packed_without_winograd(network: nn.Module, allowed: Callable[[str], bool]) -> Sequence[str]:
    """In float32 what runs in bfloat16, where Winograd's algorithm is not used."""
    with worth_it.without_winograd():
        return _make_packed(network, allowed)


@torch.no_grad()
def _pack(
    network: nn.Module,
    dtype: torch.dtype,
    allowed: Callable[[str], bool] = lambda name: True,
    names: list[str] | None = None,
) -> Counter[str]:
    """Packs and replaces modules in place; returns the fast modules by kind, and adds their names to `names`."""
    packing = Packing(network, dtype, allowed)
    twins = swap(network, allowed)
    if names is not None:
        names += [*packing.done, *twins]
    return Counter([*packing.done.values(), *(PLAIN[type(module)].__name__ for module in twins.values())])


def _has_known(network: nn.Module) -> bool:
    plain = with_hooked_ancestor(network)
    return any(type(module) in KNOWN and module not in plain for module in network.modules())


def _left_plain(network: nn.Module) -> tuple[str, ...]:
    """The names of modules whose class, or a base class of it, has a twin, but which are not known.

    Of hooked modules that contain such ones, the highest is named.
    """
    names, below = [], set[nn.Module]()
    for name, module in network.named_modules():
        if module in below:
            continue
        parts = set(module.modules()) if hooked(module) else {module}
        if any(isinstance(part, tuple(KNOWN)) for part in parts) and not (
            type(module) in KNOWN and KNOWN[type(module)][1](module)
        ):
            names.append(f"{name or 'the network'} ({type(module).__name__})")
            below |= parts
    return tuple(names)


def words(found: Found) -> tuple[str, str]:
    """A description of the fast modules for logs, and a warning if modules are slower than possible."""
    if found.why:
        return "plain modules", f"the slower plain network runs: {found.why}"
    fast = ", ".join(f"{number} {kind}" for kind, number in found.fast.items())
    if fast:
        fast += ", with C++ kernels" if found.compiled else ", without C++ kernels"
    if not found.plain:
        return f"fast modules: {fast}" if fast else "plain modules", ""
    more = f" and {len(found.plain) - 3} more" if len(found.plain) > 3 else ""
    plain = f"{', '.join(found.plain[:3])}{more}"
    return f"fast modules: {fast or 'none'}; plain: {plain}", f"edited modules run in their slower plain form: {plain}"
