"""A record of a network, which tells whether it was edited: hooks, functions, modules and settings, but not weights."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Snapshot:
    """The modules of a network, their classes, settings, hooks and own functions, without keeping them alive.

    `edited` is called for each batch of images, so it reads what is recorded instead of walking through the network:
    about a microsecond per module. Whether modules are in training is not recorded.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules = [_Module(module) for module in network.modules()]

    def edited(self) -> bool:
        try:
            return not all(module.holds() for module in self._modules)
        except Exception:  # a setting was removed, or replaced by an object that cannot be compared, e.g. a tensor
            return True


class _Module:
    __slots__ = ("_class", "_count", "_forward", "_functions", "_objects", "_self", "_settings", "_values")

    def __init__(self, module: nn.Module) -> None:
        own = vars(module)
        self._self, self._class, self._forward = weakref.ref(module), type(module), type(module).forward
        self._count = len(own)
        # At least `_is_full_backward_hook` is one.
        settings = [name for name, value in own.items() if _is_setting(value) and name != "training"]
        self._settings = itemgetter(*settings)
        self._values = copy.deepcopy(self._settings(own))  # lists may be edited in place
        self._functions = [name for name, value in own.items() if callable(value) and not isinstance(value, nn.Module)]
        self._objects = [_reference(each) for each in self._read(own)]

    def holds(self) -> bool:
        module = self._self()
        own = vars(module)
        return (
            type(module) is self._class
            and self._class.forward is self._forward
            and len(own) == self._count
            and self._settings(own) == self._values
            and self._read(own) == [refer() for refer in self._objects]
        )

    def _read(self, own: dict[str, Any]) -> list[Any]:
        """The objects of which another one may take the place: children, hooks and functions."""
        found = [*own["_modules"].values()]
        if self._functions:
            found += map(own.get, self._functions)
        for name in _HOOKS:
            if own[name]:
                found += own[name].values()
        return found


def hooks_of(network: nn.Module) -> list[dict[int, Callable[..., Any]]]:
    """The dictionaries of the hooks of a network, as far as they contain any."""
    return [own[name] for own in map(vars, network.modules()) for name in _HOOKS if own[name]]


def _is_setting(value: Any) -> bool:
    """Whether it is a plain value, or a list or tuple of such."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _reference(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:  # None, or a callable object without weak references
        return lambda: value
