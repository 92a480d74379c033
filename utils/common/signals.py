"""SIGTERM (a scheduler ends the job) and SIGINT (Ctrl-C) as a wish to be granted at the next safe moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_WISH = 1.0  # seconds in which a second signal is the first one, delivered twice


class Stopped(Exception):
    """The run has stopped at a signal, with its state saved; scripts exit with 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class StopRequest:
    """Within this context the first SIGINT or SIGTERM is remembered in `number` (0 before); a second one acts at once.

    A scheduler that signals every process of a job, and a script that passes on what it receives (reproduce.py), make
    two of one wish: what comes within `ONE_WISH` of the first is taken as the same.

    Args:
        patient: a second one is ignored, too. For a job of several processes: torchrun passes on what it receives, so
            that each process may be told twice, and ends those that take over 30 seconds.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient

    def __enter__(self) -> StopRequest:
        self.number = 0
        self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's batches. A scheduler or terminal signals the loader's processes, too: that is no error then."""
        try:
            yield from loader
        except RuntimeError:
            if not self.number:
                raise

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if not self.patient and time.monotonic() - self._since > ONE_WISH:
                self._restore()
                signal.raise_signal(number)
            return
        self.number, self._since = number, time.monotonic()
        # torch raises an error wherever the script happens to be, in the middle of a step, when a loader process ends.
        if hasattr(signal, "SIGCHLD"):  # not on Windows
            signal.signal(signal.SIGCHLD, lambda *_: None)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
