"""Running the project's scripts one after another, and forwarding signals to the running one.

reproduce.py -> CommandRunner.run -> python train_seg.py ...
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

from utils.common.signals import SAME_SIGNAL_SECONDS, SIGNALS

_ASK = 10.0  # seconds
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in linux/prctl.h


class CommandRunner:
    """A context that forwards SIGINT, SIGTERM and SIGHUP to the running command; `number` is the first of them.

    A command runs in a separate session, so that Ctrl-C in a terminal reaches it only through this process. If this
    process is killed, the system sends the command a SIGTERM (on Linux). Between two commands the first signal is
    stored, and a second one acts at once.

    Args:
        seconds: from now on, after which the command gets a SIGTERM, as if this process had; None: never.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self.time_is_out = False
        self.unwanted: Callable[[], bool] = lambda: False  # asked every few seconds; if so, the command is killed

    def __enter__(self) -> CommandRunner:
        self.number = 0
        self._process: subprocess.Popen | None = None
        handled = [*SIGNALS]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored under nohup
            handled.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._pass_on) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: list[str], held: int | None = None) -> int:
        """Runs the command to its end; returns its exit code, or 128 + the number of the signal that ended it.

        `held`: a descriptor from `utils.common.locks.hold` that the command inherits.
        """
        if self.stopped():
            return 128 + self.number
        with subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=_end_with_parent(),
            pass_fds=() if held is None else (held,),
        ) as self._process:
            if self.number:  # the signal came before there was a process to forward it to
                self._process.send_signal(_for_scripts(self.number))
            code, asked = None, time.monotonic()
            while code is None:
                # Waits with a timeout: a signal that comes just before the wait, or in another thread, would otherwise
                # not be noticed until the command has ended.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(timeout=1)
                self.stopped()
                if code is None and time.monotonic() - asked > _ASK:
                    asked = time.monotonic()
                    if self.unwanted():
                        self._process.kill()
        self._process = None
        return code if code >= 0 else 128 - code

    def stopped(self) -> bool:
        """Whether a signal was received or the time limit is reached; if so, the running command is stopped."""
        if not self.number and self._until is not None and time.monotonic() > self._until:
            self.time_is_out = True
            self._pass_on(signal.SIGTERM, None)
        return bool(self.number)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._process:
            self._process.send_signal(_for_scripts(number))
        elif self.number and time.monotonic() - self._since > SAME_SIGNAL_SECONDS:
            self._restore()
            signal.raise_signal(number)
        if not self.number:
            self.number, self._since = number, time.monotonic()


def _for_scripts(number: int) -> int:
    """The signal to forward: the scripts save at SIGINT and SIGTERM, so SIGHUP is replaced by SIGTERM."""
    return number if number in SIGNALS else signal.SIGTERM


def _end_with_parent() -> Callable[[], None] | None:
    """A function for the process of the command that requests a SIGTERM when this process ends (on Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it ended in between
            os._exit(128 + signal.SIGTERM)

    return ask
