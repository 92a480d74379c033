"""A record of a network, which tells whether it was edited: hooks, functions, modules and settings, but not weights."""

from __future__ import annotations

import copy
import functools
import weakref
from argparse import Namespace
from collections.abc import Callable, Iterator
from operator import itemgetter
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any

from torch import nn

_EMPTY = CellType()  # of a variable that is not assigned yet
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# The dictionaries that every module has for its parts, and whether it is in training.
_NO_SETTINGS = {name for name, value in vars(nn.Module()).items() if isinstance(value, dict)} | {"training"}


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
        settings = [name for name, value in own.items() if name not in _NO_SETTINGS and _is_setting(value)]
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


def reached_by_hooks(network: nn.Module) -> bool:
    """Whether a hook of the network refers to one of its modules, or to a list, dict or set that a module has.

    Such a hook may store what the forward of a module reads. A copy of the network would read its own, and the hook
    would write to the original.
    """
    hooks = [hook for hooks in hooks_of(network) for hook in hooks.values()]
    if not hooks:
        return False
    modules = list(network.modules())
    shared = {
        id(value) for module in modules for value in vars(module).values() if isinstance(value, (list, dict, set))
    }
    shared |= set(map(id, modules))
    return any(id(value) in shared for hook in hooks for value in _referred_to(hook))


def _referred_to(function: Any) -> Iterator[Any]:
    """The objects that a function may read or change: bound, of a partial, in its closure, global, or defaults."""
    if isinstance(function, functools.partial):
        yield from (*function.args, *function.keywords.values())
        yield from _referred_to(function.func)
    if (bound := getattr(function, "__self__", None)) is not None:
        yield from (bound, *getattr(bound, "__dict__", {}).values())
        function = getattr(function, "__func__", function)
    if isinstance(function, FunctionType):
        yield from (cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY)
        yield from map(function.__globals__.get, function.__code__.co_names)
        yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    elif not isinstance(function, (nn.Module, MethodType, functools.partial)):  # an object with __call__
        yield from getattr(function, "__dict__", {}).values()


def _is_setting(value: Any) -> bool:
    """Whether it is a plain value, or a list, tuple, dict or namespace of such."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_setting, value))
    if type(value) in (dict, Namespace, SimpleNamespace):
        return all(map(_is_setting, (value if type(value) is dict else vars(value)).values()))
    return value is None or isinstance(value, (bool, int, float, str))


def _reference(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:  # None, or a callable object without weak references
        return lambda: value
