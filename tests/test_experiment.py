"""reproduce.py --experiment on a dozen sample images; the scripts run inside this process, or few others."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import in_process
import pytest
import waiting

import reproduce
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.signals import Stopped
from utils.reproduction import claims, work
from utils.reproduction.per_image_files import read_per_image
from utils.reproduction.result_lines import read, run_of
from utils.reproduction.run_scripts import CommandRunner

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "experiments" / "smoke.yaml"
MINI = """
data: {base_dir: DataSet/sample}
divisions: 1
seeds: [41]
seg_epochs: 1
flags: {variant: srs_tiny, img_size: 16, batch_size: 4, workers: 0, threads: 1, amp: off}
arms:
  none: {dynamic: none}
"""
TWO_ARMS = """
data: {base_dir: DataSet/sample, train_file: "train{}.txt", val_file: "val{}.txt", test_file: "test{}.txt"}
divisions: 1
seeds: [41]
recon_epochs: 1
seg_epochs: 1
flags: {variant: srs_tiny, img_size: 16, batch_size: 4, workers: 0, threads: 1, amp: off}
arms:
  none: {dynamic: none}
  dpconv: {dynamic: dpconv}
code: [swap]
"""
EVALUATIONS = ["evaluation"] * 4
STEPS = ["train_seg", *EVALUATIONS, "train_recon", "train_seg", *EVALUATIONS, "evaluation"]


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        in_process.shallow_networks(patch)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, count=12, size=32)
    names = sorted(path.stem for path in (base / "images").iterdir())
    for division in (1, 2):
        shifted = names[division:10] + names[:division]
        for name, chosen in (("train", shifted[:7]), ("val", shifted[:6:-1]), ("test", names[10:])):
            (base / f"{name}{division}.txt").write_text("".join(f"{each}\n" for each in chosen))
    return base


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "trial.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def ran(monkeypatch):
    """Has the scripts run inside this process; returns what ran."""
    return in_process.run_inside(monkeypatch, [])


@pytest.fixture
def failing(monkeypatch):
    """Has every script fail at once; returns what was tried: the script, and the folder of its experiment."""
    tried = []

    def fail(runner, command, held):
        (folder,) = [Path(flag.partition("=")[2]) for flag in command if flag.startswith("--output_dir")]
        tried.append((Path(command[1]).stem, folder.parent.name))
        return 2

    monkeypatch.setattr(CommandRunner, "run", fail)
    return tried


def call(file, base, out, *more):
    flags = ["--experiment", str(file), "--base_dir", str(base), "--output_dir", str(out / "runs")]
    reproduce.main(reproduce.settings([*flags, "--results_dir", str(out / "results"), *more]))


def scripts(calls):
    return [script for script, _ in calls]


def lines(out, name="trial"):
    return {run_of(line): line for line in read(out / "results" / f"{name}.jsonl")}


def comparable(line):
    """What two calculations of a run must have alike."""
    return {name: value for name, value in line.items() if name not in {"seconds", "commit"}}


def check_images(out, base, line):
    """That the figures of a line are the means of its file's, and the file in the order of the lists."""
    tables = read_per_image(out / "results" / line["per_image"])
    assert list(tables) == [(on, rule) for on in line["figures"] for rule in ("best", "last")]
    for (on, rule), images in tables.items():
        assert images.names == (base / f"{on}1.txt").read_text().split()
        figures = line["figures"][on][rule]
        assert figures["images"] == len(images.names)
        for name in ("iou", "SE", "dice"):
            assert statistics.fmean(images.columns[name]) == pytest.approx(figures[name], rel=1e-8)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """The folder of a whole call of MINI, which the tests leave as it is; what ran; the settings of the evaluation."""
    out = tmp_path_factory.mktemp("finished")
    (out / "trial.yaml").write_text(MINI)
    with pytest.MonkeyPatch.context() as patch:
        calls = in_process.run_inside(patch, [])
        call(out / "trial.yaml", base, out)
    (summary,) = (out / "runs").glob("none/*/evaluation/last-val1/summary.json")
    used = json.loads(summary.read_text())["settings"]
    shutil.rmtree(out / "runs")  # a finished run is not run again, wherever its files are
    return out, calls, used


