"""Waiting for other processes for as long as they compute: a busy machine is slow, and no deadline knows how slow.

    done = run([sys.executable, "train_seg.py"])              # subprocess.run, text captured
    wait_for(path.exists, process)                            # until then the process has to live, and to compute
    output, errors = finish(process)

A process is given up when it, and those that it has started, have used less than `LEAST` seconds of a core while this
one has waited for `PATIENCE` seconds; time in which this one is stopped as well does not count.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LEAST, PATIENCE = 0.5, 120.0
POLL = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """Whether processes, and those that they have started, still compute.

    launcher: they wait for others themselves, and their own time does not count once they have started one. (torchrun
    looks after its processes thirty times a second.)
    """

    def __init__(self, *pids: int, launcher: bool = False) -> None:
        self.pids, self.launcher = pids, launcher
        self.used, self.waited = 0.0, 0.0

    def look(self, seconds: float) -> None:
        """Says that `seconds` more have been waited.

        Raises:
            AssertionError: if the processes hang; they are killed before.
        """
        self.waited += seconds
        used = self._cpu_seconds()
        if abs(used - self.used) >= LEAST:  # less, where one of them has ended
            self.used, self.waited = used, 0.0
        elif self.waited > PATIENCE:
            for pid in _all_of(*self.pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"in {PATIENCE:.0f} s the processes {self.pids} have computed for less than {LEAST} s")

    def _cpu_seconds(self) -> float:
        started = [pid for pid in _all_of(*self.pids) if pid not in self.pids]
        return sum(map(_cpu_seconds, started if self.launcher and started else [*self.pids, *started]))


def finish(process: subprocess.Popen, launcher: bool = False) -> tuple[Any, Any]:
    """What `communicate` returns, once the process has ended."""
    watch = Watch(process.pid, launcher=launcher)
    while True:
        try:
            return process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            watch.look(1)


def run(command: list[str], text: bool = True, **options: Any) -> subprocess.CompletedProcess:
    """The command's exit code and its output and errors, as text or bytes."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=text, **options) as process:
        output, errors = finish(process)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def join(*processes: BaseProcess) -> list[int | None]:
    """Their exit codes, once all have ended, or one has failed: the others, which may wait for it, are killed then."""
    watch = Watch(*(process.pid for process in processes))
    while (alive := [process for process in processes if process.is_alive()]) and not any(
        process.exitcode for process in processes
    ):
        connection.wait([process.sentinel for process in alive], timeout=1)
        watch.look(1)
    for process in alive:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def wait_for(condition: Callable[[], Any], process: subprocess.Popen, launcher: bool = False) -> None:
    """Until the condition holds; the process must not end before."""
    watch = Watch(process.pid, launcher=launcher)
    while not condition():
        assert process.poll() is None, f"it has ended before: {process.communicate()}"
        time.sleep(POLL)
        watch.look(POLL)


def _all_of(*pids: int) -> list[int]:
    """These processes and all that they have started, as far as they live; on Linux, elsewhere these alone."""
    found = []
    for pid in pids:
        found.append(pid)
        for thread in _listed(Path(f"/proc/{pid}/task")):
            try:
                children = (thread / "children").read_text().split()
            except OSError:  # it has ended
                continue
            found += _all_of(*map(int, children))
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    """Of the process and of its children that have ended. Where there is no /proc, the clock: nothing is given up."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0 if Path("/proc").is_dir() else time.monotonic()
    return sum(map(int, values[11:15])) / TICKS
