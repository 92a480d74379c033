"""The version of this project, from the file VERSION."""

from __future__ import annotations

import argparse
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "VERSION"


def version() -> str:
    """The version, "1.0.0"; "unknown" in a copy of the project without the file."""
    return FILE.read_text(encoding="utf-8").strip() if FILE.is_file() else "unknown"


def add_version(parser: argparse.ArgumentParser) -> None:
    """--version: prints the version and exits."""
    parser.add_argument("--version", action="version", version=version(), help="version of this project")
