"""Which encoder phase 2 freezes, and what is said about it."""

from __future__ import annotations

import pytest
import torch
from toy import make_data

import models
import train_seg
from models import baselines
from utils.common.errors import UserError
from utils.networks.checkpoints import save_checkpoint
from utils.settings.provenance import list_hashes
from utils.training.pretrained_encoder import encoder_file, load_pretrained


@pytest.fixture
def base(tmp_path):
    return make_data(tmp_path / "data")


def settings(base, *flags):
    return train_seg.parser().settings(["--base_dir", str(base), "--output_dir", str(base.parent / "out"), *flags])


def save_encoder(path, base, epoch=20, **lists):
    """A checkpoint of phase 1 with random weights, of these lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    of_run = settings(base, *[f"--{name}={file}" for name, file in lists.items()])
    torch.manual_seed(0)
    content = {"phase": "recon", "model": models.build_reconstruction().state_dict(), "epoch": epoch}
    recorded = {"normalization": "imagenet", "white_level": None, "epochs": 20}
    save_checkpoint(path, {**content, "settings": recorded, "provenance": {"lists": list_hashes(of_run)}})
    return path


def test_its_file(base, tmp_path):
    last = tmp_path / "out" / "seg" / "last.pth"
    with pytest.raises(UserError, match=r"out/recon/best\.pth was not found: phase 2 requires the encoder"):
        encoder_file(settings(base), last)
    best = save_encoder(tmp_path / "out" / "recon" / "best.pth", base)
    assert encoder_file(settings(base), last) == best
    assert encoder_file(settings(base, "--recon_weights", str(best)), last) == best
    for flags in (["--dynamic", "none"], ["--kernel_source", "random"], ["--init_from", str(best)]):
        assert encoder_file(settings(base, *flags), last) is None
        with pytest.raises(UserError, match=r"--recon_weights"):
            encoder_file(settings(base, *flags, "--recon_weights", str(best)), last)


def test_a_baseline_whose_library_is_missing_is_one_line(base, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    (tmp_path / "of_a_library.py").write_text("import not_installed\n")
    with pytest.raises(UserError, match=r"^--variant of_a_library requires not_installed, which is not installed$"):
        encoder_file(settings(base, "--variant", "of_a_library"), tmp_path / "last.pth")


def test_a_run_that_resumes_needs_none(base, tmp_path):
    last = tmp_path / "out" / "seg" / "last.pth"
    last.parent.mkdir(parents=True)
    last.touch()
    assert encoder_file(settings(base, "--resume", "--recon_weights", "gone.pth"), last) is None


def said(path, of_run, capsys):
    load_pretrained(path, of_run)
    return capsys.readouterr().out


def test_another_list_is_said(base, tmp_path, capsys):
    (base / "other.txt").write_text("0\n8\n")
    own = save_encoder(tmp_path / "own.pth", base)
    other = save_encoder(tmp_path / "other.pth", base, train_file_dir="other.txt")
    assert said(own, settings(base), capsys) == ""
    assert "pretrained on another training list than train.txt" in said(other, settings(base), capsys)
    swapped = settings(base, "--train_file_dir", "val.txt", "--val_file_dir", "train.txt")
    assert "own.pth was pretrained on the validation list of this run" in said(own, swapped, capsys)


def test_an_unfinished_phase_1_is_said(base, tmp_path, capsys):
    best = save_encoder(tmp_path / "recon" / "best.pth", base, epoch=3)
    assert said(best, settings(base), capsys) == "", "without last.pth it cannot be known"
    save_encoder(best.with_name("last.pth"), base, epoch=7)
    assert f"phase 1 is not finished: {best.with_name('last.pth')} has 7 of 20 epochs" in said(
        best, settings(base), capsys
    )
    save_encoder(best.with_name("last.pth"), base, epoch=20)
    assert said(best, settings(base), capsys) == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--normalization", "authors"], "--normalization imagenet, but this run uses --normalization authors"),
        (["--white_level", "4095"], "no --white_level, but this run uses --white_level 4095"),
    ],
)
def test_another_preprocessing_is_refused(base, tmp_path, flags, message):
    path = save_encoder(tmp_path / "own.pth", base)
    with pytest.raises(UserError, match=message):
        load_pretrained(path, settings(base, *flags))
