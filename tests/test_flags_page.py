"""docs/reference/flags.md is that of the parsers, and every flag's help reads as docs/development/style.md wants it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A help line that begins with one of these defines the flag by something else than what it is.
NOT_FIRST = {"of", "what", "as", "how", "who", "which", "that", "whether", "if", "in", "below", "beside", "with", "to"}
NOT_FIRST |= {"these", "it", "its", "takes", "holds", "there", "not", "no", "also", "by", "our", "ours", "a"}


def write_flags():
    spec = importlib.util.spec_from_file_location("write_flags", ROOT / "docs" / "write_flags.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def every_flag():
    """(script, flag, help) of all scripts and commands."""
    module = write_flags()
    for name in module.SCRIPTS:
        parser = importlib.import_module(name).parser()
        for each in (parser, *(sub for _, sub in module.commands(parser))):
            for _, action, help in module.flags(each):
                yield name, action, help


def test_the_page_is_that_of_the_parsers():
    module = write_flags()
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == module.page(), "PYTHONPATH=. python docs/write_flags.py"
    assert {path.stem for path in ROOT.glob("*.py")} == {*module.SCRIPTS, "_this_folder"}
    for _, action, _ in every_flag():
        assert all(f"`{name}`" in page for name in action.option_strings)


def test_every_help_begins_with_what_the_flag_is_and_ends_with_its_default():
    flags = list(every_flag())
    assert len(flags) > 150
    for script, action, help in flags:
        where = f"{script} {action.dest}: {help}"
        first = re.match(r"[A-Za-z][\w'.-]*", help)
        assert first, where
        assert first[0].lower() not in NOT_FIRST, where
        assert help.count("(default: ") <= 1 and help.endswith(")") >= ("(default: " in help), where
        assert not help.endswith("."), where
        if action.default not in (None, False, "==SUPPRESS==") and action.option_strings:
            assert "(default: " in help, where


@pytest.mark.parametrize("name", ["train_seg", "predict"])
def test_help_shows_a_default_of_zero_and_no_default_twice(name):
    text = " ".join(importlib.import_module(name).parser().format_help().split())
    assert "(default: False)" not in text and "(default: None)" not in text
    assert text.count("(default: one per core)") == 1
    if name == "train_seg":
        assert "only best.pth and last.pth (default: 0)" in text
