"""Damaged and foreign checkpoints: one line, and never a weight changed."""

from __future__ import annotations

import io
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from utils.common.errors import UserError
from utils.networks.checkpoints import fill, load_checkpoint, save_checkpoint


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def whole_file():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pth"
        save_checkpoint(path, {"phase": "seg", "settings": {"img_size": 64}, "model": network().state_dict()})
        return path.read_bytes()


WHOLE = whole_file()


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_checkpoints_are_refused_or_whole(data):
    content = bytearray(WHOLE)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0 if len(content) < len(WHOLE) else 1, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pth"
        path.write_bytes(content)
        try:
            fill(model, load_checkpoint(path, "seg")["model"], path)
        except UserError as error:
            assert "x.pth" in str(error) and "\n" not in str(error)
            for name, value in model.state_dict().items():
                assert torch.equal(value, before[name])
        else:
            assert all(value.isfinite().all() for value in model.state_dict().values())


class Evil:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('was_run').touch()",))


@pytest.mark.parametrize("in_zip", [False, True])
def test_code_in_a_pickle_does_not_run(tmp_path, monkeypatch, in_zip):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    if in_zip:
        torch.save({"phase": "seg", "model": Evil(), "settings": {}}, buffer)
    else:
        pickle.dump(Evil(), buffer, protocol=2)
    (tmp_path / "x.pth").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"x\.pth is not a checkpoint"):
        load_checkpoint(tmp_path / "x.pth", "seg")
    assert not (tmp_path / "was_run").exists()


def change(name, value):
    def changed(state):
        state[name] = value
        return state

    return changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda state: {k: v for k, v in state.items() if k != "0.bias"}, r"missing 0\.bias"),
        (change("2.weight", torch.zeros(1)), r"unexpected 2\.weight"),
        (change("0.bias", torch.zeros(5)), r"0\.bias is torch\.float32 \(5,\), expected torch\.float32 \(4,\)"),
        (change("0.bias", torch.zeros(4, dtype=torch.float64)), r"0\.bias is torch\.float64"),
        (change("0.bias", torch.tensor([0.0, 1.0, float("nan"), 0.0])), r"0\.bias holds values that are not finite"),
        (change("0.bias", [0.0] * 4), r"0\.bias is a list"),
    ],
)
def test_a_state_is_checked_whole_before_a_weight_changes(changed, message):
    model = network()
    state = {name: value + 1 for name, value in model.state_dict().items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        fill(model, changed(state), Path("x.pth"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
