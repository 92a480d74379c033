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
import train_seg
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.signals import Stopped
from utils.reproduction import claims, work
from utils.reproduction.per_image_files import read_per_image
from utils.reproduction.result_lines import read, run_of
from utils.reproduction.run_scripts import CommandRunner

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "experiments" / "smoke.yaml"
TRIAL = """
data: {base_dir: DataSet/sample, train_file: "train{}.txt", val_file: "val{}.txt", test_file: "test{}.txt"}
divisions: 1
seeds: [41]
recon_epochs: 1
seg_epochs: 2
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
        patch.setattr(work, "LOOK", 0.05)
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


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiments") / "trial.yaml"
    path.write_text(TRIAL)
    return path


@pytest.fixture
def ran(monkeypatch):
    return in_process.run_inside(monkeypatch, [])


def call(file, base, out, *more):
    flags = ["--experiment", str(file), "--base_dir", str(base), "--output_dir", str(out / "runs")]
    reproduce.main(reproduce.settings([*flags, "--results_dir", str(out / "results"), *more]))


def scripts(calls):
    return [script for script, _ in calls]


def lines(out, name="trial"):
    return {run_of(line): line for line in read(out / "results" / f"{name}.jsonl")}


def comparable(line):
    """What two calculations of a run must have alike."""
    seconds = {"seconds", "commit"}
    return {name: value for name, value in line.items() if name not in seconds}


@pytest.fixture(scope="module")
def whole(file, base, tmp_path_factory):
    """One whole experiment, left as it is by the tests, and what it ran."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        calls = in_process.run_inside(patch, [])
        call(file, base, out)
    return out, calls


@pytest.fixture
def copy(whole, tmp_path):
    """A whole experiment that a test may change."""
    return shutil.copytree(whole[0], tmp_path / "copy")


def test_each_run_leaves_a_line_and_the_figures_of_its_images(whole, base):
    out, calls = whole
    assert scripts(calls) == STEPS
    encoders = {path.parent.name for script, path in calls if script == "train_recon"}
    assert encoders == {"encoders"} and calls[0][1] == out / "runs" / "none" / "division1-seed41"
    none, dpconv = lines(out).values()
    assert (none["arm"], dpconv["arm"]) == ("none", "dpconv")
    assert none["encoder"] is None and none["settings"]["recon"] is None and none["code"] is None
    assert len(dpconv["encoder"]) == 64 and dpconv["settings"]["recon"]["epochs"] == 1
    assert dpconv["code"]["swap"]["list"] == "test" and "iou" in dpconv["code"]["swap"]["figures"]
    parts = dpconv["network"]["parameters"], none["network"]["parameters"]
    assert parts[0]["frozen"] > 0 == parts[1]["frozen"] and dpconv["network"]["macs"] > none["network"]["macs"] > 1e4
    assert dpconv["seconds"]["evaluation"] > 0 and dpconv["curve"]["epoch"] == [1, 2]
    assert dpconv["protocol"]["test"]["best"]["epoch_rule"] == "best iou, chosen on another list"
    assert str(base) not in json.dumps(dpconv) and str(out) not in json.dumps(dpconv)
    for line in (none, dpconv):
        tables = read_per_image(out / "results" / line["per_image"])
        assert list(tables) == [(on, rule) for on in ("val", "test") for rule in ("best", "last")]
        for (on, rule), images in tables.items():
            assert images.names == (base / f"{on}1.txt").read_text().split()
            figures = line["figures"][on][rule]
            assert figures["images"] == len(images.names)
            for name in ("iou", "SE", "dice"):
                assert statistics.fmean(images.columns[name]) == pytest.approx(figures[name], rel=1e-8)
    assert (out / "results" / "trial.csv").is_file() and "dpconv" in (out / "results" / "trial.md").read_text()


def test_what_is_recorded_is_not_run_again_wherever_its_files_are(whole, file, base, ran, copy, capsys):
    before = (copy / "results" / "trial.jsonl").read_bytes()
    shutil.rmtree(copy / "runs")
    call(file, base, copy)
    call(file, base, copy, "--dry_run")
    assert ran == [] and (copy / "results" / "trial.jsonl").read_bytes() == before
    assert "# arm dpconv, division 1, seed 41: done, in " in capsys.readouterr().out


def test_a_line_that_was_lost_is_made_again_from_the_runs_files(whole, file, base, ran, copy):
    path = copy / "results" / "trial.jsonl"
    first, _ = path.read_text().splitlines()
    path.write_text(first + "\n")
    (copy / "results" / json.loads(first)["per_image"]).unlink()
    call(file, base, copy)
    assert ran == []
    for key, line in lines(whole[0]).items():
        assert comparable(lines(copy)[key]) == comparable(line) and line["seconds"]["evaluation"] is not None
        assert lines(copy)[key]["seconds"]["evaluation"] is None  # this process has not evaluated
        images = line["per_image"]
        assert (copy / "results" / images).read_bytes() == (whole[0] / "results" / images).read_bytes()


