"""The whole protocol on a dozen sample images; the scripts run inside this process, but for where signals matter."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import in_process
import pytest
import torch
import waiting

import reproduce
import train_seg
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.locks import hold
from utils.common.signals import Stopped
from utils.networks.checkpoints import load_checkpoint
from utils.reproduction.dataset_job import DatasetJob
from utils.reproduction.run_scripts import CommandRunner

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--variant", "srs_tiny", "--img_size", "16", "--workers", "0", "--batch_size", "4", "--divisions", "2"]
FLAGS += ["--recon_epochs", "1", "--seg_epochs", "2"]
DIVISIONS = {  # of eight cases; case 1 is in both test lists
    1: {"train": "23456", "val": "78", "test": "1"},
    2: {"train": "45678", "val": "23", "test": "1"},
}


@pytest.fixture(scope="module", autouse=True)
def shallow_networks():
    with pytest.MonkeyPatch.context() as patch:
        in_process.shallow_networks(patch)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, count=8, size=32)
    names = sorted(path.stem for path in (base / "images").iterdir())
    for division, lists in DIVISIONS.items():
        for name, numbers in lists.items():
            chosen = "".join(f"{names[int(number) - 1]}\n" for number in numbers)
            (base / f"{name}{division}.txt").write_text(chosen)
    return base


class Calls(list):
    """What ran: (script, name of its division's folder)."""

    def append(self, call):
        super().append((call[0], call[1].name))


@pytest.fixture
def ran(monkeypatch):
    """Has the scripts run inside this process; returns what ran."""
    return in_process.run_inside(monkeypatch, Calls())


def call(base, out, *more):
    reproduce.main(reproduce.settings(["--base_dir", str(base), "--output_dir", str(out), *FLAGS, *more]))


WHOLE = [
    (script, f"division{i}")
    for i in (1, 2)
    for script in ("train_recon", "train_seg", "evaluation", "evaluation", "evaluation", "evaluation")
]


def results(out):
    """The table's figures, without what tells where and when it was made."""
    record = json.loads((out / "reproduce.json").read_text())
    return record["divisions"], record["over_divisions"]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """One whole run, left as it is by the tests."""
    out = tmp_path_factory.mktemp("whole") / "experiment"
    with pytest.MonkeyPatch.context() as patch:
        calls = in_process.run_inside(patch, Calls())
        call(base, out)
    return out, calls


def test_the_whole_protocol(whole):
    out, calls = whole
    assert calls == WHOLE
    divisions, spreads = results(out)
    lists = [("val", "best", 2), ("val", "last", 2), ("test", "best", 1), ("test", "last", 1)]
    rows = [(row["division"], row["on"], row["weights"], row["images"]) for row in divisions]
    assert rows == [(i, *row) for i in (1, 2) for row in lists]
    for row in divisions:
        last = load_checkpoint(out / f"division{row['division']}" / "seg" / f"{row['weights']}.pth", "seg")
        assert last["epoch"] == row["epoch"]
        if row["on"] == "val":
            assert row["figures"]["iou"] == pytest.approx(100 * last["figures"]["iou"], rel=1e-4, abs=1e-6)
    (last_on_val,) = [row for row in spreads if (row["list"], row["weights"]) == ("val", "last")]
    values = [row["figures"]["ACC"] for row in divisions if (row["on"], row["weights"]) == ("val", "last")]
    assert last_on_val["mean"]["ACC"] == pytest.approx(sum(values) / 2)
    assert last_on_val["standard_deviation"]["ACC"] == pytest.approx(statistics.stdev(values))


def test_csv_and_markdown_hold_the_same_figures(whole):
    out, _ = whole
    divisions, spreads = results(out)
    rows = list(csv.DictReader((out / "reproduce.csv").open()))
    assert [float(row["iou"]) for row in rows[:8]] == pytest.approx([row["figures"]["iou"] for row in divisions])
    means = {(row["list"], row["weights"]): float(row["ACC"]) for row in rows[8:] if row["division"] == "mean"}
    page = (out / "reproduce.md").read_text()
    for row in spreads:
        assert means[row["list"], row["weights"]] == pytest.approx(row["mean"]["ACC"])
        assert f"{row['mean']['ACC']:.2f} ± {row['standard_deviation']['ACC']:.2f}" in page
    assert "2 of 2 divisions" in page and "published" not in page


def test_a_second_call_runs_nothing(whole, base, ran):
    out, _ = whole
    before = (out / "reproduce.json").read_bytes()
    call(base, out)
    assert ran == [] and (out / "reproduce.json").read_bytes() == before


def test_each_division_has_an_encoder_of_its_own(whole):
    states = [load_checkpoint(whole[0] / f"division{i}" / "seg" / "last.pth", "seg")["model"] for i in (1, 2)]
    name = "encoder.stem.0.weight"
    assert not torch.equal(states[0][name], states[1][name])


def test_stopped_in_phase_2_it_goes_on_inside_the_epoch_to_the_same_table(whole, base, ran, tmp_path, monkeypatch):
    step, steps = train_seg.Segmentation.step, []

    def counted(self, model, batch):
        steps.append(torch.is_grad_enabled())
        if sum(steps) == 3 and steps[-1]:  # the first of the second epoch's two
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, model, batch)

    monkeypatch.setattr(train_seg.Segmentation, "step", counted)
    with pytest.raises(Stopped, match=r"division 1, phase 2; run the same command again"):
        call(base, tmp_path, "--only", "1")
    assert ran == WHOLE[:2]
    last = load_checkpoint(tmp_path / "division1" / "seg" / "last.pth", "seg")
    assert (last["epoch"], last["step"]) == (1, 1)
    ran.clear()
    call(base, tmp_path, "--only", "1")
    assert ran == WHOLE[1:6]
    divisions, spreads = results(tmp_path)
    assert divisions == results(whole[0])[0][:4]
    assert spreads[0]["standard_deviation"]["iou"] is None
    page = (tmp_path / "reproduce.md").read_text()
    assert "1 of 2 divisions" in page and "Divisions done: 1;" in page


