"""Writes docs/reference/flags.md, the flags of all scripts, from their parsers.

PYTHONPATH=. python docs/write_flags.py
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

from utils.common.files import replacing

PAGE = Path(__file__).parent / "reference" / "flags.md"
SCRIPTS = ("prepare_data", "train_recon", "train_seg", "evaluation", "predict", "reproduce", "export", "demo")
SCRIPTS += ("benchmark",)
HEAD = """# Flags

All flags of all scripts, as in their `--help`. This page is written by `PYTHONPATH=. python docs/write_flags.py` from
the parsers, and a test compares it with them. Flags of `train_recon.py`, `train_seg.py` and `evaluation.py` are also
the keys of the configurations in `configs/`; `--flag` and `--no-flag` are `flag: true` and `flag: false` there."""
TITLES = {"options": "general", "positional arguments": "arguments"}


def page() -> str:
    parts, known = [HEAD], {}
    for name in SCRIPTS:
        parser = importlib.import_module(name).parser()
        parts.append(f"## {name}.py\n\n{parser.description}")
        for command, sub in commands(parser):
            parts += [f"### {name}.py {command}\n\n{sub.description}", *tables(sub, "####")]
        parts += [*tables(parser, "###", name, known), *filter(None, [parser.epilog])]
    return "\n\n".join(parts) + "\n"


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands of a parser and their own parsers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def flags(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action, str]]:
    """The title of its group, the flag, and its help as in --help, for each flag except --help and --version."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        for action in group._group_actions:
            hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction)
            if not hidden and action.dest not in ("help", "version"):
                yield group.title or "", action, formatter._expand_help(action) if action.help else ""


def tables(
    parser: argparse.ArgumentParser, heading: str, script: str = "", known: dict[str, str] | None = None
) -> list[str]:
    """A table of the flags of each group; a table that an earlier script has too is a link to that script.

    Args:
        known: the scripts of earlier tables, by table; updated.
    """
    rows: dict[str, list[str]] = {}
    for title, action, help in flags(parser):
        rows.setdefault(TITLES.get(title, title), []).append(
            f"| {_names(action)} | {help.replace('|', chr(92) + '|')} |"
        )
    parts, known = [], {} if known is None else known
    for title, of_group in rows.items():
        table = "| flag | description |\n|---|---|\n" + "\n".join(of_group)
        first = known.setdefault(table, script)
        parts.append(f"{heading} {title}\n\n" + (table if first == script else f"As for [{first}.py](#{first}py)."))
    return parts


def _names(action: argparse.Action) -> str:
    """The flag with its values: `--engine` torch, onnxruntime, openvino."""
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
    if action.choices is not None:
        return f"{names}: {', '.join(map(str, action.choices))}"
    return f"{names} {action.metavar}" if action.option_strings and action.metavar else names


if __name__ == "__main__":
    with replacing(PAGE) as beside:
        beside.write_text(page(), encoding="utf-8")