def test_a_finished_run_leaves_its_line_and_is_not_run_again(finished, write, base, failing):
    out, calls, used = finished
    assert scripts(calls) == ["train_seg", "evaluation", "evaluation"]
    assert calls[0][1] == out / "runs" / "none" / "division1-seed41"
    (line,) = lines(out).values()
    assert line["encoder"] is None and line["settings"]["recon"] is None and line["code"] is None
    assert line["network"]["parameters"]["frozen"] == 0 < line["network"]["parameters"]["trained"]
    assert line["network"]["macs"] > 1e4 and line["curve"]["epoch"] == [1] and line["epochs"] == {"best": 1, "last": 1}
    assert str(base) not in json.dumps(line) and str(out) not in json.dumps(line)
    check_images(out, base, line)
    recorded, views = line["settings"]["evaluation"], {"tta": False, "tile": None, "overlap": None}
    assert recorded["resize"] == "img_size" and recorded["variant"] == "srs_tiny" and "workers" not in recorded
    assert recorded == {name: {**views, **used}[name] for name in recorded}
    assert (out / "results" / "trial.csv").is_file() and "none" in (out / "results" / "trial.md").read_text()
    before = (out / "results" / "trial.jsonl").read_bytes()
    call(write(MINI), base, out)
    assert failing == [] and (out / "results" / "trial.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seg_epochs: 1", "seg_epochs: 3", r"seg epochs 1 \(now 3\)"),
        ("dynamic: none", "dynamic: static", r"arm none.*seg dynamic none \(now static\)"),
        ("data: {", "data: {val_file: test1.txt, ", "another val list"),
        ("data: {", "data: {test_file: test1.txt, ", "another test list"),
        ("dynamic: none", "dynamic: none, evaluation: {resize: back}", r"evaluation resize img_size \(now back\)"),
        ("dynamic: none", "dynamic: none, evaluation: {tta: true}", r"evaluation tta False \(now True\)"),
    ],
)
def test_a_line_of_other_settings_or_lists_is_refused(finished, write, base, failing, old, new, message):
    with pytest.raises(UserError, match=rf"trial\.jsonl: the line of .*{message}.*Remove such lines"):
        call(write(MINI.replace(old, new)), base, finished[0])
    assert failing == []


def test_a_line_of_another_training_list_is_refused(finished, write, base, failing, tmp_path):
    shutil.copytree(base, tmp_path / "data")
    path = tmp_path / "data" / "train1.txt"
    names = path.read_text().split()
    path.write_text("".join(f"{name}.png\n" for name in reversed(names)))  # the same cases
    call(write(MINI), tmp_path / "data", finished[0])
    path.write_text("\n".join(names[:-1]))
    with pytest.raises(UserError, match=r"the line of arm none.*data: another train list\. Remove such lines"):
        call(write(MINI), tmp_path / "data", finished[0])
    path.unlink()  # the results alone are on this machine
    call(write(MINI), tmp_path / "data", finished[0])
    assert failing == []


def test_a_line_of_other_masks_is_refused(finished, write, base, failing, tmp_path):
    shutil.copytree(base, tmp_path / "data")
    mask = next(path for path in (tmp_path / "data" / "masks").iterdir())
    mask.write_bytes(mask.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"the line of arm none.*data: other files of the (train|val|test) list"):
        call(write(MINI), tmp_path / "data", finished[0])
    assert failing == []


