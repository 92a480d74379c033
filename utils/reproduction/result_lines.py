"""The lines of docs/results/NAME.jsonl: one finished run of an experiment each, in a fixed schema.

docs/reference/results_schema.md describes every key. `check` holds a line to it, on the way in and on the way out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.common.files import replacing
from utils.common.processes import say
from utils.evaluation.pixel_metrics import PAPER_FIGURES
from utils.reproduction.claims import waiting_for

SCHEMA = 1
LISTS = ("val", "test")
EPOCH_RULES = ("best", "last")
# Fractions; Fa in millionths, hd95 in pixels. Null where a figure is undefined (Pd without a target).
FIGURES = (*PAPER_FIGURES, "pooled_iou", "benchmark_iou", "benchmark_F1", "nIoU", "Pd", "Fa_1e-6", "hd95")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of an experiment and of an arm: a file is named by them

Line = Mapping[str, Any]
_Kind = Callable[[Any, str], None]  # raises ValueError, which names where


def run_of(line: Line) -> tuple[str, int, int]:
    """The key of a run in an experiment: arm, division, seed."""
    return line["arm"], line["division"], line["seed"]


def per_image_name(experiment: str, arm: str, division: int, seed: int) -> str:
    """The file of a run's figures of each image, from the folder of results."""
    return f"{experiment}/{arm}-division{division}-seed{seed}.csv.gz"


