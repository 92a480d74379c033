"""Progress: a bar on a terminal; elsewhere (log file, pipe, notebook) an occasional line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO, Any

from tqdm import tqdm

from utils.common.printable import one_line

EVERY = 30.0  # seconds between two lines
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed}, {rate_fmt}{postfix}"


class Progress(tqdm):
    """tqdm with its arguments; without a terminal it prints a line every `every` seconds (default: `EVERY`)."""

    def __init__(self, *args: Any, every: float | None = None, **words: Any) -> None:
        self.lines = not _is_terminal(words.get("file") or sys.stderr)
        self.every = EVERY if every is None else every
        if self.lines:
            words |= {"mininterval": self.every, "maxinterval": self.every, "delay": self.every, "bar_format": LINE}
            self.shown = time.monotonic()
        super().__init__(*args, **{**words, "desc": one_line(words.get("desc") or "")})

    @staticmethod
    def status_printer(file: IO[str]) -> Callable[[str], None]:
        if _is_terminal(file):
            return tqdm.status_printer(file)
        return lambda text: print(text.strip(), file=file, flush=True) if text.strip() else None

    def refresh(self, *args: Any, **words: Any) -> None:
        """tqdm also calls this for each new postfix, and after each line that is written between."""
        if not self.lines or time.monotonic() - self.shown >= self.every:
            self.shown = time.monotonic()
            super().refresh(*args, **words)

    def clear(self, *args: Any, **words: Any) -> None:
        if not self.lines:
            super().clear(*args, **words)

    def moveto(self, n: int) -> None:
        if not self.lines:
            super().moveto(n)

    def close(self) -> None:
        if not getattr(self, "lines", False):  # also called if __init__ has failed
            super().close()
        elif not self.disable:
            self.disable = True
            self._decr_instances(self)


def _is_terminal(file: IO[str]) -> bool:
    return hasattr(file, "isatty") and file.isatty()