def test_results_of_images_at_their_own_size_are_found_as_well(base, ran, tmp_path):
    """evaluation.py files them under another name."""
    call(base, tmp_path, "--crop", "16", "--only", "1")
    assert ran == WHOLE[:6] and len(results(tmp_path)[0]) == 4


@pytest.fixture
def copy(whole, tmp_path):
    """A whole run that a test may change."""
    return shutil.copytree(whole[0], tmp_path / "copy")


@pytest.mark.parametrize(("part", "name"), [("weights", "weights"), ("files", "evaluated")])
def test_results_of_other_weights_or_files_are_made_again(whole, base, ran, copy, part, name):
    summary = copy / "division1" / "evaluation" / "last-val1" / "summary.json"
    content = json.loads(summary.read_text())
    content["provenance"][part][name] = "0" * 64
    summary.write_text(json.dumps(content))
    call(base, copy)
    assert ran == [("evaluation", "division1")]
    assert results(copy) == results(whole[0])


def test_other_masks_are_noticed_though_everything_is_done(base, ran, copy, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    call(other, copy)
    assert ran == []
    mask = next(path for path in (other / "masks").iterdir() if path.stem in (other / "val1.txt").read_text().split())
    mask.write_bytes(mask.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"division1/seg/last\.pth belongs to a run on other files.*validation list"):
        call(other, copy)
    assert ran == []


def test_an_encoder_trained_again_is_not_mixed_with_the_old_phase_2(base, ran, copy):
    shutil.copy(copy / "division2" / "recon" / "best.pth", copy / "division1" / "recon" / "best.pth")
    with pytest.raises(UserError, match=r"trained with another encoder than .*division1/recon/best\.pth"):
        call(base, copy)
    assert ran == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seg_epochs", "3"], r"division1/seg/last\.pth.*epochs was 2, now 3.*--output_dir"),
        (["--base_lr", "0.02"], r"division1/recon/last\.pth.*base_lr was 0\.01, now 0\.02"),
        (["--train_file", "val{}.txt", "--val_file", "train{}.txt"], "train_file_dir was train1.txt, now val1.txt"),
    ],
)
def test_other_settings_are_refused_before_anything_runs(whole, base, ran, more, message):
    with pytest.raises(UserError, match=message):
        call(base, whole[0], *more)
    assert ran == []


