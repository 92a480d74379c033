"""The code blocks of README and docs, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))


@dataclass(frozen=True)
class Block:
    """A fenced block. `needs` is the reason, from an HTML comment above it, why its commands cannot run here."""

    language: str
    code: str
    needs: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^(?:<!-- needs: ([^>]+) -->\n)?```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(language, code, needs) for needs, language, code in found]


def inline_commands(page: Path) -> list[tuple[str, list[str]]]:
    """The scripts that a sentence runs with flags, and these flags: ("evaluation.py", ["--resize"])."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"`(?:python |torchrun [^`]*)?(\w+\.py) ([^`]*)`", text)
    return [(script, re.findall(r"--\w+", flags)) for script, flags in found]


def commands(block: Block) -> list[str]:
    """The commands of a bash block, one each: continued lines joined, comments dropped, variables of the block put in.

    Of a loop its body is taken once, with the first value.
    """
    values: dict[str, str] = {}
    found = []
    for line in block.code.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if match := re.fullmatch(r'(\w+)="([^"]*)"', line) or re.fullmatch(r"for (\w+) in (\S+)[^;]*; do", line):
            values[match[1]] = match[2]
        elif line and line != "done":
            found.append(re.sub(r"\$(\w+)", lambda name: values.get(name[1], name[0]), line))
    return found


def words(page: Path) -> int:
    """Words of a page outside its code blocks; bars and dashes of tables are none."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def anchors(page: Path) -> set[str]:
    """The fragments that links to the headings of a page may have."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
