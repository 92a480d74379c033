"""What happens to real experiments: a run is killed, the disk is full."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
import waiting

from utils.common.run_log import read_log
from utils.networks.checkpoints import load_checkpoint

EPOCHS = 20
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def start():
    """Starts a run in a separate process that has the imports behind it already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy"])

    def start(base, folder, largest_file=None, epochs=EPOCHS):
        process = context.Process(target=toy.run_in_process, args=(base, folder, largest_file, epochs))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy.make_data(tmp_path_factory.mktemp("faults") / "data")


@pytest.fixture(scope="module")
def whole(start, base, tmp_path_factory):
    """A run that nothing happened to, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    process = start(base, folder)
    assert waiting.join(process) == [0]
    return folder, time.monotonic() - started


@pytest.mark.long
def test_killed_at_20_moments_it_loses_the_epoch_in_flight_at_most(start, base, whole, tmp_path):
    reference, duration = whole
    rng = np.random.default_rng(0)
    folder, interrupted_running = tmp_path / "run", 0
    for _ in range(20):
        process = start(base, folder)
        process.join(rng.uniform(0, 0.4 * duration))
        interrupted_running += process.is_alive()
        process.kill()
        process.join()
        logged = read_log(folder / "log.jsonl")
        if (folder / "last.pth").exists():
            # The log is written first: it may be ahead of the checkpoint by the epoch in flight.
            assert logged[-1]["epoch"] - load_checkpoint(folder / "last.pth", "toy")["epoch"] in (0, 1)
            load_checkpoint(folder / "best.pth", "toy")
        else:
            assert len(logged) <= 1
    assert interrupted_running >= 3, "the moments were chosen too late to interrupt anything"
    process = start(base, folder)
    assert waiting.join(process) == [0]
    ends = [load_checkpoint(path / "last.pth", "toy") for path in (reference, folder)]
    assert all(torch.equal(value, ends[1]["model"][name]) for name, value in ends[0]["model"].items())
    assert ends[0]["best"] == ends[1]["best"]
    figures = [
        [(line["epoch"], line["train"], line["val"]) for line in read_log(path / "log.jsonl")]
        for path in (reference, folder)
    ]
    assert figures[0] == figures[1]


def run_script_of_toy(base, folder, *more):
    """As a script runs: errors are printed, the exit code tells."""
    code = (
        "import sys; from pathlib import Path; import toy; from utils.common.script import run_script; "
        "run_script(lambda args: toy.run_in_process(*args), lambda: "
        f"(Path({str(base)!r}), Path({str(folder)!r}), {', '.join(map(str, more))}))"
    )
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join([str(root), str(root / "tests" / "helpers")])
    environment = {**os.environ, "PYTHONPATH": path}
    return waiting.run([sys.executable, "-c", code], env=environment)


def test_a_file_that_cannot_be_written_ends_the_run_and_costs_nothing(base, tmp_path):
    assert run_script_of_toy(base, tmp_path, None, 2).returncode == 0
    for path in tmp_path.glob("tensorboard/*"):
        path.unlink()  # so that the checkpoint is what meets the limit
    before = {name: (tmp_path / name).read_bytes() for name in ("best.pth", "last.pth")}
    # The system refuses to write beyond this size, as it does on a full disk.
    limit = min(map(len, before.values())) - 100
    (tmp_path / "last.pth").write_bytes(before["last.pth"])
    done = run_script_of_toy(base, tmp_path / "other", limit, 2)
    assert done.returncode == 2, done.stderr
    assert "error: cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "other").glob("*.pth")) and not list((tmp_path / "other").glob(".*"))
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if (
        not sys.platform.startswith("linux")
        or os.geteuid() != 0
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs; the limit on file sizes above is tested everywhere")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.long
def test_a_full_disk_ends_the_run_and_every_checkpoint_loads(base, small_disk):
    done = run_script_of_toy(base, small_disk / "run", None, 1)
    assert done.returncode == 0, done.stderr
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    checkpoints = {path: path.read_bytes() for path in (small_disk / "run").glob("*.pth")}
    assert len(checkpoints) == 2
    done = run_script_of_toy(base, small_disk / "run2", None, 1)
    assert done.returncode == 2 and "No space left" in done.stderr and "Traceback" not in done.stderr
    for path, content in checkpoints.items():
        assert path.read_bytes() == content
        load_checkpoint(path, "toy")
    filler.unlink()
    assert run_script_of_toy(base, small_disk / "run2", None, 1).returncode == 0


@pytest.mark.long
def test_a_read_only_folder_ends_the_run_and_costs_nothing(base, small_disk):
    assert run_script_of_toy(base, small_disk / "run", None, 1).returncode == 0
    before = {path: path.read_bytes() for path in (small_disk / "run").glob("*.pth")}
    assert len(before) == 2
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for folder in ("run", "new"):
        done = run_script_of_toy(base, small_disk / folder, None, 1)
        assert done.returncode == 2 and "error: cannot write" in done.stderr
        assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in before} == before
