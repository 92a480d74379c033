"""Claims, so that only one process does a piece of work: files in a shared folder, without file locks.

A claim is a file, created exclusively (O_EXCL): `NAME.1`, with its owner's host, process and start time, and a token as
soon as no other live claim is found. The owner touches it while it works and removes it at the end. A claim whose owner
has died is not removed by others: who takes over creates the next one, `NAME.2`, and of two that try the system lets
one succeed. What stands is the live claim.

Whether an owner is alive: on its own host the system is asked for the process and its start time; of other hosts the
file's age decides, by the clock of the disk that it is on.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from utils.common.errors import UserError
from utils.common.files import writing

BEAT = 20.0  # seconds between two touches of a claim
SILENCE = 600.0  # seconds without a touch after which an owner on another host counts as dead
PATIENCE = 60.0  # seconds that `waiting_for` waits


class Claim:
    """A claim that this process holds; within its context it is touched, at the end it is removed."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self._token = path, token
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claim:
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beats.join()
        if self.held():
            base, number = _split(self.path)
            for path, other in _standing(self.path.parent, base):
                if other < number:  # of owners that have died
                    path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether the claim is still this process's: another host takes over what has been silent for too long."""
        own = (_owner(self.path) or {}).get("token") == self._token
        base, number = _split(self.path)
        higher = [path for path, other in _standing(self.path.parent, base) if other > number]
        # A file without a token is that of a process that is about to see this one and to give way.
        return own and not any("token" in (_owner(path) or {}) and _is_alive(path) for path in higher)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a disk that does not answer for a while; a claim that was taken over
                os.utime(self.path)


def take(folder: Path, name: str) -> Claim | None:
    """Claims `name` in the folder, which is created if missing; returns None while a live process holds the claim.

    Raises:
        UserError: if the folder cannot be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        standing = _standing(folder, name)
        if any(_is_alive(path) for path, _ in standing):
            return None
        path = folder / f"{name}.{max((number for _, number in standing), default=0) + 1}"
        token = secrets.token_hex(8)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _write(file, this := _this_process())
            # Each of two that have both created one, having looked at different moments, sees the other's here.
            if any(_is_alive(other) for other, _ in _standing(folder, name) if other != path):
                path.unlink(missing_ok=True)
                return None
            _write(file, {**this, "token": token})
    return Claim(path, token)


def _write(file: TextIO, owner: dict[str, Any]) -> None:
    """Writes the content of a claim in place of the one before."""
    file.seek(0)
    file.truncate()
    json.dump(owner, file)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def waiting_for(folder: Path, name: str) -> Iterator[Claim]:
    """A claim that others hold for moments only.

    Raises:
        UserError: if it is not free within `PATIENCE`, or the folder cannot be written to.
    """
    until = time.monotonic() + PATIENCE
    while (claim := take(folder, name)) is None:
        if time.monotonic() > until:
            raise UserError(f"{folder / name} is held by {holder(folder, name)}: wait for its end, and start again")
        time.sleep(random.uniform(0.02, 0.1))
    with claim:
        yield claim


def holder(folder: Path, name: str) -> str | None:
    """The holder of a claim, in words; None if no live process holds it."""
    for path, _ in _standing(folder, name):
        if _is_alive(path):
            owner = _owner(path) or {}
            return f"process {owner.get('pid', 'unknown')} on {owner.get('node', 'an unknown host')}"
    return None


def _split(path: Path) -> tuple[str, int]:
    base, _, number = path.name.rpartition(".")
    return base, int(number)


def _standing(folder: Path, name: str) -> list[tuple[Path, int]]:
    """The files of a claim, and their numbers."""
    found = []
    for entry in os.listdir(folder) if folder.is_dir() else []:  # noqa: PTH208 - names alone, thousands of times
        base, _, number = entry.rpartition(".")
        if base == name and number.isdecimal():
            found.append((folder / entry, int(number)))
    return found


def _owner(path: Path) -> dict[str, Any] | None:
    """The content of a claim; None if the file is missing, or not written yet."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def _is_alive(path: Path) -> bool:
    owner = _owner(path)
    this = _this_process()
    if owner and this["started"] and owner.get("host") == this["host"]:
        return isinstance(owner.get("pid"), int) and _started(owner["pid"]) == owner.get("started")
    try:
        return _now(path.parent) - path.stat().st_mtime < SILENCE
    except FileNotFoundError:
        return False


def _now(folder: Path) -> float:
    """The time by the clock that the folder's files are dated with, which may be a server's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.stat(file.name).st_mtime  # noqa: PTH116 - one call for one number


def _this_process() -> dict[str, Any]:
    """`host` is what process numbers are unique in: a machine since its start, and in it a container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # not on Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return {"node": parts[0], "host": " ".join(parts), "pid": os.getpid(), "started": _started(os.getpid())}


def _started(pid: int) -> str | None:
    """When a process began, in the system's ticks; None if it has ended, or where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
