from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from utils.common.errors import UserError
from utils.common.files import replacing
from utils.networks import checkpoints as checkpoint

CONTENT = {"phase": "seg", "model": {"w": torch.arange(3.0)}, "settings": {"img_size": 64}}


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "best.pth"
    checkpoint.save_checkpoint(path, CONTENT)
    loaded = checkpoint.load_checkpoint(path, "seg")
    assert torch.equal(loaded["model"]["w"], CONTENT["model"]["w"]) and loaded["settings"] == {
        **checkpoint.EARLIER,
        "watch": "iou",
        "img_size": 64,
    }
    assert [file.name for file in path.parent.iterdir()] == ["best.pth"]


def test_a_file_is_read_once_for_its_settings_and_its_weights(tmp_path, monkeypatch):
    path, reads = tmp_path / "best.pth", []
    checkpoint.save_checkpoint(path, CONTENT)
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: reads.append(1) or load(*args, **options))
    assert checkpoint.load_settings(path, "seg")["img_size"] == 64
    with pytest.raises(UserError, match="must be a checkpoint of recon"):
        checkpoint.load_checkpoint(path, "recon")
    checkpoint.load_settings(path, "seg")
    assert torch.equal(checkpoint.load_checkpoint(path, "seg")["model"]["w"], CONTENT["model"]["w"])
    assert len(reads) == 2
    checkpoint.load_settings(path, "seg")
    checkpoint.save_checkpoint(path, {**CONTENT, "settings": {"img_size": 32}})
    assert checkpoint.load_checkpoint(path, "seg")["settings"]["img_size"] == 32, "the file of now"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "best.pth"
    checkpoint.save_checkpoint(path, CONTENT)
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_bytes(b"half")
        raise KeyboardInterrupt
    checkpoint.load_checkpoint(path, "seg")
    assert [file.name for file in tmp_path.iterdir()] == ["best.pth"]


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*best\.pth"):
        checkpoint.save_checkpoint(tmp_path / "file" / "best.pth", CONTENT)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code in a checkpoint was run",))


@pytest.mark.parametrize("kind", ["missing", "html", "empty", "truncated", "pickle with code", "list", "other dict"])
def test_files_that_are_no_checkpoint_say_so_in_one_line(tmp_path, kind):
    path = tmp_path / "x.pth"
    if kind == "html":
        path.write_text("<!DOCTYPE html><title>404</title>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        checkpoint.save_checkpoint(path, CONTENT)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "pickle with code":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "other dict":
        torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match=r"x\.pth") as caught:
        checkpoint.load_checkpoint(path, "seg")
    assert "\n" not in str(caught.value)


def test_another_phase_says_so(tmp_path):
    checkpoint.save_checkpoint(tmp_path / "x.pth", CONTENT)
    with pytest.raises(UserError, match="must be a checkpoint of recon, but is one of seg"):
        checkpoint.load_checkpoint(tmp_path / "x.pth", "recon")


def test_weights_that_do_not_fit_say_so(tmp_path):
    with pytest.raises(UserError, match=r"x\.pth does not fit.*weight"):
        checkpoint.fill(nn.Linear(2, 2), {"bias": torch.zeros(2)}, tmp_path / "x.pth")


def test_an_unexpected_name_stays_on_one_line(tmp_path):
    model = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"unexpected we\\nird") as raised:
        checkpoint.fill(model, {**model.state_dict(), "we\nird": torch.zeros(2)}, tmp_path / "x.pth")
    assert "\n" not in str(raised.value)