def append(path: Path, line: Line) -> None:
    """Adds the line of a run; one of the same run is replaced, in its place.

    The file is written whole beside itself and moved into place, by one process at a time (`utils.reproduction.claims`,
    without file locks): no line is ever half there or there twice.

    Raises:
        UserError: if the line does not fit the schema, or the file cannot be read or written.
    """
    try:
        check(line)
    except ValueError as error:
        raise UserError(f"{path}: the line of a run does not fit the schema: {error}") from error
    with waiting_for(path.parent, f".{path.name}.claim"):
        lines = {run_of(other): other for other in read(path)}
        lines[run_of(line)] = line
        text = "".join(json.dumps(each, allow_nan=False) + "\n" for each in lines.values())
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, in order; empty if the file is missing. A broken last line is skipped with a warning.

    Raises:
        UserError: for a line that does not fit the schema, or a run that stands in two; with the file and the line.
    """
    try:
        texts = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    lines: list[dict[str, Any]] = []
    first: dict[tuple[str, int, int], int] = {}
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            if number == len(texts):  # without its end: what a copy that was cut leaves
                say(f"warning: {path}: the last line is broken and is left out")
                break
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        try:
            check(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        if before := first.get(run_of(line)):
            run = f"the run of arm {line['arm']}, division {line['division']}, seed {line['seed']}"
            raise UserError(f"{path}, line {number}: {run} is already in line {before}. Remove one of them")
        first[run_of(line)] = number
        lines.append(line)
    return lines


def check(line: Any) -> None:
    """Checks a line against the schema.

    Raises:
        ValueError: names the key and what is wrong with it.
    """
    if isinstance(line, Mapping) and line.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, found {_shown(line.get('schema'))}")
    _LINE(line, "")
    epochs = line["curve"]["epoch"]
    if uneven := [name for name, values in line["curve"].items() if len(values) != len(epochs)]:
        raise ValueError(f"curve.{uneven[0]} must have as many values as curve.epoch, {len(epochs)}")
    if missing := [name for name in line["figures"] if name not in line["protocol"]]:
        raise ValueError(f"protocol lacks the list {missing[0]}, which figures has")
    expected = per_image_name(line["experiment"], *run_of(line))
    if line["per_image"] != expected:
        raise ValueError(f"per_image must be {expected}, found {_shown(line['per_image'])}")


def check_figures(figures: Any) -> None:
    """Checks the figures of one list at one epoch rule against the schema.

    Raises:
        ValueError: as `check` does.
    """
    _FIGURES(figures, "figures")


def _text(value: Any, where: str) -> None:
    _require(isinstance(value, str), value, where, "a text")


def _name(value: Any, where: str) -> None:
    fits = isinstance(value, str) and bool(NAME.fullmatch(value))
    _require(fits, value, where, "a name of letters, digits, _, . and -")


def _hash(value: Any, where: str) -> None:
    fits = isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))
    _require(fits, value, where, "a SHA-256 in hexadecimal")


def _count(value: Any, where: str) -> None:
    _require(type(value) is int and value >= 0, value, where, "an integer of at least 0")


def _number(value: Any, where: str) -> None:
    _require(type(value) in (int, float) and math.isfinite(value), value, where, "a finite number")


def _mapping(value: Any, where: str) -> None:
    _require(isinstance(value, Mapping), value, where, "an object")


def _or_null(kind: _Kind) -> _Kind:
    def check(value: Any, where: str) -> None:
        if value is not None:
            kind(value, where)

    return check


def _list_of(kind: _Kind) -> _Kind:
    def check(value: Any, where: str) -> None:
        _require(isinstance(value, Sequence) and not isinstance(value, str), value, where, "a list")
        for i, each in enumerate(value):
            kind(each, f"{where}[{i}]")

    return check


def _by_name(kind: _Kind, required: Sequence[str] = (), allowed: Sequence[str] = ()) -> _Kind:
    """An object whose values are all of one kind; `allowed`, if given, are its only keys."""

    def check(value: Any, where: str) -> None:
        _mapping(value, where)
        if missing := [name for name in required if name not in value]:
            raise ValueError(f"{_key(where, missing[0])} is missing")
        if allowed and (unknown := [name for name in value if name not in allowed]):
            raise ValueError(f"{_key(where, unknown[0])} is unknown; the keys are {', '.join(allowed)}")
        for name, each in value.items():
            kind(each, _key(where, name))

    return check


def _object(optional: Sequence[str] = (), others: bool = False, **kinds: _Kind) -> _Kind:
    """An object with exactly these keys, of which some may be missing; with `others` it may have further ones."""
    required = [name for name in kinds if name not in optional]
    keys = _by_name(lambda value, where: None, required, () if others else [*kinds])

    def check(value: Any, where: str) -> None:
        keys(value, where)
        for name, kind in kinds.items():
            if name in value:
                kind(value[name], _key(where, name))

    return check


def _key(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _require(fits: bool, value: Any, where: str, what: str) -> None:
    if not fits:
        raise ValueError(f"{where or 'a line'} must be {what}, found {_shown(value)}")


def _shown(value: Any) -> str:
    return repr(value)[:60]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; an undefined figure is null")


def _on_lists(kind: _Kind) -> _Kind:
    """A value for the val list, and for the test list if the experiment has one."""
    return _by_name(_object(**dict.fromkeys(EPOCH_RULES, kind)), required=["val"], allowed=LISTS)


def _code_test(given: str) -> _Kind:
    """A part of summary.json with what the tables show of it, and the list."""
    means = {"own": _number, given: _number, "difference": _number}
    figure = _object(others=True, n=_count, **means, low=_or_null(_number), high=_or_null(_number), p=_number)
    change = _or_null(_object(others=True, mean=_number))
    figures = _object(others=True, iou=figure)
    return _object(["kernel_change"], others=True, list=_text, figures=figures, kernel_change=change)


_CODES = ("swap", "mean", "zero")
_FIGURES = _by_name(_or_null(_number), required=["images", *FIGURES])
_EARLIER = _object(epochs=_count, device=_or_null(_text), torch=_or_null(_text), commit=_or_null(_text))
_LINE = _object(
    ["files"],
    schema=_count,
    experiment=_name,
    arm=_name,
    division=_count,
    seed=_count,
    settings=_object(["evaluation"], recon=_or_null(_mapping), seg=_mapping, evaluation=_mapping),
    encoder=_or_null(_hash),
    protocol=_on_lists(_mapping),
    files=_by_name(_hash),
    versions=_by_name(_or_null(_text), required=["python", "torch"]),
    commit=_or_null(_text),
    machine=_object(
        ["earlier"], device=_text, platform=_text, threads=_count, processes=_count, earlier=_list_of(_EARLIER)
    ),
    network=_object(parameters=_object(trained=_count, frozen=_count), macs=_or_null(_count)),
    seconds=_object(recon=_or_null(_number), seg=_number, evaluation=_or_null(_number)),
    epochs=_object(best=_count, last=_count),
    figures=_on_lists(_FIGURES),
    curve=_by_name(_list_of(_or_null(_number)), required=["epoch", "train_loss", "val_loss", "val_iou"]),
    code=_or_null(_object(_CODES, **{given: _code_test(given) for given in _CODES})),
    per_image=_text,
)
