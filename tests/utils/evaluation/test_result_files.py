"""The files of an evaluation stand or fall together, whenever their writer is killed and whoever mixes them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from utils.common.errors import UserError
from utils.evaluation.read_results import read_evaluation
from utils.evaluation.result_files import holds_evaluation, read_summary, written_together
from utils.report.compare import find_evaluation

FILES = ("examples.png", "per_image.csv", "summary.json", "sweep.csv")


def write(folder, iou):
    """An evaluation whose every file tells its IoU."""
    with written_together(folder, {"settings": {}, "iou": iou}) as beside:
        (beside / "per_image.csv").write_text(f"name,iou\na,{iou}\n")
        (beside / "sweep.csv").write_text(f"threshold,iou\n0.5,{iou}\n")
        (beside / "examples.png").write_bytes(b"PNG" + str(iou).encode())


def told(folder):
    """The IoU of the evaluation, which its files agree on."""
    evaluation = read_evaluation(folder)
    assert evaluation.columns["iou"] == [evaluation.summary["iou"]]
    return evaluation.summary["iou"]


def test_what_a_writer_leaves(tmp_path):
    for iou in (0.5, 0.75):
        write(tmp_path / "best-val", iou)
        assert told(tmp_path / "best-val") == iou
        assert sorted(path.name for path in (tmp_path / "best-val").iterdir()) == sorted(FILES)
    assert sorted(read_summary(tmp_path / "best-val")["files"]) == [name for name in FILES if name != "summary.json"]


def killed_at(number, folder, iou):
    """Writes in a process that ends, as by SIGKILL, before its `number`-th step on the disk; whether it got there."""
    child = os.fork()
    if child == 0:
        steps = iter(range(1, 1000))

        def counted(step):
            def call(*args, **more):
                if next(steps) == number:
                    os._exit(9)
                return step(*args, **more)

            return call

        for name in ("replace", "rename", "rmdir", "write_text", "write_bytes", "mkdir"):
            setattr(Path, name, counted(getattr(Path, name)))
        os.fsync = counted(os.fsync)
        write(folder, iou)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("first", [True, False])
def test_a_killed_writer_leaves_the_old_results_or_the_new_ones(tmp_path, first):
    ends, number = [], 1
    while True:
        folder = tmp_path / str(number) / "evaluation" / "best-val"
        if not first:
            write(folder, 0.25)
        if not killed_at(number, folder, 0.75):
            break
        ends.append(told(folder) if holds_evaluation(folder) else None)
        if ends[-1]:
            assert find_evaluation(tmp_path / str(number)) == folder and read_summary(folder)["iou"] == ends[-1]
        write(folder, 0.5)
        assert told(folder) == 0.5 and not (folder / ".new").exists()
        number += 1
    switch = ends.index(0.75)
    assert ends == [None if first else 0.25] * switch + [0.75] * (len(ends) - switch)
    assert switch >= 8 and len(ends) - switch == 5  # before each of four moves, and before the empty folder goes


def test_a_mixture_is_refused_and_says_so(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, iou in ((a, 0.5), (b, 0.75)):
        write(folder, iou)
    shutil.copy(b / "per_image.csv", a / "per_image.csv")
    for read in (read_evaluation, read_summary):
        with pytest.raises(UserError, match=r"a: per_image\.csv and summary\.json belong to different evaluations"):
            read(a)
    assert told(b) == 0.75
    (b / "examples.png").unlink()  # taken away, not mixed
    assert told(b) == 0.75


def test_an_evaluation_of_before_the_hashes_is_read(tmp_path):
    (tmp_path / "per_image.csv").write_text("name,iou\na,0.5\n")
    (tmp_path / "summary.json").write_text(json.dumps({"iou": 0.5}))
    assert told(tmp_path) == 0.5


def test_a_fault_while_writing_costs_nothing(tmp_path):
    write(tmp_path, 0.5)
    with pytest.raises(RuntimeError), written_together(tmp_path, {}) as beside:
        (beside / "per_image.csv").write_text("half")
        raise RuntimeError
    assert told(tmp_path) == 0.5 and sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_reader_beside_a_writer_sees_one_evaluation(tmp_path):
    write(tmp_path, 0.0)
    done = threading.Event()

    def keep_writing():
        for i in range(30):
            write(tmp_path, i / 32)
        done.set()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    seen = []
    while not done.is_set():
        seen.append(told(tmp_path))
    writer.join()
    assert seen == sorted(seen) and told(tmp_path) == 29 / 32
