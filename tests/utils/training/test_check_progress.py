"""A run that is resumed takes nothing of last.pth unlooked at: not a shape, not a counter, not a random state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from toy import Toy, make_data, run, settings

from utils.common.errors import UserError
from utils.networks.check_state import is_finite
from utils.networks.checkpoints import save_checkpoint
from utils.settings.provenance import list_hashes, weight_hashes
from utils.training.check_progress import check_progress
from utils.training.optimizer import sgd_with_poly_decay
from utils.training.run_state import Means, _random_states, refuse_another_run

EPOCHS, STEPS = 3, 4


def network():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)


def trained(model, steps):
    """The optimizer and the schedule after so many steps."""
    optimizer, schedule = sgd_with_poly_decay(model.parameters(), 0.01, EPOCHS * STEPS)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return optimizer, schedule


@pytest.fixture(scope="module")
def whole():
    """What last.pth holds after 6 steps: one epoch and two steps of the next."""
    optimizer, schedule = trained(network(), 6)
    means = Means()
    means.add({"loss": torch.ones(2)})
    return {
        "epoch": 1,
        "step": 2,
        "best": {"epoch": 1, "loss": 0.5},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "scaler": {},
        "means": means.state_dict(),
        "random": _random_states(),
    }


def check(content, tmp_path):
    optimizer, schedule = trained(network(), 0)
    states = check_progress(content, optimizer, schedule, EPOCHS, STEPS, tmp_path / "last.pth")
    optimizer.load_state_dict(states["optimizer"])
    schedule.load_state_dict(states["schedule"])
    return optimizer, schedule


def test_what_a_run_has_saved_is_loaded_as_it_was(whole, tmp_path):
    optimizer, schedule = check(whole, tmp_path)
    before, after = whole["optimizer"], optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert whole["schedule"] == schedule.state_dict()
    for ours, theirs in zip(before["state"].values(), after["state"].values(), strict=True):
        assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])
    for empty in ({"epoch": 0, "step": 0, "best": None}, {"epoch": 3, "step": 0}):
        content = {**copy.deepcopy(whole), **empty}
        done = content["epoch"] * STEPS
        content["schedule"]["last_epoch"] = done
        content["optimizer"]["param_groups"][0]["lr"] = 0.01 * (1 - max(done - 1, 0) / EPOCHS / STEPS) ** 0.9
        check(content, tmp_path)


def test_momentum_takes_the_layout_of_its_parameter(whole, tmp_path):
    """The fused step goes through memory in order: with another layout it would add the momentum of other weights."""
    ends = []
    for layout in (torch.channels_last, torch.contiguous_format):
        model = network().to(memory_format=layout)
        optimizer, schedule = sgd_with_poly_decay(model.parameters(), 0.01, EPOCHS * STEPS)
        states = check_progress(whole, optimizer, schedule, EPOCHS, STEPS, tmp_path / "last.pth")
        optimizer.load_state_dict(states["optimizer"])
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
            assert optimizer.state[parameter]["momentum_buffer"].stride() == parameter.stride()
        optimizer.step()
        ends.append(model.weight.detach())
    assert torch.allclose(*ends, rtol=1e-6, atol=0)


def put(*keys_and_value):
    """A change of one entry of a nested container."""
    *keys, last, value = keys_and_value

    def change(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def of_momentum(change):
    def changed(content):
        state = content["optimizer"]["state"][0]
        state["momentum_buffer"] = change(state["momentum_buffer"])

    return changed


GROUP = ("optimizer", "param_groups", 0)
CHANGES = [
    (of_momentum(lambda value: value[:1]), r"momentum of parameter 0 is torch.float32 \(1, 3, 3, 3\)"),
    (of_momentum(lambda value: torch.zeros(1)), "momentum of parameter 0"),
    (of_momentum(lambda value: value.double()), "float64"),
    (of_momentum(lambda value: value * math.nan), "not finite"),
    (of_momentum(lambda value: value.to_sparse()), "sparse"),
    (of_momentum(lambda value: value.to("meta")), "meta"),
    (of_momentum(lambda value: 3), "must be a tensor, got int"),
    (put("optimizer", "state", 7, {"momentum_buffer": None}), "unknown parameter"),
    (put("optimizer", "state", "a", {}), "unknown parameter"),
    (put("optimizer", "state", 0, {"step": 1}), "only the momentum"),
    (put("optimizer", "state", []), "damaged"),
    (put("optimizer", []), "optimizer must be a dict, got list"),
    (put("optimizer", "param_groups", []), "other parameter groups"),
    (put(*GROUP, "lr", 5.0), "learning rate must be"),
    (put(*GROUP, "lr", math.inf), "learning rate must be"),
    (put(*GROUP, "lr", torch.tensor(0.01)), "learning rate must be"),
    (put(*GROUP, "momentum", 9), "momentum of the optimizer was 9, now 0.9"),
    (put(*GROUP, "maximize", True), "maximize of the optimizer was True, now False"),
    (put(*GROUP, "fused", "yes"), "fused of the optimizer must be"),
    (put(*GROUP, "params", [0]), "params of the optimizer was"),
    (put("schedule", {}), "last_epoch is missing"),
    (put("schedule", "last_epoch", 10**9), "must be at step 6, got 1000000000"),
    (put("schedule", "last_epoch", "6"), "got 6"),
    (put("epoch", 4), "the epoch must be between 0 and 3"),
    (put("epoch", -1), "the epoch"),
    (put("epoch", True), "the epoch"),
    (put("step", 5), "the step must be between 0 and 4"),
    (put("step", 2.0), "the step"),
    (put("best", {"epoch": 2, "loss": 1.0}), r"the best epoch must be between 1 and 1"),
    (put("best", {"epoch": 1, "loss": math.nan}), "the best figure"),
    (put("best", {"loss": 1.0}), "the best epoch"),
    (put("best", 3), "damaged"),
    (put("means", {"sums": {}, "count": 3}), "require both a count and sums"),
    (put("means", "sums", "loss", torch.ones(3)), "the means must be"),
    (put("means", "count", -1), "count of the means"),
    (put("scaler", {"scale": 0.0}), "loss scale"),
    (put("scaler", {"scale": 1.0, "_growth_tracker": 0}), "growth_factor is missing"),
    (put("random", {}), "python is missing"),
    (put("random", "python", 0, 4), "Python's"),
    (put("random", "python", 1, [2**32] * 625), "Python's"),
    (put("random", "python", 1, 624, 625), "Python's"),
    (put("random", "numpy", 1, torch.zeros(3, dtype=torch.int64)), "numpy's"),
    (put("random", "numpy", 2, 10**6), "numpy's"),
    (put("random", "torch", torch.zeros(3)), "torch's"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_every_part_is_looked_at(whole, tmp_path, change, message):
    content = copy.deepcopy(whole)
    change(content)
    with pytest.raises(UserError, match=message) as caught:
        check(content, tmp_path)
    assert "last.pth does not fit" in str(caught.value) and "\n" not in str(caught.value)


def test_every_part_may_be_missing_or_something_else(whole, tmp_path):
    for name in whole:
        for value in (None, 3, "word", [], {}, torch.zeros(2)):
            if (name == "best" and value is None) or (name == "scaler" and isinstance(value, dict)):
                continue  # such runs there are
            with pytest.raises(UserError, match="does not fit"):
                check({**whole, name: value}, tmp_path)
        with pytest.raises(UserError, match=f"{name} is missing"):
            check({key: value for key, value in whole.items() if key != name}, tmp_path)


def test_a_run_is_not_changed_by_a_state_that_is_refused(tmp_path):
    base = make_data(tmp_path / "data")
    last = run(Toy(), base, tmp_path / "run", epochs=1)
    phase = Toy()
    before = phase.model.weight.detach().clone()
    broken = copy.deepcopy(last)
    broken["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1)
    save_checkpoint(tmp_path / "run" / "last.pth", broken)
    with pytest.raises(UserError, match="momentum of parameter 0"):
        run(phase, base, tmp_path / "run", epochs=1, resume="yes")
    assert torch.equal(phase.model.weight, before)
    assert is_finite(last["best"]["loss"])


def test_the_same_weights_at_another_path_are_the_same_experiment(tmp_path):
    path, other, changed = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    path.write_bytes(b"weights")
    other.write_bytes(b"weights")
    changed.write_bytes(b"other weights")
    base = make_data(tmp_path / "data")

    def now(file):
        return settings(base_dir=str(base), recon_weights=str(file))

    previous = {
        "settings": vars(now(path)),
        "provenance": {"lists": list_hashes(now(path)), "weights": weight_hashes(now(path))},
    }
    for file in (path, other):
        refuse_another_run(previous, now(file), tmp_path / "last.pth")
    path.unlink()
    refuse_another_run(previous, now(other), tmp_path / "last.pth")
    for file in (changed, tmp_path / "missing.pth"):
        with pytest.raises(UserError, match="recon_weights was"):
            refuse_another_run(previous, now(file), tmp_path / "last.pth")
    del previous["provenance"]["weights"]  # as runs of before it was recorded
    with pytest.raises(UserError, match="recon_weights was"):
        refuse_another_run(previous, now(other), tmp_path / "last.pth")
