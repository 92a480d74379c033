"""SIGTERM (from a scheduler) and SIGINT (Ctrl-C) as requests to stop at the next safe moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_SIGNAL_SECONDS = 1.0  # a second signal within this time is a repeated delivery of the first


class Stopped(Exception):
    """The run was stopped by a signal after its state was saved; scripts exit with 128 + the number of the signal."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class StopRequest:
    """A context in which the first SIGINT or SIGTERM is stored in `number` (0 before); a second one acts at once.

    A scheduler that signals every process of a job, and a script that forwards its signals (reproduce.py), deliver one
    request twice: a signal within `SAME_SIGNAL_SECONDS` of the first is ignored.

    Args:
        patient: ignore every further signal. For multi-process jobs: torchrun forwards its signals, so that a process
            may receive two, and kills processes that take more than 30 seconds.
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
        """The batches of the loader. A signal may end the workers too; after one, their error is ignored."""
        try:
            yield from loader
        except RuntimeError:
            if not self.number:
                raise

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if not self.patient and time.monotonic() - self._since > SAME_SIGNAL_SECONDS:
                self._restore()
                signal.raise_signal(number)
            return
        self.number, self._since = number, time.monotonic()
        # Otherwise torch raises an error in the middle of a step when a data-loading worker ends.
        if hasattr(signal, "SIGCHLD"):  # not on Windows
            signal.signal(signal.SIGCHLD, lambda *_: None)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