def test_a_line_of_before_the_settings_of_evaluations_were_recorded(finished, write, base, failing, tmp_path):
    shutil.copytree(finished[0] / "results", tmp_path / "results")
    (line,) = lines(tmp_path).values()
    del line["settings"]["evaluation"]
    (tmp_path / "results" / "trial.jsonl").write_text(json.dumps(line) + "\n")
    call(write(MINI), base, tmp_path)
    with pytest.raises(UserError, match="another val list"):
        call(write(MINI.replace("data: {", "data: {val_file: test1.txt, ")), base, tmp_path)
    assert failing == []


@pytest.mark.long
def test_arms_share_a_phase_1_and_what_was_lost_is_made_again(write, base, ran, tmp_path):
    file = write(TWO_ARMS)
    call(file, base, tmp_path)
    assert scripts(ran) == STEPS
    assert [path.parent.name for script, path in ran if script == "train_recon"] == ["encoders"]
    none, dpconv = before = [*lines(tmp_path).values()]
    assert len(dpconv["encoder"]) == 64 and dpconv["settings"]["recon"]["epochs"] == 1
    assert dpconv["code"]["swap"]["list"] == "test" and "iou" in dpconv["code"]["swap"]["figures"]
    frozen = [line["network"]["parameters"]["frozen"] for line in before]
    assert frozen[1] > frozen[0] == 0 and dpconv["network"]["macs"] > none["network"]["macs"]
    assert dpconv["protocol"]["test"]["best"]["epoch_rule"] == "best iou, chosen on another list"
    for line in before:
        assert line["seconds"]["evaluation"] > 0
        check_images(tmp_path, base, line)

    path, images = tmp_path / "results" / "trial.jsonl", tmp_path / "results" / none["per_image"]
    content = images.read_bytes()
    path.write_text(json.dumps(none) + "\n")  # the second line is lost, and the first one's file of images
    images.unlink()
    ran.clear()
    call(file, base, tmp_path)
    assert ran == [] and images.read_bytes() == content
    assert [comparable(line) for line in lines(tmp_path).values()] == [comparable(line) for line in before]
    assert lines(tmp_path)["dpconv", 1, 41]["seconds"]["evaluation"] is None  # this process has not evaluated

    call(write(TWO_ARMS.replace("[swap]", "[swap, zero]")), base, tmp_path)
    assert scripts(ran) == ["evaluation"] and [*lines(tmp_path)["dpconv", 1, 41]["code"]] == ["swap", "zero"]


def test_dry_run_shows_commands_and_the_time_to_come(write, base, ran, tmp_path, capsys):
    call(write(TWO_ARMS), base, tmp_path, "--dry_run")
    shown = capsys.readouterr().out
    assert shown.count(": to do\npython ") == len(STEPS) and f"--base_dir={base}" in shown and ran == []
    assert "2 runs are unfinished" in shown and "3 trainings of which no epoch was timed" in shown
    assert not (tmp_path / "runs").exists() and not (tmp_path / "results").exists()


def test_what_another_process_has_claimed_is_left_to_it_until_it_has_gone(
    write, base, failing, tmp_path, monkeypatch, capsys
):
    held = claims.take(tmp_path / "runs" / "claims", "none-division1-seed41").__enter__()
    looks = []

    def look(*_):
        looks.append(1)
        if len(looks) == 2:
            held.__exit__()  # it has ended, and has not done the run

    monkeypatch.setattr(work, "_sleep", look)
    with pytest.raises(UserError, match="arm none, division 1, seed 41, phase 2 failed"):
        call(write(TWO_ARMS), base, tmp_path)
    assert [script for script, _ in failing] == ["train_recon", "train_seg"] and len(looks) == 2
    waits = f"waiting for arm none, division 1, seed 41 (process {os.getpid()} on "
    assert capsys.readouterr().out.count(waits) == 1
    assert [*(tmp_path / "runs" / "claims").iterdir()] == []


