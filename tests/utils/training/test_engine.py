"""The engine's mechanics, with a phase of one convolution in place of a network that takes minutes."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import signal
from importlib.metadata import version

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from toy import Toy, make_data, make_loaders, run, settings

import models
from train_seg import Segmentation
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.common.run_log import read_log
from utils.common.signals import Stopped, StopRequest
from utils.networks.checkpoints import load_checkpoint, save_checkpoint
from utils.networks.inference_engines import load_engine
from utils.training import finite_loss as loss_watch
from utils.training import run_state
from utils.training.engine import fit, validate
from utils.training.epoch_line import has_collapsed
from utils.training.optimizer import sgd_with_poly_decay


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("toy") / "data")


def test_what_a_run_leaves(base, tmp_path):
    phase = Toy()
    last = run(phase, base, tmp_path / "toy")
    log = read_log(tmp_path / "toy" / "log.jsonl")
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    assert all({"train", "val", "learning_rate", "seconds"} <= entry.keys() for entry in log)
    assert log[-1]["train"]["loss"] < log[0]["train"]["loss"]
    assert last["epoch"] == 3 and last["settings"]["img_size"] == 8 and last["figures"] == log[-1]["val"]
    assert torch.equal(last["model"]["weight"], phase.model.weight)
    assert (tmp_path / "toy" / "validation.png").stat().st_size > 0
    assert list((tmp_path / "toy" / "tensorboard").glob("events*"))


def test_figures_are_means_over_images_not_batches(base, tmp_path):
    phase = Toy()
    phase.model.requires_grad_(False).weight.zero_()
    phase.model.bias.requires_grad_(True)
    train, val = make_loaders(base)
    fit(phase, train, val, settings(base_dir=base, epochs=1, base_lr=0.0), tmp_path, torch.device("cpu"))
    with torch.no_grad():
        single = [phase.step(phase.model, {**val.collate_fn([val.dataset[i]])})[0].item() for i in range(2)]
    assert read_log(tmp_path / "log.jsonl")[0]["val"]["loss"] == pytest.approx(np.mean(single), rel=1e-6)


@pytest.mark.parametrize(
    ("losses", "higher", "watch_from", "best"),
    [
        ([3, 1, 2], False, 0, 2),
        ([3, 1, 2], True, 0, 1),
        ([1, 3, 2], False, 1, 3),
        ([1, 3, 2], False, 9, 3),  # a run shorter than that still has a best epoch: its last
        ([2, 2, 2], False, 0, 1),
    ],
)
def test_best_epoch(base, tmp_path, losses, higher, watch_from, best):
    phase = Toy()
    phase.validation_losses, phase.higher_is_better, phase.watch_from = losses, higher, watch_from
    last = run(phase, base, tmp_path)
    assert last["best"] == {"epoch": best, "loss": losses[best - 1]}
    assert load_checkpoint(tmp_path / "best.pth", "toy")["epoch"] == best


def crash(batch):
    raise MemoryError("as abrupt as it gets")


def signal_to_self(number):
    return lambda batch: os.kill(os.getpid(), number)


def assert_same_end(whole, other, folders):
    for name, value in whole["model"].items():
        assert torch.equal(value, other["model"][name])
    momentum = [content["optimizer"]["state"][0]["momentum_buffer"] for content in (whole, other)]
    assert torch.equal(*momentum)
    for name in ("best", "schedule", "epoch", "step", "figures"):
        assert whole[name] == other[name]
    logs = [read_log(folder / "log.jsonl") for folder in folders]
    for entry in (*logs[0], *logs[1]):
        del entry["seconds"]
        entry.pop("images_per_second", None)  # none of an epoch that was stopped in its validation
    assert logs[0] == logs[1]


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_crashed_run_goes_on_to_the_same_end(base, tmp_path, step):
    whole = run(Toy(), base, tmp_path / "whole")
    phase = Toy()
    phase.at_step[step] = crash
    with pytest.raises(MemoryError):
        run(phase, base, tmp_path / "cut", resume="auto")
    resumed = run(Toy(), base, tmp_path / "cut", resume="auto")
    assert_same_end(whole, resumed, (tmp_path / "whole", tmp_path / "cut"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("step", "workers"), [(1, 0), (4, 0), (6, 0), (6, 2)])  # 4 is the last of its epoch
def test_a_stopped_run_goes_on_inside_the_epoch_to_the_same_end(base, tmp_path, number, step, workers):
    whole = run(Toy(), base, tmp_path / "whole")
    phase = Toy()
    phase.at_step[step] = signal_to_self(number)
    with pytest.raises(Stopped, match="Continue with --resume") as caught:
        run(phase, base, tmp_path / "cut", workers)
    assert caught.value.number == number
    saved = load_checkpoint(tmp_path / "cut" / "last.pth", "toy")
    assert (saved["epoch"], saved["step"]) == ((step - 1) // 4, (step - 1) % 4 + 1)
    phase = Toy()
    resumed = run(phase, base, tmp_path / "cut", workers, resume="yes")
    assert phase.steps == 12 - step  # no step was done twice
    assert_same_end(whole, resumed, (tmp_path / "whole", tmp_path / "cut"))


def test_a_run_stopped_in_its_validation_goes_on_there(base, tmp_path):
    whole = run(Toy(), base, tmp_path / "whole")

    class StopsInValidation(Toy):
        def step(self, model, batch):
            if self.steps == 8 and not torch.is_grad_enabled():
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(model, batch)

    with pytest.raises(Stopped):
        run(StopsInValidation(), base, tmp_path / "cut")
    resumed = run(Toy(), base, tmp_path / "cut", resume="yes")
    assert_same_end(whole, resumed, (tmp_path / "whole", tmp_path / "cut"))


def test_signals_work_as_before_after_a_run(base, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(Toy(), base, tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_goes_on_in_another_precision_of_auto(base, tmp_path, monkeypatch):
    """From a card with bfloat16 to one with a gradient scaler, and back."""

    class Scaled(Precision):
        def __init__(self, amp, device):
            super().__init__(amp, device)
            self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0)

    run(Toy(), base, tmp_path, epochs=1, amp="auto")
    with monkeypatch.context() as patched:
        patched.setattr("utils.training.run_state.Precision", Scaled)
        scaled = run(Toy(), base, tmp_path, epochs=1, amp="auto", resume="yes")
        assert scaled["epoch"] == 1
    last = load_checkpoint(tmp_path / "last.pth", "toy")
    assert last["scaler"] == {}, "nothing was trained since"
    save_checkpoint(tmp_path / "last.pth", {**last, "scaler": torch.amp.GradScaler("cpu").state_dict()})
    assert run(Toy(), base, tmp_path, epochs=1, amp="auto", resume="yes")["scaler"]


def test_random_states_go_on_as_well(base, tmp_path):
    class Random(Toy):
        """A phase that draws from all global generators, as one of a user's might."""

        def step(self, model, batch):
            if torch.is_grad_enabled():
                noise = torch.rand(1).item() + random.random() + np.random.rand()  # noqa: NPY002
                batch["image"] = batch["image"] + noise
            return super().step(model, batch)

    def seeded(phase, name, **changes):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(1)
        return run(phase, base, tmp_path / name, **changes)

    whole = seeded(Random(), "whole")
    phase = Random()
    phase.at_step[6] = signal_to_self(signal.SIGTERM)
    with pytest.raises(Stopped):
        seeded(phase, "cut")
    resumed = seeded(Random(), "cut", resume="yes")
    assert_same_end(whole, resumed, (tmp_path / "whole", tmp_path / "cut"))


