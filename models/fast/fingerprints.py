"""Fingerprints of the source of the classes in `models`, which detect that a class no longer matches its faster twin.

A fingerprint is a hash of the syntax tree of a class: its methods, constants and bases, and the same for the functions
and classes of `models` that they use. Comments, docstrings and layout do not count. `RECORDED` contains the
fingerprints that match the twins. After a change of a class and its twin, print the new fingerprints with

    python -m models.fast.fingerprints
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from models import blocks, dpconv, nested

RECORDED = {
    "ChannelAttention": "a9df572df7887f2f",
    "SpatialAttention": "686776d446aec61c",
    "ResidualBlock": "43641e5f1d0fae13",
    "EfficientChannelAttention": "9b49d7a96830b577",
    "ShuffleUp": "a7a2531cdda708c1",
    "Concatenate": "2c5e938d687d0ffe",
    "BLAM": "6199c7745da4a859",
    "LocalContrast": "a097f4ebb3497cab",
    "Down": "9ec18275d856e75d",
    "Join": "cf14fc3b745185d4",
    "NestedEncoder": "e158898a1f663a93",
    "NestedDecoder": "8b622de1e00b27a7",
    "DPConv": "6c2a60d6d6f5d091",
}

CLASSES = (
    blocks.ChannelAttention,
    blocks.SpatialAttention,
    blocks.ResidualBlock,
    blocks.EfficientChannelAttention,
    blocks.ShuffleUp,
    blocks.Concatenate,
    blocks.BLAM,
    blocks.LocalContrast,
    nested.Down,
    nested.Join,
    nested.NestedEncoder,
    nested.NestedDecoder,
    dpconv.DPConv,
)

# Attributes that Python adds, which differ between its versions and do not affect the computation.
_NOT_SOURCE = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__", "__annotate__"}
_NOT_SOURCE |= {"__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__"}
_NOT_SOURCE |= {"__slotnames__"}  # copy.deepcopy leaves it
_NOT_TREE = {"ctx", "kind", "type_comment", "type_params", "annotation", "returns"}

# The location of a value that was read: its owner (a class or a dictionary), its name, the value, and the code of a
# function. With an empty name, the value is the number of attributes of the class.
Part = tuple[Any, str, Any, CodeType | None]

_found: dict[type, tuple[str | None, list[Part]]] = {}


def as_recorded(cls: type) -> bool:
    """Whether the current class matches its recorded fingerprint."""
    known = _found.get(cls)
    if known is None or not all(_holds(*part) for part in known[1]):
        known = _found[cls] = _fingerprint(cls)
    return known[0] is not None and known[0] == RECORDED.get(cls.__name__)


def fingerprint(cls: type) -> str | None:
    """The fingerprint of a class; None if its source is not available."""
    return _fingerprint(cls)[0]


def _holds(owner: Any, name: str, value: Any, code: CodeType | None) -> bool:
    """Whether a value is still in its place; cheap enough for every call of a twin."""
    if not name:
        return len(owner.__dict__) == value
    found = owner.get(name) if isinstance(owner, dict) else owner.__dict__.get(name)
    return found is value and (code is None or value.__code__ is code)


def _fingerprint(cls: type) -> tuple[str | None, list[Part]]:
    digest, parts = hashlib.sha256(), []
    todo, seen = [cls], {cls}
    try:
        while todo:
            for line, part, named in _read(todo.pop(0)):
                digest.update(f"{line}\n".encode())
                parts += [part] if part else []
                todo += [each for each in named if each not in seen]
                seen.update(named)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None, parts
    return digest.hexdigest()[:16], parts


def _read(thing: type | FunctionType) -> Iterator[tuple[str, Part | None, list]]:
    """Lines that describe a class or function, with their locations and the names from `models` that they use."""
    if isinstance(thing, FunctionType):
        named = list(_names(thing))
        yield f"{thing.__name__} {_tree(thing)}", None, []
        for name, value in named:
            own = _is_ours(value)
            part = (thing.__globals__, name, value, value.__code__ if isinstance(value, FunctionType) else None)
            yield f"{name} {'' if own else _constant(value)}", part, [value] if own else []
        return
    bases = [base for base in thing.__bases__ if _is_ours(base)]
    count = (thing, "", len(vars(thing)), None)
    yield f"class {thing.__name__} {[base.__qualname__ for base in thing.__bases__]}", count, bases
    for name, value in sorted(vars(thing).items()):
        if name in _NOT_SOURCE:
            continue
        if isinstance(value, FunctionType):
            yield name, (thing, name, value, value.__code__), [value]
        elif isinstance(value, (staticmethod, classmethod, property)):
            function = value.fget if isinstance(value, property) else value.__func__
            yield f"{type(value).__name__} {name}", (thing, name, value, None), [function]
        else:
            yield f"{name} {_constant(value)}", (thing, name, value, None), []


def _names(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The global names that a function uses, with their values."""
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    for name in sorted(names & function.__globals__.keys()):
        yield name, function.__globals__[name]


def _is_ours(value: Any) -> bool:
    return isinstance(value, (type, FunctionType)) and value.__module__.split(".")[0] == "models"


def _constant(value: Any) -> str:
    """The value of a constant, or the name of an object from a library."""
    if isinstance(value, (bool, int, float, str, tuple, type(None))):
        return repr(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if hasattr(value, "__wrapped__"):  # it has the name of the wrapped function
        return "a wrapper"
    if isinstance(value, type) or callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return f"a {type(value).__name__}"  # as in no recorded fingerprint


def _tree(function: Callable[..., Any]) -> str:
    """The syntax tree of a function, located by its code object, so that decorators are noticed."""
    if hasattr(function, "__wrapped__"):
        raise TypeError(f"{function.__name__} is wrapped")
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function.__code__))).body
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(f"{function.__name__} is not defined by itself")
    return _write(node)


def _write(node: Any) -> str:
    """A syntax tree as text that is the same in every version of Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_write, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    kept = {name: value for name, value in fields.items() if name not in _NOT_TREE and value not in (None, [])}
    return f"{type(node).__name__}({','.join(f'{name}={_write(value)}' for name, value in kept.items())})"


if __name__ == "__main__":
    for each in CLASSES:
        print(f'    "{each.__name__}": "{fingerprint(each)}",')
