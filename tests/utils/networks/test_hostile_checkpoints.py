"""Damaged and foreign checkpoints: one line, and never a weight changed."""

from __future__ import annotations

import copy
import io
import pickle
import resource
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from utils.common.errors import UserError
from utils.networks.check_state import unwrapped
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
        (change("0.bias", torch.tensor([0.0, 1.0, float("nan"), 0.0])), r"0\.bias contains values that are not finite"),
        (change("0.bias", [0.0] * 4), r"0\.bias must be a tensor, got list"),
    ],
)
def test_a_state_is_checked_whole_before_a_weight_changes(changed, message):
    model = network()
    state = {name: value + 1 for name, value in model.state_dict().items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        fill(model, changed(state), Path("x.pth"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def repacked(path, compression=zipfile.ZIP_STORED, double=False):
    """The archive written again by zipfile."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    if double:  # every member's bytes twice in the directory
        with zipfile.ZipFile(path, "a") as archive:
            for member in list(archive.infolist()):
                again = copy.copy(member)
                again.filename += "2"
                archive.filelist.append(again)
            archive._didModify = True


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(bytes(20_000)), "the file begins with zeros"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "the end of the file is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3000] + bytes(3000)), "the end of the file is missing"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "the end of the file is missing"),
        (lambda path: repacked(path, zipfile.ZIP_DEFLATED), "compressed"),
        (lambda path: repacked(path, double=True), "larger than the file"),
        (lambda path: path.write_bytes(b"garbage" * 1000), "not written by torch.save"),
    ],
)
def test_a_damaged_file_says_what_is_wrong_and_never_to_trust_it(tmp_path, damage, message):
    path = tmp_path / "x.pth"
    save_checkpoint(path, {"phase": "seg", "settings": {}, "model": {"w": torch.zeros(5000)}})
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(path, "seg")
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_an_archive_that_unpacks_to_gigabytes_takes_no_memory(tmp_path):
    path, before = tmp_path / "x.pth", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    save_checkpoint(path, {"phase": "seg", "settings": {}, "model": {"w": torch.zeros(50_000_000)}})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    repacked(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    peak = max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    with pytest.raises(UserError, match="compressed"):
        load_checkpoint(path, "seg")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss == peak >= before


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(4).to_sparse(),
        torch.eye(4).to_sparse_csr(),
        torch.empty(4, 4, device="meta"),
        torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.qint8),
    ],
    ids=["coo", "csr", "meta", "quantized"],
)
@pytest.mark.parametrize("where", ["model", "optimizer", "settings", "mask_shift"])
def test_tensors_without_plain_memory_are_refused(tmp_path, tensor, where):
    content = {"phase": "seg", "settings": {}, "model": {}, "optimizer": {"state": [{}]}}
    content[where] = {**content.get(where, {}), "x": tensor}
    save_checkpoint(tmp_path / "x.pth", content)
    with pytest.raises(UserError, match=r"x is a (sparse|quantized)? ?tensor|sparse|or is damaged"):
        load_checkpoint(tmp_path / "x.pth", "seg")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"img_size": torch.tensor(64)}}, "img_size must be .* got Tensor"),
        ({"settings": {"img_size": {"a": 1}}}, "img_size must be .* got dict"),
        ({"settings": {"base_dir": [["a"]]}}, "base_dir must be .* got list"),
        ({"settings": {3: 1}}, "must be strings"),
        ({"settings": {"base_lr": float("nan")}}, "base_lr must be .* got float"),
        ({"epoch": -1}, "epoch must be"),
        ({"epoch": True}, "epoch must be"),
        ({"step": 1.5}, "step must be"),
        ({"best": [1]}, "best must be"),
        ({"figures": {"iou": torch.tensor(1.0)}}, "figures must be"),
    ],
)
def test_counters_and_settings_are_plain(tmp_path, changed, message):
    save_checkpoint(tmp_path / "x.pth", {"phase": "seg", "settings": {}, "model": {}, **changed})
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "x.pth", "seg")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_that_wrappers_put_in_front_are_taken_off(tmp_path, wrapper):
    model = network()
    state = {wrapper + name: value + 1 for name, value in model.state_dict().items()}
    save_checkpoint(tmp_path / "x.pth", {"phase": "seg", "settings": {}, "model": state})
    fill(model, load_checkpoint(tmp_path / "x.pth", "seg")["model"], tmp_path / "x.pth")
    assert all(torch.equal(value, state[wrapper + name]) for name, value in model.state_dict().items())


def test_a_part_that_was_compiled_alone_and_names_of_one_part():
    assert unwrapped({"stem._orig_mod.weight": 1, "head.weight": 2}) == {"stem.weight": 1, "head.weight": 2}
    for state in ({"module.a": 1, "b": 2}, {"a.module.b": 1}, {}, {1: 2}, {"a._orig_mod.b": 1, "a.b": 2}):
        assert unwrapped(state) is state


def test_a_damaged_last_checkpoint_names_the_one_that_is_whole(tmp_path):
    for name in ("last", "best", "epoch0004"):
        save_checkpoint(tmp_path / f"{name}.pth", {"phase": "seg", "settings": {}, "model": {}, "epoch": 4})
    last = tmp_path / "last.pth"
    last.write_bytes(bytes(len(last.read_bytes())))
    for whole in ("best.pth", "epoch0004.pth"):
        advice = rf"new run from .*{whole} \(epoch 4\) with --init_from .*{whole} and another --output_dir"
        with pytest.raises(UserError, match=advice) as caught:
            load_checkpoint(last, "seg")
        assert "\n" not in str(caught.value)
        (tmp_path / whole).write_bytes(b"")
    with pytest.raises(UserError, match=r"No other checkpoint .* is intact: start a new run with another --output_dir"):
        load_checkpoint(last, "seg")