def test_history(base, tmp_path):
    run(Toy(), base, tmp_path, epochs=5, save_every=2)
    assert sorted(path.name for path in tmp_path.glob("epoch*")) == ["epoch0002.pth", "epoch0004.pth"]
    assert load_checkpoint(tmp_path / "epoch0004.pth", "toy")["epoch"] == 4


def test_init_from_starts_a_new_run_from_weights(base, tmp_path):
    first = run(Toy(), base, tmp_path / "first")
    second = run(Toy(), base, tmp_path / "second", init_from=str(tmp_path / "first" / "last.pth"), base_lr=0.0)
    assert torch.equal(second["model"]["weight"], first["model"]["weight"])
    assert second["epoch"] == 3 and len(read_log(tmp_path / "second" / "log.jsonl")) == 3


def test_init_from_takes_images_as_they_were(base, tmp_path):
    run(Toy(), base, tmp_path / "first")
    file = str(tmp_path / "first" / "last.pth")
    with pytest.raises(UserError, match=r"--normalization imagenet, but this run uses --norm.* authors"):
        run(Toy(), base, tmp_path / "second", init_from=file, normalization="authors")


def test_resume_without_a_run(base, tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        run(Toy(), base, tmp_path, resume="yes")
    run(Toy(), base, tmp_path, resume="auto")


@pytest.mark.parametrize("damage", ["optimizer", "schedule", "means", "random", "epoch"])
def test_a_damaged_checkpoint_says_so(base, tmp_path, damage):
    last = run(Toy(), base, tmp_path)
    torch.save({**last, damage: ["nonsense"] if damage != "epoch" else "three"}, tmp_path / "last.pth")
    with pytest.raises(UserError, match=r"last\.pth (does not fit|is not a valid checkpoint)"):
        run(Toy(), base, tmp_path, resume="yes")


def test_a_collapsed_run_says_so_once(base, tmp_path, capsys):
    phase = Toy()
    phase.predicted = 0.0
    run(phase, base, tmp_path / "a", epochs=14)
    assert capsys.readouterr().out.count("predicted nothing, or everything") == 1
    # Once, in the tenth epoch of nothing or everything.
    entries = [{"val": {"predicted": share}} for share in (0.5, *[0] * 5, *[1] * 20)]
    assert [i for i in range(len(entries) + 1) if has_collapsed(entries[:i])] == [11]
    phase = Toy()
    phase.predicted = 0.01
    run(phase, base, tmp_path / "b", epochs=14)
    assert "predicted nothing" not in capsys.readouterr().out


def test_a_finished_run_resumed_changes_nothing(base, tmp_path):
    run(Toy(), base, tmp_path)
    before = (tmp_path / "last.pth").read_bytes()
    run(Toy(), base, tmp_path, resume="yes")
    assert (tmp_path / "last.pth").read_bytes() == before


def test_a_run_that_is_there_is_not_overwritten(base, tmp_path):
    run(Toy(), base, tmp_path)
    with pytest.raises(UserError, match="continue it with --resume"):
        run(Toy(), base, tmp_path)


@pytest.mark.parametrize("resume", [None, "auto"])
def test_weights_without_their_last_pth_are_not_overwritten(base, tmp_path, resume):
    run(Toy(), base, tmp_path, save_every=2)
    (tmp_path / "last.pth").unlink()
    weights = {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")}
    for name in sorted(weights):  # best.pth, then the history
        with pytest.raises(UserError, match=f"contains {name} but no last.pth"):
            run(Toy(), base, tmp_path, resume=resume)
        assert (tmp_path / name).read_bytes() == weights[name]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("files", [1, 2, 3, 4, 5])
def test_a_run_killed_between_two_files_of_an_epoch_goes_on(base, tmp_path, monkeypatch, files):
    """Each of three epochs writes last.pth, best.pth and the history; the process is gone after some of them."""
    whole = run(Toy(), base, tmp_path / "whole", save_every=1)
    with monkeypatch.context() as patch:
        left = iter(range(files))

        def save(path, content):
            if next(left, None) is None:
                raise MemoryError("gone")
            save_checkpoint(path, content)

        patch.setattr(run_state, "save_checkpoint", save)
        with pytest.raises(MemoryError):
            run(Toy(), base, tmp_path / "cut", save_every=1)
    resumed = run(Toy(), base, tmp_path / "cut", save_every=1, resume="auto")
    assert_same_end(whole, resumed, (tmp_path / "whole", tmp_path / "cut"))
    for file in (tmp_path / "whole").glob("*.pth"):
        one, other = (load_checkpoint(folder / file.name, "toy") for folder in (file.parent, tmp_path / "cut"))
        assert one["epoch"] == other["epoch"] and torch.equal(one["model"]["weight"], other["model"]["weight"])


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"half")])
def test_a_best_pth_of_an_earlier_epoch_is_restored_from_the_history_or_its_loss_is_said(
    base, tmp_path, capsys, damage
):
    def toy():
        phase = Toy()
        phase.validation_losses = [1.0, 2.0, 3.0]
        return phase

    run(toy(), base, tmp_path, save_every=1)
    best = load_checkpoint(tmp_path / "best.pth", "toy")
    damage(tmp_path / "best.pth")
    run(toy(), base, tmp_path, save_every=1, resume="auto")
    again = load_checkpoint(tmp_path / "best.pth", "toy")
    assert again["epoch"] == best["epoch"] == 1 and torch.equal(again["model"]["weight"], best["model"]["weight"])
    assert "best.pth was missing or damaged; it was restored from epoch0001.pth" in capsys.readouterr().out
    damage(tmp_path / "best.pth")
    (tmp_path / "epoch0001.pth").unlink()
    with pytest.raises(
        UserError, match=r"best\.pth is missing or not of epoch 1.*without epoch0001\.pth.*last\.pth is"
    ):
        run(toy(), base, tmp_path, save_every=1, resume="auto")


