"""Summaries of the problems of a data set: many similar sentences become one, with a count and three names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from utils.common.errors import UserError

_SHOWN = 20  # lines of an error
_ALIKE = 3  # up to this many similar sentences are shown individually
_NAMES = 3


def raise_problems(found: Sequence[str]) -> None:
    """Raises one UserError with the number of problems and their first 20 kinds, one per line, if there are any."""
    if found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        lines = grouped(found)
        first = f"; the first {_SHOWN}:" if len(lines) > _SHOWN else ":"
        raise UserError(f"{count} in the data{first}", *(f"  {line}" for line in lines[:_SHOWN]))


def grouped(problems: Sequence[str], lists: Iterable[str] = ()) -> list[str]:
    """The sentences, with more than three similar ones replaced by the first, their count and three names.

    Sentences are similar if they say the same of different files: they begin with a name in quotes or a path, and
    otherwise differ only in numbers and that name.

    Args:
        lists: names that a sentence may begin with, "train.txt: ..."; sentences of different lists are not similar.
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
            of_kind[0] = ""  # the other sentences of this kind are skipped
    return lines


def _name_and_kind(problem: str, lists: Iterable[str]) -> tuple[str, str]:
    """The name at the beginning of a sentence, and the sentence without it; without a name, the sentence itself."""
    prefix = next((f"{name}: " for name in lists if problem.startswith(f"{name}: ")), "")
    rest = problem[len(prefix) :]
    # The path of a list may come first: DIR/train.txt: "a": image not found.
    match = re.match(r'((?:[^"]*?: )?)"([^"]+)"(.*)|()([^"\n]+?\.\w+): (.*)', rest, re.DOTALL)
    if not match:
        return "", problem
    before, name, said = (match[1], match[2], match[3]) if match[2] else ("", match[5], match[6])
    short = re.split(r"[/\\]", name)[-1]
    stem = short.rpartition(".")[0] or short
    # Only the name of the innermost folder is kept; with a folder per case, the outer ones differ between cases.
    said = re.sub(r"\S*[/\\]\S*", lambda path: f"{''.join(_folder(path[0]))}/*", said)
    folder = [] if match[2] else _folder(name)
    said = re.sub(rf"(?<![a-zA-Z0-9]){re.escape(stem)}(?![a-zA-Z0-9])", "*", said)
    kind = re.sub(r"\d+(?:\.\d+)?", "#", f"{''.join(folder)}: {said}")
    kind = re.sub(r"#(?:, #)+(?:, \.\.\. \(# in all\))?", "#", kind)
    return (name if match[2] else short), f"{prefix}{before}{kind}"


def _folder(path: str) -> list[str]:
    """The name of the folder of a file, if the path contains one."""
    return re.split(r"[/\\]", path)[-2:-1]