def test_a_phase_1_that_another_process_trains_is_waited_for(write, base, failing, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="phase 1 failed"):
        call(write(TWO_ARMS), base, tmp_path, "--arms", "dpconv")
    (name,) = (path.name for path in (tmp_path / "runs" / "encoders").iterdir())
    held = claims.take(tmp_path / "runs" / "encoders", f"{name}.claim").__enter__()
    monkeypatch.setattr(work, "_sleep", lambda *_: held.__exit__())
    failing.clear()
    with pytest.raises(UserError, match="phase 1 failed"):
        call(write(TWO_ARMS), base, tmp_path)
    assert failing == [("train_seg", "none"), ("train_recon", "encoders")]  # the other arm first
    assert "waiting for phase 1 of arm dpconv, division 1, seed 41 (process " in capsys.readouterr().out


def test_what_fails_is_tried_once_and_does_not_keep_the_others_from_being_run(write, base, failing, tmp_path):
    three = write(TWO_ARMS.replace("code:", "  gate: {dynamic: gate}\ncode:"))
    with pytest.raises(UserError, match=r"arm none.*, phase 2 failed: see its message.*; arm dpconv.*, phase 1 failed"):
        call(three, base, tmp_path)
    assert failing == [("train_seg", "none"), ("train_recon", "encoders")]  # whose encoder is gate's as well


def test_the_budget_stops_as_a_signal_does(write, base, ran, tmp_path):
    with pytest.raises(Stopped, match=r"--budget is used up: stopped before arm none.* \(2 runs are unf") as stopped:
        call(write(TWO_ARMS), base, tmp_path, "--budget", "0.0000001")
    assert stopped.value.number == signal.SIGTERM and ran == []


@contextmanager
def worker(base, out, log):
    """A process that runs smoke.yaml; what it says goes into a file, since nobody reads a pipe meanwhile."""
    flags = ["--experiment", str(SMOKE), "--base_dir", str(base), "--output_dir", str(out / "runs")]
    command = [sys.executable, "-c", "import in_process; in_process.main()", *flags, f"--results_dir={out / 'results'}"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    with (
        log.open("w") as file,
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stdout=file, stderr=file) as process,
    ):
        yield process
        waiting.finish(process)


def table(out):
    """The CSV table, without what takes another time each time."""
    rows = list(csv.DictReader((out / "results" / "smoke.csv").open()))
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


@pytest.mark.long
def test_killed_stopped_and_shared_by_two_it_gives_the_table_of_one_that_was_left_alone(base, ran, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    call(SMOKE, base, alone)
    moments = {  # in a phase 1; in a phase 2 with an encoder, or soon after; with the third line
        lambda: any(shared.glob("runs/encoders/*/recon/settings.txt")): signal.SIGKILL,
        lambda: any(shared.glob("runs/dpconv/*/seg/settings.txt")): signal.SIGTERM,
        lambda: len(lines(shared, "smoke")) >= 3: signal.SIGKILL,
    }
    for has_come, number in moments.items():
        with worker(base, shared, log := tmp_path / "log") as process:
            waiting.wait_for(has_come, process)
            process.send_signal(number)
        assert process.returncode == (128 + number if number == signal.SIGTERM else -number), log.read_text()
    before = len(lines(shared, "smoke"))
    logs = [tmp_path / "one", tmp_path / "other"]
    with worker(base, shared, logs[0]) as one, worker(base, shared, logs[1]) as other:
        pass
    outputs = [log.read_text() for log in logs]
    assert (one.returncode, other.returncode) == (0, 0), outputs
    done = [title for output in outputs for title in re.findall("^(.*): done, its line is in", output, re.MULTILINE)]
    assert len(done) == len(set(done)) == 8 - before < 8  # no run was done by both
    mine, theirs = lines(shared, "smoke"), lines(alone, "smoke")
    assert len(mine) == 8 and mine.keys() == theirs.keys()
    for key, line in theirs.items():
        assert comparable(mine[key]) == comparable(line)
        images = line["per_image"]
        assert (shared / "results" / images).read_bytes() == (alone / "results" / images).read_bytes()
    assert table(shared) == table(alone)