def test_a_code_that_is_asked_for_later_is_added(whole, base, ran, copy, tmp_path):
    later = tmp_path / "trial.yaml"
    later.write_text(TRIAL.replace("[swap]", "[swap, zero]"))
    call(later, base, copy)
    assert scripts(ran) == ["evaluation"] and [*lines(copy)["dpconv", 1, 41]["code"]] == ["swap", "zero"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seg_epochs: 2", "seg_epochs: 3", r"seg epochs 2 \(now 3\)"),
        ("dynamic: none", "dynamic: static", r"arm none.*seg dynamic none \(now static\)"),
        ("val{}.txt", "test{}.txt", "another val list"),
    ],
)
def test_a_line_of_another_experiment_is_refused_before_anything_runs(
    whole, base, ran, tmp_path, before, after, message
):
    other = tmp_path / "trial.yaml"
    other.write_text(TRIAL.replace(before, after))
    with pytest.raises(UserError, match=rf"trial\.jsonl: the line of .*{message}.*Remove such lines"):
        call(other, base, whole[0])
    assert ran == []


def test_dry_run_shows_commands_and_the_time_to_come(whole, file, base, ran, tmp_path, capsys):
    call(file, base, tmp_path, "--dry_run")
    shown = capsys.readouterr().out
    assert shown.count(": to do\npython ") == len(STEPS) and f"--base_dir={base}" in shown and ran == []
    assert "2 runs are not done" in shown and "3 trainings of which no epoch is known" in shown
    shutil.copytree(whole[0] / "runs" / "none", tmp_path / "runs" / "none")
    call(file, base, tmp_path, "--dry_run", "--arms", "none")
    assert re.search(
        r"1 runs are not done; their epochs so far took \d+ s; to come: about 0 s", capsys.readouterr().out
    )


def test_stopped_inside_an_epoch_it_resumes_there_to_the_same_line(whole, file, base, ran, tmp_path, monkeypatch):
    step, steps = train_seg.Segmentation.step, []

    def counted(self, model, batch):
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, model, batch)

    monkeypatch.setattr(train_seg.Segmentation, "step", counted)
    where = r"stopped in arm none, division 1, seed 41, phase 2; the same command resumes there \(1 runs are not done"
    with pytest.raises(Stopped, match=where):
        call(file, base, tmp_path, "--arms", "none")
    assert list((tmp_path / "runs" / "claims").iterdir()) == []
    call(file, base, tmp_path, "--arms", "none")
    assert comparable(lines(tmp_path)["none", 1, 41]) == comparable(lines(whole[0])["none", 1, 41])


class Releasing(list):
    """What ran; lets go of the claims that another process is to hold when the first phase 2 runs."""

    def __init__(self, *held):
        super().__init__()
        self.held = held

    def append(self, call):
        super().append(call)
        if call[0] == "train_seg":
            for claim in self.held:
                claim.__exit__()
            self.held = ()


def test_what_another_process_has_claimed_is_left_to_it(file, base, tmp_path, monkeypatch, capsys):
    """Of two arms another process holds the first, and dies: this one takes the second, and then the first as well."""
    held = claims.take(tmp_path / "runs" / "claims", "none-division1-seed41").__enter__()
    calls = in_process.run_inside(monkeypatch, Releasing(held))
    call(file, base, tmp_path)
    assert scripts(calls) == [*STEPS[5:], *STEPS[:5]]
    assert [*lines(tmp_path)] == [("dpconv", 1, 41), ("none", 1, 41)]


def test_a_phase_1_that_another_process_trains_is_waited_for(whole, file, base, ran, tmp_path, monkeypatch, capsys):
    encoders = tmp_path / "runs" / "encoders"
    (name,) = (path.name for path in (whole[0] / "runs" / "encoders").iterdir() if path.is_dir())
    held = claims.take(encoders, f"{name}.claim").__enter__()
    looks = []

    def other_process(*_):
        looks.append(1)
        if len(looks) == 2:
            shutil.copytree(whole[0] / "runs" / "encoders" / name, encoders / name)
            held.__exit__()

    monkeypatch.setattr(work, "_sleep", other_process)
    call(file, base, tmp_path)
    assert scripts(ran) == [step for step in STEPS if step != "train_recon"] and len(looks) == 2
    shown = capsys.readouterr().out
    waits = f"waiting for phase 1 of arm dpconv, division 1, seed 41 (process {os.getpid()} on "
    assert shown.count(waits) == 1
    assert {key: comparable(line) for key, line in lines(tmp_path).items()} == {
        key: comparable(line) for key, line in lines(whole[0]).items()
    }


def test_a_run_that_fails_does_not_keep_the_others_from_being_run(file, base, tmp_path, monkeypatch):
    calls = in_process.run_inside(monkeypatch, [])
    inside = CommandRunner.run

    def fails(runner, command, held):
        return 2 if "--dynamic=none" in command else inside(runner, command, held)

    monkeypatch.setattr(CommandRunner, "run", fails)
    with pytest.raises(UserError, match="arm none, division 1, seed 41, phase 2 has failed: its message stands above"):
        call(file, base, tmp_path)
    assert scripts(calls) == STEPS[5:] and [*lines(tmp_path)] == [("dpconv", 1, 41)]


def test_a_phase_1_that_fails_fails_once_for_all_arms(base, tmp_path, monkeypatch):
    file, tried = tmp_path / "trial.yaml", []
    file.write_text(TRIAL.replace("{dynamic: none}", "{dynamic: gate}"))
    monkeypatch.setattr(CommandRunner, "run", lambda runner, command, held: tried.append(command) or 2)
    with pytest.raises(UserError, match="phase 1 has failed"):
        call(file, base, tmp_path)
    assert len(tried) == 1


def test_the_budget_stops_as_a_signal_does(file, base, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "LEAVE", 0)
    with pytest.raises(Stopped, match=r"--budget is used up: stopped before .* \(2 runs are not done\)") as stopped:
        call(file, base, tmp_path, "--budget", "0.0000001")
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