def test_dry_run_says_what_is_done_and_runs_nothing(whole, base, ran, tmp_path, capsys):
    call(base, whole[0], "--dry_run")
    shown = capsys.readouterr().out
    assert shown.count(": done") == 12 and "to do" not in shown
    call(base, tmp_path / "new", "--dry_run", "--nproc", "2")
    shown = capsys.readouterr().out
    assert shown.count(": to do") == 12 and "torchrun --standalone --nproc_per_node=2 train_seg.py" in shown
    assert ran == [] and not (tmp_path / "new").exists()


def test_a_network_that_holds_no_encoder_has_no_phase_1(base, ran, tmp_path):
    out = tmp_path / "out"
    call(base, out, "--dynamic", "none", "--divisions", "1", "--seg_epochs", "1")
    assert [name for name, _ in ran] == ["train_seg", *["evaluation"] * 4]
    page = (out / "reproduce.md").read_text()
    assert "Divisions done: 1." in page and "encoder" not in page


def test_missing_lists_name_the_command_that_makes_them(base, tmp_path):
    with pytest.raises(
        UserError, match=r"(?s)not found in .*: train3\.txt, val3\.txt.*prepare_data\.py split .*set --divisions 3"
    ):
        call(base, tmp_path, "--divisions", "3", "--dry_run")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "3"], "--recon_epochs and --seg_epochs"),
        (["--resume"], "always resumes"),
        (["--only", "3"], r"at most --divisions \(2\), got 3"),
        (["--img_sise", "3"], "unrecognized arguments: --img_sise"),
        (["--train_file", "train.txt"], r"--train_file must contain \{\}"),
        (["--test_file", "sub/val{}.txt"], "not found in .*: sub/val1.txt"),
    ],
)
def test_faults_on_the_command_line(base, tmp_path, ran, more, message):
    with pytest.raises(UserError, match=message):
        call(base, tmp_path / "new", *more)
    assert ran == [] and not (tmp_path / "new").exists()


def test_a_faulty_mask_of_the_last_division_is_found_before_the_first_is_trained(base, ran, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(base, data)
    name = (data / "val2.txt").read_text().split()[0]
    (data / "train1.txt").write_text((data / "train1.txt").read_text().replace(f"{name}\n", ""))
    next((data / "masks").glob(f"{name}*")).unlink()
    with pytest.raises(UserError, match=name):
        call(data, tmp_path / "out")
    assert ran == []


def test_published_figures_stand_beside(base, ran, copy, tmp_path):
    (tmp_path / "own.yaml").write_text(f"base_dir: {base}\npublished: {{iou: 88.29, F1: 93.44}}\n")
    reproduce.main(reproduce.settings(["--config", str(tmp_path / "own.yaml"), "--output_dir", str(copy), *FLAGS]))
    (row,) = [line for line in (copy / "reproduce.md").read_text().splitlines() if "published" in line]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["88.29", "93.44"] and ran == []


def test_the_papers_figures_are_those_of_the_paper():
    published = {name: reproduce.settings(["--Dataset", name]).published for name in ("BUS", "KBT2019", "BUSI")}
    assert published == {"BUS": {"iou": 88.29, "F1": 93.44}, "KBT2019": {"iou": 86.34, "F1": 92.62}, "BUSI": {}}


def test_published_figures_must_be_figures(tmp_path):
    (tmp_path / "own.yaml").write_text("base_dir: x\npublished: {IoU: high}\n")
    with pytest.raises(UserError, match=r"own\.yaml: published must contain numbers"):
        reproduce.settings(["--config", str(tmp_path / "own.yaml")])


SAVES = """
import signal, sys, time
def save(number, frame):
    time.sleep(float(sys.argv[3]))
    open(sys.argv[1], "a").write(f"{number} ")
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
print("ready", flush=True)
open(sys.argv[2], "w").close()
time.sleep(600)  # it is told before
"""


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, 15)]
)
def test_a_signal_reaches_the_running_command_once(tmp_path, number, told):
    was = signal.signal(number, signal.SIG_DFL)  # pytest itself may run under nohup
    command = [sys.executable, "-c", SAVES, str(tmp_path / "told"), str(tmp_path / "ready"), "0"]
    sends = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'ready')!r}): time.sleep(0.02)\n"
    sender = subprocess.Popen([sys.executable, "-c", f"{sends}os.kill({os.getpid()}, {int(number)})"])
    with CommandRunner() as runner:
        assert runner.run(command) == 128 + told
        assert runner.run(command) == 128 + number  # after a signal nothing is started
    sender.wait()
    assert runner.number == number and signal.signal(number, was) == signal.SIG_DFL
    assert (tmp_path / "told").read_text().split() == [str(int(told))]


