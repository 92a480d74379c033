"""What is wrong with a data set, shortened for a reader: 138 like sentences are one, with a count and three names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from utils.common.errors import UserError

_SHOWN = 20  # lines of an error
_ALIKE = 3  # so many like sentences are shown as they are
_NAMES = 3


def raise_problems(found: Sequence[str]) -> None:
    """One UserError with the number of problems and the first 20 kinds of them, one a line; none if there are none."""
    if found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        lines = grouped(found)
        first = f"; the first {_SHOWN}:" if len(lines) > _SHOWN else ":"
        raise UserError(f"{count} in the data{first}", *(f"  {line}" for line in lines[:_SHOWN]))


def grouped(problems: Sequence[str], lists: Iterable[str] = ()) -> list[str]:
    """The sentences, more than three like ones as the first of them with their count and three names.

    Alike are sentences that say the same of different files: they begin with a name in quotes or a path, and all else
    in which they differ are numbers and that name.

    Args:
        lists: names that a sentence may begin with, "train.txt: ..."; sentences of two lists are not alike.
    """
    known = [_name_and_kind(problem, lists) for problem in problems]
    names: dict[str, list[str]] = {}
    for name, kind in known:
        names.setdefault(kind, []).append(name)
    lines = []
    for problem, (name, kind) in zip(problems, known, strict=True):
        of_kind = names[kind]
        if len(of_kind) <= _ALIKE:
            lines.append(problem)
        elif name == of_kind[0]:
            shown, more = ", ".join(of_kind[:_NAMES]), len(of_kind) - _NAMES
            lines.append(f"{problem} ({len(of_kind)} like this: {shown} and {more} more)")
            of_kind[0] = ""  # the others are said
    return lines


def _name_and_kind(problem: str, lists: Iterable[str]) -> tuple[str, str]:
    """The name that a sentence is about, and the sentence without it; a sentence about no name is a kind of its own."""
    prefix = next((f"{name}: " for name in lists if problem.startswith(f"{name}: ")), "")
    rest = problem[len(prefix) :]
    # A path that a list was read from may come first: DIR/train.txt: "a": no such image.
    match = re.match(r'((?:[^"]*?: )?)"([^"]+)"(.*)|()([^"\n]+?\.\w+): (.*)', rest, re.DOTALL)
    if not match:
        return "", problem
    before, name, said = (match[1], match[2], match[3]) if match[2] else ("", match[5], match[6])
    short = re.split(r"[/\\]", name)[-1]
    stem = short.rpartition(".")[0] or short
    # Of a path, its folder's name is kept: in a folder a case, that before it is another for each.
    said = re.sub(r"\S*[/\\]\S*", lambda path: f"{''.join(_folder(path[0]))}/*", said)
    folder = [] if match[2] else _folder(name)
    said = re.sub(rf"(?<![a-zA-Z0-9]){re.escape(stem)}(?![a-zA-Z0-9])", "*", said)
    kind = re.sub(r"\d+(?:\.\d+)?", "#", f"{''.join(folder)}: {said}")
    kind = re.sub(r"#(?:, #)+(?:, \.\.\. \(# in all\))?", "#", kind)
    return (name if match[2] else short), f"{prefix}{before}{kind}"


def _folder(path: str) -> list[str]:
    """The name of the folder that a file is in, if the path has one."""
    return re.split(r"[/\\]", path)[-2:-1]
