"""The words of docs/development/style.md: none of the phrases to avoid is anywhere in code, configurations or pages.

Identifiers are left out by themselves: in `goes_on` there is no space. Left out by name are the page that lists the
phrases, this test, and pages that are written from data by a command.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".html", ".css", ".js", ".cpp", ".h", ".cff", ".ipynb", ""}
LEFT_OUT = ("docs/development/style.md", "tests/test_style.py", "LICENSE", "tests/golden/", "docs/results/")

# After "is no" these words make a comparison ("is no longer", "is no slower"), which is the usual way to say it.
COMPARISON = "longer|more|less|fewer|worse|better|larger|smaller|higher|lower|faster|slower|earlier|later|closer"
# After "half a" these are measures; half a file, folder or epoch is an incomplete one.
MEASURE = r"(?:\w+ )?(?:pixel|point|second|minute|hour|megabyte|gigabyte)s?\b"
PHRASES = {
    "is not there": r"(?:is|are|was|were|be) not there\b",
    "what is there": r"what (?:is|was|stands|stood) there\b",
    "is there already": r"(?:is|are|was|were) there already\b",
    "in force": r"in force\b",
    "by turns": r"by turns\b",
    "goes on": r"(?:goes|go|going|went|gone) on\b",
    "lies": r"(?:lies|lie|lain)\b",
    # Not "there is no", the usual way to say that something does not exist.
    "is no": rf"(?<!there )(?<!here )(?:is|are|was|were) no (?!(?:{COMPARISON})\b)",
    "of its own": r"of (?:its|their) own\b",
    "one by one": r"one by one\b",
    "a laptop's": r"a laptop's\b",
    "half a": rf"half an? (?!{MEASURE})",
}
PATTERNS = {name: re.compile(rf"\b{phrase}", re.IGNORECASE) for name, phrase in PHRASES.items()}
# A phrase may be broken between two lines of a comment, a quotation or a string.
BREAK = re.compile(r""" *["']?\s*\n\s*(?:#|//|>|\*|f?["'])?\s*""")


def found(text: str) -> list[str]:
    """The phrases in a text, each with the words around it: "goes on: the run goes on from"."""
    flat = BREAK.sub(" ", text)
    return [
        f"{name}: {flat[max(match.start() - 25, 0) : match.end() + 25].strip()}"
        for name, pattern in PATTERNS.items()
        for match in pattern.finditer(flat)
    ]


def pages() -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    names = listed.stdout.split("\n") if not listed.returncode else []
    return [
        name
        for name in names
        if name and Path(name).suffix in KINDS and not name.startswith(LEFT_OUT) and (ROOT / name).is_file()
    ]


def test_no_phrase_to_avoid_is_anywhere():
    names = pages()
    if not names:
        pytest.skip("not a git checkout")
    assert {"README.md", "train_seg.py", "Makefile", "configs/BUS.yaml"} <= set(names) and len(names) > 200
    wrong = [
        f"{name}: {'; '.join(phrases)}"
        for name in names
        if (phrases := found((ROOT / name).read_text(encoding="utf-8", errors="replace")))
    ]
    assert not wrong, "docs/development/style.md has other words for\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("the file is not there", "is not there"),
        ("skips what is there", "what is there"),
        ("the run goes\n    # on with it", "goes on"),
        ('f"the run goes "\n    f"on with {it}"', "goes on"),
        ("-1 is no probability", "is no"),
        ("which is no\nnumber any more", "is no"),
        ("a folder of its own", "of its own"),
        ("lies beside the image", "lies"),
        ("half a file", "half a"),
        ("images go one by one", "one by one"),
    ],
)
def test_a_phrase_is_found(text, phrase):
    assert [each.partition(": ")[0] for each in found(text)] == [phrase]


@pytest.mark.parametrize(
    "text",
    [
        "there is no such file",
        "unless there\n    # is no file",
        "bfloat16 is no worse, and no longer slower: it is no longer used",
        "shifted by half a pixel, half an hour, half a resized pixel",
        "def test_a_run_goes_on(): in_force",
        "relies on, families, supplies, ongoing",
        "its own folder, in your own network",
    ],
)
def test_usual_words_are_not_found(text):
    assert found(text) == []