def test_between_two_commands_the_second_signal_acts_at_once(monkeypatch):
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest itself may run in the background
    monkeypatch.setattr("utils.reproduction.run_scripts.SAME_SIGNAL_SECONDS", -1)
    with CommandRunner() as runner:
        signal.raise_signal(signal.SIGINT)
        assert runner.stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, was)


def test_when_its_time_is_out_the_command_is_told_to_save(tmp_path):
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", SAVES, str(tmp_path / "told"), str(ready), "0"]
    with CommandRunner(seconds=1e9) as runner:

        def time_passes():
            while not ready.exists():
                time.sleep(0.02)
            runner._until = 0

        clock = threading.Thread(target=time_passes)
        clock.start()
        assert runner.run(command) == 128 + signal.SIGTERM and runner.time_is_out
        assert runner.run(command) == 128 + signal.SIGTERM  # nothing is started any more
        clock.join()
    assert (tmp_path / "told").read_text().split() == ["15"]


def test_a_command_that_is_no_longer_wanted_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.reproduction.run_scripts._ASK", 0)
    ready = tmp_path / "ready"
    with CommandRunner() as runner:
        runner.unwanted = ready.exists
        command = [sys.executable, "-c", SAVES, str(tmp_path / "told"), str(ready), "0"]
        assert runner.run(command) == 128 + signal.SIGKILL and not runner.number
    assert not (tmp_path / "told").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process that its parent has ended")
def test_a_command_left_behind_by_a_kill_is_told_to_save_and_holds_its_folder_until_then(tmp_path, monkeypatch):
    argv = [str(tmp_path / "told"), str(tmp_path / "ready"), "0.5"]  # it takes 0.5 s to save
    code = (
        "import sys; from pathlib import Path; from utils.common.locks import hold\n"
        "from utils.reproduction.run_scripts import CommandRunner\n"
        f"with hold(Path({str(tmp_path)!r})) as held, CommandRunner() as runner:\n"
        f"    runner.run([sys.executable, '-c', {SAVES!r}, *{argv!r}], held)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
        waiting.wait_for((tmp_path / "ready").exists, parent)
        monkeypatch.setattr("utils.common.locks.PATIENCE", 0)
        with pytest.raises(UserError, match="another process writes to"), hold(tmp_path):
            pass
        parent.kill()
    monkeypatch.setattr("utils.common.locks.PATIENCE", 600)
    with hold(tmp_path):
        assert (tmp_path / "told").read_text().split() == ["15"]


def test_what_a_script_ends_with(base, tmp_path, monkeypatch):
    for code, message in ((2, "see its message above"), (137, "killed by signal 9"), (0, "is not finished")):
        monkeypatch.setattr(CommandRunner, "run", lambda runner, command, held, code=code: code)
        with pytest.raises(UserError, match=f"division 1, phase 1.*{message}"):
            call(base, tmp_path)


def test_a_real_run_is_stopped_and_ends_its_script(base, tmp_path):
    """With processes: the signal goes to reproduce.py alone, which has the training save."""
    flags = ["--base_dir", str(base), "--output_dir", str(tmp_path), *FLAGS, "--recon_epochs", "500"]
    command = [sys.executable, str(ROOT / "reproduce.py"), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        waiting.wait_for((tmp_path / "division1" / "recon" / "last.pth").exists, process, launcher=True)
        process.terminate()
        _, errors = waiting.finish(process, launcher=True)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped in division 1, phase 1; run the same command again" in errors and "Traceback" not in errors
    job = DatasetJob(reproduce.settings(flags), reproduce.SCRIPTS)
    assert job.steps(job.runs[0])[0].progress().text.startswith("to be resumed after epoch")