def test_a_disk_that_is_full_between_the_files_leaves_the_best_epoch_of_before(base, tmp_path, monkeypatch):
    """The epoch is repeated, perhaps on another machine with another result; the best one must not be lost."""
    phase = Toy()
    phase.validation_losses = [1.0, 2.0]

    def full(path, content):
        if content["epoch"] == 2 and path.name == "last.pth":
            raise UserError("the disk is full")
        save_checkpoint(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_state, "save_checkpoint", full)
        with pytest.raises(UserError, match="full"):
            run(Toy(), base, tmp_path, epochs=2)
    phase.steps = 4
    run(phase, base, tmp_path, epochs=2, resume="auto")
    assert (
        load_checkpoint(tmp_path / "best.pth", "toy")["epoch"]
        == load_checkpoint(tmp_path / "last.pth", "toy")["best"]["epoch"]
    )


def test_a_finished_run_that_was_killed_before_best_pth_gets_it(base, tmp_path):
    run(Toy(), base, tmp_path, epochs=1)
    best = load_checkpoint(tmp_path / "best.pth", "toy")
    (tmp_path / "best.pth").unlink()
    run(Toy(), base, tmp_path, epochs=1, resume="auto")
    again = load_checkpoint(tmp_path / "best.pth", "toy")
    assert again.keys() == best.keys() and torch.equal(again["model"]["weight"], best["model"]["weight"])


