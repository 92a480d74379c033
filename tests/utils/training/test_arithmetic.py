"""What computes is recorded, and a change of it is said in one line when a run is resumed."""

from __future__ import annotations

import pytest
import torch
from small import small_srs
from toy import Toy, make_data, run

from models.fast.native import library
from utils.common.signals import Stopped
from utils.networks import speed
from utils.networks.checkpoints import load_checkpoint, save_checkpoint
from utils.training.arithmetic import KEYS, PACKAGES, changes, earlier_parts


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture
def stopped(base, tmp_path):
    """A run that was stopped in its second epoch: its folder."""
    phase = Toy()
    phase.at_step[5] = lambda batch: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises((Stopped, KeyboardInterrupt)):
        run(phase, base, tmp_path / "run")
    return tmp_path / "run"


def resumed(base, folder, capsys, **changed):
    capsys.readouterr()
    run(Toy(), base, folder, resume="auto", **changed)
    return [line for line in capsys.readouterr().out.splitlines() if "other arithmetic" in line]


def test_what_computes_is_recorded(stopped):
    found = load_checkpoint(stopped / "last.pth", "toy")["provenance"]
    assert found.keys() >= {*KEYS, "versions"}
    assert found["precision"] == "off" and found["layout"] == "channels_last" and found["modules"]
    assert found["versions"]["torch"] and found["versions"]["numpy"] and found["threads"] == torch.get_num_threads()


def test_nothing_is_said_where_nothing_has_changed(base, stopped, capsys):
    assert resumed(base, stopped, capsys) == []


def test_modules_that_are_no_longer_there_are_said(base, stopped, capsys, monkeypatch):
    """As where models/fast is missing, or g++ for its C++ kernels: the words of `Speed` differ."""
    was = load_checkpoint(stopped / "last.pth", "toy")["provenance"]["modules"]
    monkeypatch.setattr(speed, "_fast", lambda: None)
    (line,) = resumed(base, stopped, capsys)
    assert line.startswith("warning: the run resumes with other arithmetic or code (modules was ") and was in line


def test_cpp_kernels_are_told_from_none(monkeypatch):
    """Without g++ in PATH the same modules run, with sums in another order."""
    network = small_srs()
    words = []
    for compiler in (True, False):
        if not compiler:
            monkeypatch.setattr("models.fast.native.shutil.which", lambda name: None)
            library.cache_clear()
        with speed.training(network, torch.device("cpu")) as found:
            words.append(found.words)
    monkeypatch.undo()
    library.cache_clear()
    if library("training") is None:
        pytest.skip("no g++ here")
    said = changes({"modules": words[0]}, {"modules": words[1]})
    assert "with C++ kernels, now fast modules" in said and "without C++ kernels)" in said


def test_other_threads_and_layout_are_said(base, stopped, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        (line,) = resumed(base, stopped, capsys, channels_last=False)
    finally:
        torch.set_num_threads(threads)
    assert f"threads was {threads}, now {threads + 1}" in line and "layout was channels_last, now NCHW" in line


def test_another_release_is_said_and_an_older_checkpoint_is_silent(base, stopped, capsys):
    content = load_checkpoint(stopped / "last.pth", "toy")
    other = content["provenance"] | {"versions": content["provenance"]["versions"] | {"torch": "2.6.0"}}
    save_checkpoint(stopped / "last.pth", content | {"provenance": other})
    (line,) = resumed(base, stopped, capsys)
    assert "torch was 2.6.0, now " in line and line.count(" was ") == 1


def test_a_checkpoint_tells_the_parts_of_a_run_that_was_resumed_elsewhere(base, stopped, capsys):
    content = load_checkpoint(stopped / "last.pth", "toy")
    assert content["provenance"]["earlier"] == []
    resumed(base, stopped, capsys, epochs=3)
    assert load_checkpoint(stopped / "last.pth", "toy")["provenance"]["earlier"] == [], "nothing has changed"
    save_checkpoint(stopped / "last.pth", content | {"provenance": content["provenance"] | {"device": "a GPU"}})
    resumed(base, stopped, capsys)
    now = load_checkpoint(stopped / "last.pth", "toy")["provenance"]
    came = {"torch": now["versions"]["torch"], "commit": now["git_commit"]}
    assert now["device"] == "cpu" and now["earlier"] == [{"epochs": 1, "device": "a GPU", **came}]
    assert earlier_parts(now, False, 3) == now["earlier"]
    assert earlier_parts(now, True, 3) == [*now["earlier"], {"epochs": 3, "device": "cpu", **came}]


def test_an_older_checkpoint_does_not_tell_cpp_kernels():
    before, now = (
        {"modules": "fast modules: 5 BLAM"},
        {"modules": "fast modules: 5 BLAM, with C++ kernels; plain: x"},
    )
    assert changes(before, {"modules": "fast modules: 5 BLAM, without C++ kernels"}) is None
    assert "modules was fast modules: 5 BLAM, now" in changes(before, now)


def test_checkpoints_with_the_first_name_of_the_cpp_kernels_resume_without_a_warning():
    was, now = ({"modules": f"fast modules: 5 BLAM, with {name}"} for name in ("compiled passes", "C++ kernels"))
    assert changes(was, now) is None
    assert changes(was, {"modules": "fast modules: 5 BLAM, without C++ kernels"}) is not None


@pytest.mark.parametrize("name", [*KEYS, *PACKAGES])
def test_each_of_them_counts(name):
    now = {key: "a" for key in KEYS} | {"versions": {package: "1" for package in PACKAGES}}
    before = now | ({name: "b"} if name in KEYS else {"versions": now["versions"] | {name: "2"}})
    said = changes(before, now)
    assert f"{name} was " in said and said.count(" was ") == 1
    assert changes(now, now) is None and changes({}, now) is None and changes({"versions": {}}, now) is None
