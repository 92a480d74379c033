"""Speed for CPUs: faster twins of the method's modules, compared with the plain ones. May be deleted whole.

    with fast.for_training(network) as found:        # in training; plain again afterwards
        ...
    network, found = fast.for_prediction(network, torch.float32)         # a copy that predicts

Nothing in `models` knows of this folder, and `utils/networks/speed.py` alone calls it. It replaces modules whose type,
settings and source it knows (known.py, fingerprints.py), and nothing else. Before the result computes anything for a
user it is compared with the plain network (comparison.py).

    training     twins.py, training_steps.py, norm_passes.py, batch_norm.py, conv_gradients.py
    prediction   packed_network.py, packed_conv.py, winograd.py
    both         columns.py, narrow_conv.py, pooling.py, worth_it.py, and native/ (C++)
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from models.fast import comparison
from models.fast.known import nothing_in_the_way
from models.fast.packed_conv import can_pack
from models.fast.packed_network import Packing
from models.fast.twins import KNOWN, swap, swap_back


@dataclass(frozen=True)
class Found:
    """What of a network is fast: how many modules of each kind; and what is plain though its kind has a fast form."""

    fast: dict[str, int] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    why: str | None = None  # the whole network is plain, in words


class for_training:
    """A context in which the known modules of `network` are their faster twins; its value is `Found`.

    The modules stay the objects they are. What is edited in the meantime, such as by a hook, has its effect: that
    module is plain from then on.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __enter__(self) -> Found:
        kinds = {name: type(module).__name__ for name, module in self.network.named_modules()}
        plain = _left_plain(self.network)
        why = comparison.difference(self.network, _make_twins, training=True) if _has_known(self.network) else None
        names = swap(self.network) if why is None else ()
        return Found(dict(Counter(kinds[name] for name in names)), plain, why)

    def __exit__(self, *error: Any) -> None:
        swap_back(self.network)


def for_prediction(network: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, Found]:
    """A copy of `network` that predicts, in evaluation mode, its convolutions computing in `dtype`; and what is fast.

    The network itself where it has nothing that is known, cannot be copied, or the copy differs from it.
    """
    if not _has_known(network) or not can_pack(dtype):
        return network, Found(plain=_left_plain(network))
    if not nothing_in_the_way():
        return network, Found(why="there are hooks of all modules, or torch's own modules are edited")
    # Before the copy is made: both together would be the most memory that a prediction takes.
    why = comparison.difference(network, _make_packed, training=False)
    if why is not None:
        return network, Found(plain=_left_plain(network), why=why)
    made = copy.deepcopy(network).eval().requires_grad_(False)
    plain = _left_plain(made)
    packed = _pack(made.to(memory_format=torch.channels_last), dtype)
    _spare_memory()
    return made, Found(dict(packed), plain)


@lru_cache
def _spare_memory() -> None:
    """Gives back what the weights took before they were packed. Once: later in a training, the next step wants it."""
    comparison.give_memory_back()


def _make_twins(network: nn.Module, allowed: Callable[[str], bool]) -> Sequence[str]:
    return list(swap(network, allowed))


def _make_packed(network: nn.Module, allowed: Callable[[str], bool]) -> Sequence[str]:
    names: list[str] = []
    _pack(network, torch.float32, allowed, names)
    return names


@torch.no_grad()
def _pack(
    network: nn.Module,
    dtype: torch.dtype,
    allowed: Callable[[str], bool] = lambda name: True,
    names: list[str] | None = None,
) -> Counter[str]:
    """Packs and swaps in place; the number of fast modules of each kind. Their names are added to `names`."""
    packing = Packing(dtype, allowed)
    packing.pack(network)
    plain = {twin: cls for cls, (twin, _) in KNOWN.items()}
    twins = swap(network, allowed)
    if names is not None:
        names += [*packing.done, *twins]
    return Counter([*packing.done.values(), *(plain[type(module)].__name__ for module in twins.values())])


def _has_known(network: nn.Module) -> bool:
    return any(type(module) in KNOWN for module in network.modules())


def _left_plain(network: nn.Module) -> tuple[str, ...]:
    """The names of modules whose class, or the one it is derived from, has a twin, but that are not known."""
    return tuple(
        f"{name} ({type(module).__name__})"
        for name, module in network.named_modules()
        if isinstance(module, tuple(KNOWN)) and not (type(module) in KNOWN and KNOWN[type(module)][1](module))
    )


def words(found: Found) -> tuple[str, str]:
    """For a log: what runs fast, and a warning if something does not that might."""
    if found.why:
        return "plain modules", f"the plain network runs, slower: {found.why}"
    fast = ", ".join(f"{number} {kind}" for kind, number in found.fast.items())
    if not found.plain:
        return f"fast modules: {fast}" if fast else "plain modules", ""
    more = f" and {len(found.plain) - 3} more" if len(found.plain) > 3 else ""
    plain = f"{', '.join(found.plain[:3])}{more}"
    return f"fast modules: {fast or 'none'}; plain: {plain}", f"edited modules run plain, slower: {plain}"
