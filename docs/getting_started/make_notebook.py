"""Writes tutorial.ipynb from tutorial.md: a cell for each piece of text and each block of code.

python docs/getting_started/make_notebook.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("tutorial.md")
NOTEBOOK = PAGE.with_suffix(".ipynb")
# A notebook starts in its own folder; the commands and imports are those of the project folder.
FIRST = """import os
import sys
from pathlib import Path

os.chdir("../..")
sys.path.insert(0, str(Path.cwd()))"""


def notebook(page: str) -> str:
    """The notebook of a page, as the text of its file (nbformat 4.4); bash blocks become `%%bash` cells."""
    cells = []
    for text, language, code in re.findall(r"(.*?)(?:^```(\w+)\n(.*?)^```\n|\Z)", page, re.DOTALL | re.MULTILINE):
        if text.strip():
            cells.append(_cell("markdown", text.strip()))
        if code:
            cells.append(_cell("code", f"%%bash\n{code.strip()}" if language == "bash" else code.strip()))
    cells.insert(1, _cell("code", FIRST))
    content = {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, source: str) -> dict[str, Any]:
    outputs = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, **outputs, "source": source.splitlines(keepends=True)}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
