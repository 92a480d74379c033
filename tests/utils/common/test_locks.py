"""Two processes, one folder: the second waits or is refused; where the system has no locks it is said once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from utils.common import locks
from utils.common.errors import UserError
from utils.common.files import LEFT_BEHIND, replacing

ROOT = Path(__file__).resolve().parents[3]
HOLDS = """
import sys, time
from pathlib import Path
from utils.common.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
fcntl = pytest.importorskip("fcntl")


def start(folder, seconds):
    """A process that holds the folder for so long."""
    command = [sys.executable, "-c", HOLDS, str(folder), str(seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "PATIENCE", 0)
    with start(tmp_path / "run", 60) as process:
        with (
            pytest.raises(UserError, match=rf"another process writes to .*run \(process {process.pid} on "),
            locks.hold(tmp_path / "run"),
        ):
            pass
        assert "waiting for another process" in capsys.readouterr().out
        with locks.hold(tmp_path / "other"):
            pass
        process.send_signal(signal.SIGKILL)
    with locks.hold(tmp_path / "run"):
        pass


def test_a_second_process_waits_for_one_that_is_saving(tmp_path):
    with start(tmp_path, 0.5), locks.hold(tmp_path):
        pass


def test_a_holder_of_before_says_nothing(tmp_path):
    for _ in range(2):
        with locks.hold(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    (tmp_path / ".lock").write_bytes(b"\xff" * 1000)
    with locks.hold(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_it_says_so_once_and_goes_on_at_once(tmp_path, monkeypatch, capsys, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    for _ in range(2):
        with locks.hold(tmp_path) as held:
            assert held is None
    said = capsys.readouterr().out
    assert said.count("cannot be locked") == 1 and os.strerror(code) in said


def test_another_error_is_one(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"cannot lock .*\.lock: Input/output error"), locks.hold(tmp_path):
        pass


def test_only_the_writer_of_a_job_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0)
    with locks.hold(tmp_path):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with locks.hold(tmp_path) as held:
            assert held is None


def test_what_a_killed_process_has_left_is_removed_by_the_next_holder(tmp_path):
    left = tmp_path / ".last.pth.123-abcd.writing"
    left.write_bytes(b"half")
    (tmp_path / "mine.writing").write_bytes(b"")
    with locks.hold(tmp_path):
        assert not left.exists() and (tmp_path / "mine.writing").exists()


def test_writers_of_one_file_do_not_meet(tmp_path):
    """As two runs without locks: whoever is last, the file is whole."""
    path = tmp_path / "last.pth"

    def write(number):
        for _ in range(20):
            with replacing(path) as beside:
                beside.write_bytes(bytes([number]) * 100_000)
            assert len(set(path.read_bytes())) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert not list(tmp_path.glob(LEFT_BEHIND))


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "ü" * 125 + ".png", "😀" * 62 + ".png"])
def test_names_as_long_as_a_file_system_takes(tmp_path, name):
    with replacing(tmp_path / name) as beside:
        beside.write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
