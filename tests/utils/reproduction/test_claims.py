"""Claims: files that say who does a piece of work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import waiting

from utils.common.errors import UserError
from utils.reproduction import claims
from utils.reproduction.claims import holder, take, waiting_for

ROOT = Path(__file__).resolve().parents[3]
TAKER = """
import sys, time
from pathlib import Path
from utils.reproduction.claims import take
folder, start = Path(sys.argv[1]), Path(sys.argv[2])
while not start.exists():
    time.sleep(0.001)
claim = take(folder, "run")
(folder / f"{'won' if claim else 'lost'}-{sys.argv[3]}").touch()
time.sleep(600)  # it is killed before
"""


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def foreign(folder, name="run.1", age=0.0, **owner):
    """A claim of a process on another host, touched so many seconds ago."""
    path = folder / name
    path.write_text(json.dumps({"node": "other", "host": "other x", "pid": 1, "started": "5", "token": "t", **owner}))
    now = claims._now(folder)
    os.utime(path, (now - age, now - age))
    return path


def test_one_holds_a_claim_until_it_ends(tmp_path):
    folder = tmp_path / "claims"
    with take(folder, "run") as claim:
        assert claim.held() and files(folder) == ["run.1"]
        assert take(folder, "run") is None and holder(folder, "run").startswith(f"process {os.getpid()} on ")
        with take(folder, "ru") as other:  # another piece of work
            assert other.held()
    assert files(folder) == [] and holder(folder, "run") is None


def test_of_a_process_that_has_ended_the_claim_is_taken_over(tmp_path):
    code = "import sys, os; from pathlib import Path; from utils.reproduction.claims import take\n"
    code += "take(Path(sys.argv[1]), 'run'); os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    assert files(tmp_path) == ["run.1"] and holder(tmp_path, "run") is None
    with take(tmp_path, "run") as claim:
        assert claim.held() and files(tmp_path) == ["run.1", "run.2"] and take(tmp_path, "run") is None
    assert files(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="elsewhere the age of the file decides")
def test_a_number_that_another_process_has_got_is_no_sign_of_life(tmp_path):
    foreign(tmp_path, **{**claims._this_process(), "started": "1"})
    with take(tmp_path, "run") as claim:
        assert claim.held()


@pytest.mark.parametrize("content", [None, "", "[1]", '{"host": 3}'])
def test_of_other_hosts_and_of_claims_that_say_nothing_the_age_decides(tmp_path, content):
    path = foreign(tmp_path, age=claims.SILENCE - 60)
    if content is not None:
        times = path.stat().st_atime, path.stat().st_mtime
        path.write_text(content)
        os.utime(path, times)
    assert take(tmp_path, "run") is None and "run.1" in files(tmp_path)
    now = claims._now(tmp_path)
    os.utime(path, (now, now - claims.SILENCE - 1))
    with take(tmp_path, "run") as claim:
        assert claim.held()


def test_who_was_silent_for_too_long_learns_that_another_has_taken_over(tmp_path):
    with take(tmp_path, "run") as claim:
        foreign(tmp_path, "run.2")
        assert not claim.held()
    assert files(tmp_path) == ["run.1", "run.2"]  # neither is this process's to remove


def test_of_two_that_looked_at_different_moments_one_gives_way(tmp_path, monkeypatch):
    """This process saw no claim; before it has created its own, another one has."""
    create, calls = os.open, []

    def late(path, flags, *mode):
        if flags & os.O_EXCL and "run" in str(path) and not calls:
            calls.append(path)
            foreign(tmp_path, "run.7")
        return create(path, flags, *mode)

    monkeypatch.setattr(claims.os, "open", late)
    assert take(tmp_path, "run") is None and files(tmp_path) == ["run.7"]


def test_a_claim_stays_its_owner_s_while_a_late_process_looks_and_when_a_later_owner_has_died(tmp_path, monkeypatch):
    standing, looks = claims._standing, []

    def late(folder, name):
        """What another process sees that has looked before this claim, when a dead one was there, and then again."""
        looks.append(name)
        if len(looks) == 1:
            return [(folder / "run.5", 5)]
        monkeypatch.setattr(claims, "_standing", standing)
        assert files(folder) == ["run.1", "run.6"] and mine.held()
        return standing(folder, name)

    with take(tmp_path, "run") as mine:
        monkeypatch.setattr(claims, "_standing", late)
        assert take(tmp_path, "run") is None and len(looks) == 2 and files(tmp_path) == ["run.1"]
        foreign(tmp_path, "run.2", age=claims.SILENCE + 1)
        assert mine.held()


def test_a_claim_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.01)
    with take(tmp_path, "run") as claim:
        os.utime(claim.path, (0, 0))
        touched = lambda: claim.path.stat().st_mtime > 0  # noqa: E731
        for _ in range(1000):
            if touched():
                break
            claim._ended.wait(0.01)
        assert touched()


def test_waiting_ends_with_who_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PATIENCE", 0.05)
    with (
        take(tmp_path, "run"),
        pytest.raises(UserError, match=rf"run is held by process {os.getpid()} on"),
        waiting_for(tmp_path, "run"),
    ):
        pass


def test_of_six_processes_that_take_over_at_once_one_wins(tmp_path):
    folder = tmp_path / "claims"
    folder.mkdir()
    foreign(folder, age=claims.SILENCE + 100)
    start = tmp_path / "start"
    takers = [
        subprocess.Popen([sys.executable, "-c", TAKER, str(folder), str(start), str(i)], cwd=ROOT) for i in range(6)
    ]
    try:
        start.touch()
        waiting.wait_for(lambda: len(list(folder.glob("*-?"))) == 6, *takers[:1])
        # Two that have seen each other may both give way: then a later one wins, but never two.
        won = len(list(folder.glob("won-?")))
        assert won <= 1 and len(list(folder.glob("run.*"))) == 1 + won
    finally:
        for taker in takers:
            taker.kill()
            taker.wait()