def test_resuming_with_other_settings_names_them(base, tmp_path):
    run(Toy(), base, tmp_path)
    with pytest.raises(UserError, match=r"epochs was 3, now 5; img_size was 8, now 16"):
        run(Toy(), base, tmp_path, resume="yes", epochs=5, img_size=16)
    run(Toy(), base, tmp_path, resume="yes", device="auto")  # where it runs is not what it is


def test_resuming_with_another_list_says_so(tmp_path):
    base = make_data(tmp_path / "data")
    run(Toy(), base, tmp_path / "run")
    (base / "train.txt").write_text("0\n1\n2\n3\n4\n5\n")
    with pytest.raises(UserError, match=r"other lists; changed: train_file_dir \(train\.txt\)"):
        run(Toy(), base, tmp_path / "run", resume="yes")


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_resuming_with_other_files_says_so(tmp_path, folder):
    base = make_data(tmp_path / "data")
    run(Toy(), base, tmp_path / "run")
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    run(Toy(), moved, tmp_path / "run", resume="yes")
    cv2.imwrite(str(moved / folder / "7.png"), np.full((8, 8), 255, np.uint8))
    with pytest.raises(UserError, match="images or masks of the validation list have other names or sizes"):
        run(Toy(), moved, tmp_path / "run", resume="yes")


def test_a_checkpoint_says_where_it_comes_from(base, tmp_path):
    content = run(Toy(), base, tmp_path)["provenance"]
    assert content["versions"]["torch"] == version("torch") and content["device"] == "cpu"
    assert content["lists"]["val_file_dir"] == hashlib.sha256((base / "val.txt").read_bytes()).hexdigest()
    assert content["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", content["git_commit"])


@pytest.mark.parametrize(("look_every", "value"), [(1, "nan"), (1, "inf"), (3, "inf")])  # as on a CPU and on a GPU
def test_a_loss_that_is_not_finite_stops_and_names_the_images(base, tmp_path, monkeypatch, look_every, value):
    monkeypatch.setattr(loss_watch, "LOOK_EVERY", {"cpu": look_every})
    phase = Toy()
    phase.at_step[6] = lambda batch: batch["mask"].fill_(float(value))
    with pytest.raises(UserError, match=rf"loss is {value} at step 1 of epoch 2, on \d, \d") as caught:
        run(phase, base, tmp_path)
    assert "--base_lr" in str(caught.value)
    last = load_checkpoint(tmp_path / "last.pth", "toy")
    assert last["epoch"] == 1 and torch.isfinite(last["model"]["weight"]).all()


def test_a_stop_between_two_looks_at_the_loss_saves_no_broken_weights(base, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_watch, "LOOK_EVERY", {"cpu": 100})
    phase = Toy()

    def break_and_stop(batch):
        batch["image"].fill_(float("nan"))
        os.kill(os.getpid(), signal.SIGINT)

    phase.at_step[6] = break_and_stop
    with pytest.raises(UserError, match="loss is nan at step 1 of epoch 2"):
        run(phase, base, tmp_path)
    assert load_checkpoint(tmp_path / "last.pth", "toy")["epoch"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"compile": True}, {"channels_last": False}])
def test_other_ways_to_compute_end_in_the_same_weights(base, tmp_path, changes):
    ends = [run(Toy(), base, tmp_path / str(i), **given)["model"] for i, given in enumerate(({}, changes))]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-6) for name in ends[0])


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_break_in_the_last_step_are_not_saved(base, tmp_path, value):
    phase = Toy()
    phase.validation_losses = [1, float(value)]
    with pytest.raises(UserError, match=f"{value} in the validation of epoch 2"):
        run(phase, base, tmp_path)
    assert load_checkpoint(tmp_path / "last.pth", "toy")["epoch"] == 1


@pytest.mark.parametrize("parts", [2, 5])
def test_accumulated_parts_make_the_same_step(base, tmp_path, parts):
    """Batches of two, the last of one image: five parts are more than there are images."""
    whole, split = Toy(), Toy()
    ends = [run(whole, base, tmp_path / "whole"), run(split, base, tmp_path / "split", accumulate=parts)]
    assert split.steps == 3 * 7 and whole.steps == 3 * 4
    assert torch.allclose(ends[0]["model"]["weight"], ends[1]["model"]["weight"], atol=1e-6)
    assert read_log(tmp_path / "whole" / "log.jsonl")[-1]["train"]["loss"] == pytest.approx(
        read_log(tmp_path / "split" / "log.jsonl")[-1]["train"]["loss"], rel=1e-5
    )


def test_learning_rate_of_the_paper():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer, schedule = sgd_with_poly_decay([parameter], base_lr=0.01, total_steps=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.zeros(1)
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0.01, 0.01, 0.01 * 0.9**0.9])
    assert rates[9] == pytest.approx(0.01 * 0.2**0.9)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)


def test_validation_predicts_as_evaluation_does(base):
    class Kept(Segmentation):
        def step(self, model, batch):
            self.images, self.logits = batch["image"], model(batch["image"]).float()
            return super().step(model, batch)

    torch.manual_seed(0)
    model = models.build_srs("srs_tiny")
    phase, precision = Kept(model), Precision("bf16", torch.device("cpu"))
    state = argparse.Namespace(precision=precision, settings=settings(), epoch=0)
    with StopRequest() as stop:
        validate(phase, make_loaders(base)[1], torch.device("cpu"), state, stop)
    with torch.inference_mode(), precision.autocast():
        unfolded = model(phase.images)
    assert torch.equal(phase.logits, load_engine("torch", model, precision)(phase.images))
    assert not torch.equal(phase.logits, unfolded)
    assert phase.model is model and not model.training
