"""The protocol card, what --compare makes of it, and choosing on one list while reporting on another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import evaluation
import models
from datasets.known_divisions import facts
from datasets.lists import read_list
from datasets.prepare.sample import make_sample
from models import registry
from utils.common.errors import UserError
from utils.evaluation.protocol_card import unlike
from utils.evaluation.result_files import read_summary
from utils.networks.checkpoints import load_checkpoint, save_checkpoint
from utils.settings.provenance import list_facts, list_hashes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three epochs whose second one is the best, on a set with three lists: its folder, and the set's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "RECONSTRUCTION_DEPTHS", (1, 1, 1, 1))
        patch.setitem(models.VARIANTS, "srs_tiny", registry.Variant((8, 16, 32, 64), (1, 1, 1, 1)))
        base = tmp_path_factory.mktemp("data") / "set"
        make_sample(base, count=12, size=32, val_share=0.5)
        names = read_list(base / "val.txt")
        (base / "val.txt").write_text("\n".join(names[:3]))
        (base / "test.txt").write_text("\n".join(names[3:]))
        out = base.parent / "run"
        flags = ["--base_dir", str(base), "--output_dir", str(out), "--img_size", "32", "--variant", "srs_tiny"]
        args = evaluation.parser().settings([*flags, "--workers", "0", "--test_file_dir", "test.txt"])
        content = {
            "phase": "seg",
            "settings": vars(args) | {"epochs": 3},
            "provenance": {"lists": list_hashes(args), "divisions": list_facts(args)},
            "model": models.build_srs("srs_tiny").state_dict(),
            "best": {"epoch": 2, "iou": 0.5},
        }
        save_checkpoint(out / "seg" / "best.pth", content | {"epoch": 2})
        save_checkpoint(out / "seg" / "last.pth", content | {"epoch": 3, "optimizer": {}})
        yield out, base


def evaluate(*argv):
    return evaluation.main(evaluation.settings([*map(str, argv), "--workers", "0"]))


def test_the_card_of_an_evaluation(run, capsys):
    out, base = run
    card = evaluate("--weights", out / "seg" / "best.pth")["protocol"]
    lists = {name: facts(read_list(base / f"{name}.txt")) for name in ("train", "val")}
    assert card["evaluated_list"] == card["epoch_list"] == lists["val"] and lists["val"]["cases"] == 3
    assert card["training_list"] == lists["train"] and lists["train"]["known"] is None
    assert card["epoch_rule"] == "best iou, chosen on this list"
    assert (card["size"], card["normalization"]) == ("32x32 pixels, masks by exact", "imagenet")
    assert card["threshold"] == 0.5 and "of each image, then averaged" in card["pooling"]
    assert "an empty mask is empty" in card["empty_images"]
    printed = capsys.readouterr().out
    assert (
        "epoch rule      best iou, chosen on this list" in printed and "[low, high]: 95 % bootstrap interval" in printed
    )
    assert read_summary(out / "evaluation" / "best-val")["protocol"] == card
    last = evaluate("--weights", out / "seg" / "last.pth", "--resize", "back", "--base_dir", base)["protocol"]
    assert last["epoch_rule"] == "last epoch"
    assert last["size"] == "each image's own size, predicted at 32x32 pixels"


def test_best_and_last_on_the_test_list_by_one_command(run, tmp_path):
    out, base = run
    summaries = evaluate("--output_dir", out, "--test", "--report", tmp_path)
    assert [summary["protocol"]["epoch_rule"] for summary in summaries] == [
        "best iou, chosen on another list",
        "last epoch",
    ]
    for name, summary in zip(("best", "last"), summaries, strict=True):
        assert summary["images"] == 3 and summary["settings"]["val_file_dir"] == "test.txt"
        assert summary["protocol"]["evaluated_list"] == facts(read_list(base / "test.txt"))
        assert (
            read_summary(out / "evaluation" / f"{name}-test")["provenance"]["weights"]
            == summary["provenance"]["weights"]
        )
        assert (tmp_path / name / "report.html").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weights", "x.pth"], "--test cannot be combined with --weights"),
        (["--val_file_dir", "val.txt"], "--test cannot be combined with --val_file_dir"),
        (
            ["--test_file_dir", "train.txt"],
            r"train\.txt must not contain training cases: .* and 3 more are also in train\.txt",
        ),
    ],
)
def test_what_test_refuses(run, more, message):
    with pytest.raises(UserError, match=message):
        evaluate("--output_dir", run[0], "--test", *more)


@pytest.mark.parametrize("entry", ["images/{}", "./{}", "{}.png"])
def test_a_training_case_is_refused_however_it_is_written(run, tmp_path, entry):
    out, base = run
    names = [*read_list(base / "test.txt"), entry.format(read_list(base / "train.txt")[2])]
    (base / "written.txt").write_text("\n".join(names))
    with pytest.raises(UserError, match=r"written\.txt must not contain training cases"):
        evaluate("--output_dir", out, "--test", "--test_file_dir", "written.txt")


def test_a_test_list_that_chose_the_epoch_is_said(run, capsys):
    out, _ = run
    evaluate("--output_dir", out, "--test", "--test_file_dir", "val.txt")
    assert "warning: 3 cases of val.txt are also in val.txt, which chose best.pth" in capsys.readouterr().out
    evaluate("--output_dir", out, "--test")
    assert "warning" not in capsys.readouterr().out


def test_the_list_of_the_run_is_evaluated_and_training_images_are_said(run, tmp_path, capsys):
    """Whether the data folder of the training is named again or not."""
    out, base = run
    weights = tmp_path / "run" / "seg" / "best.pth"
    content = load_checkpoint(out / "seg" / "best.pth", "seg")
    content["settings"] |= {"val_file_dir": "test.txt", "output_dir": str(tmp_path / "run")}
    save_checkpoint(weights, content)
    for more in ([], ["--base_dir", base]):
        assert evaluation.settings(["--weights", str(weights), *map(str, more)]).val_file_dir == "test.txt"
    copied = tmp_path / "copied"
    shutil.copytree(base, copied)
    assert evaluation.settings(["--weights", str(weights), "--base_dir", str(copied)]).val_file_dir == "val.txt"
    mixed = [*read_list(base / "test.txt"), *read_list(base / "train.txt")[:2]]
    (base / "mixed.txt").write_text("\n".join(mixed))
    evaluate("--weights", weights, "--val_file_dir", "mixed.txt")
    assert "warning: 2 of 5 images are in the training list: " in capsys.readouterr().out


def test_results_of_other_weights_or_lists_are_not_replaced(run, tmp_path):
    out, base = run
    mine = ["--base_dir", base, "--output_dir", tmp_path / "mine"]
    evaluate("--weights", out / "seg" / "best.pth", *mine)
    kept = (tmp_path / "mine" / "evaluation" / "best-val" / "summary.json").read_bytes()
    other = tmp_path / "other" / "seg" / "best.pth"
    content = load_checkpoint(out / "seg" / "best.pth", "seg")
    save_checkpoint(other, content | {"epoch": 1})
    with pytest.raises(UserError, match=r"best-val contains the results of .*run/seg/best\.pth.*--output_dir"):
        evaluate("--weights", other, *mine)
    (tmp_path / "val.txt").write_text((base / "test.txt").read_text())
    with pytest.raises(UserError, match=r"best-val contains the results of val\.txt"):
        evaluate("--weights", out / "seg" / "best.pth", *mine, "--val_file_dir", tmp_path / "val.txt")
    assert (tmp_path / "mine" / "evaluation" / "best-val" / "summary.json").read_bytes() == kept
    evaluate("--weights", out / "seg" / "best.pth", *mine)
    moved = shutil.copytree(tmp_path / "mine", tmp_path / "moved")
    (moved / "seg").mkdir()
    save_checkpoint(moved / "seg" / "best.pth", content | {"epoch": 1})
    evaluate("--weights", moved / "seg" / "best.pth")  # a moved run that was trained further
    save_checkpoint(other, content)
    evaluate("--weights", shutil.copy(out / "seg" / "best.pth", other), *mine)  # the same weights at another place


def test_results_of_other_data_are_not_replaced(run, tmp_path):
    out, base = run
    mine = ["--weights", out / "seg" / "best.pth", "--output_dir", tmp_path / "mine", "--base_dir"]
    summary = tmp_path / "mine" / "evaluation" / "best-val" / "summary.json"
    first, moved, other = (Path(shutil.copytree(base, tmp_path / name)) for name in ("first", "moved", "other"))
    evaluate(*mine, first)
    image = next(path for path in (other / "images").iterdir() if path.stem == read_list(other / "val.txt")[0])
    cv2.imwrite(str(image), np.zeros((20, 20), np.uint8))
    cv2.imwrite(str(next((other / "masks").glob(f"{image.stem}*"))), np.zeros((20, 20), np.uint8))
    kept = summary.read_bytes()
    with pytest.raises(UserError, match=r"best-val contains the results of .*first, which those of .*other would repl"):
        evaluate(*mine, other)
    assert summary.read_bytes() == kept
    evaluate(*mine, moved)  # equal files in another folder
    shutil.rmtree(moved)
    other.rename(moved)
    evaluate(*mine, moved)  # files corrected in the same folder
    content = json.loads(summary.read_text())
    del content["provenance"]["files"]
    summary.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"contains the results of .*moved, which those of .*first"):
        evaluate(*mine, first)


def test_the_epoch_rule_knows_a_list_by_its_cases(run):
    out, base = run
    text = (base / "val.txt").read_text()
    try:
        (base / "val.txt").write_text(text.replace("\n", "\r\n"))
        card = evaluate("--weights", out / "seg" / "best.pth")["protocol"]
    finally:
        (base / "val.txt").write_text(text)
    assert card["epoch_rule"] == "best iou, chosen on this list"


def test_no_test_list(run, tmp_path):
    other = shutil.copytree(run[1], tmp_path / "other data")
    with pytest.raises(UserError, match="--test requires a test list: pass --test_file_dir LIST"):
        evaluate("--output_dir", run[0], "--base_dir", other, "--test")
    with pytest.raises(UserError, match="--unlike_protocols requires --compare"):
        evaluate("--base_dir", run[1], "--unlike_protocols")


def test_unlike_protocols_are_compared_only_if_told(run, tmp_path, capsys):
    out, _ = run
    evaluate("--weights", out / "seg" / "best.pth")
    evaluate("--weights", out / "seg" / "last.pth")
    best, last = (out / "evaluation" / f"{name}-val" for name in ("best", "last"))
    compare = ["--compare", str(best), str(last)]
    with pytest.raises(UserError, match=r"(?s)protocols differ.*epoch rule: best-val best iou.*last-val last epoch"):
        evaluation.main(evaluation.settings(compare))
    evaluation.main(evaluation.settings([*compare, "--unlike_protocols", "--report", str(tmp_path)]))
    assert "note: the protocols differ: epoch rule" in capsys.readouterr().out
    assert "the protocols differ: epoch rule" in (tmp_path / "comparison.html").read_text()
    summary = json.loads((last / "summary.json").read_text())
    del summary["protocol"]
    (last / "summary.json").write_text(json.dumps(summary))
    evaluation.main(evaluation.settings(compare))
    assert "warning: last-val: no protocol card" in capsys.readouterr().out


CARD = {
    "evaluated_list": {"cases": 3, "sha256": "a" * 64, "known": "BUSI, field division 1, val"},
    "training_list": {"cases": 7, "sha256": "b" * 64, "known": None},
    "epoch_rule": "last epoch",
    "size": "64x64 pixels, masks by exact",
    "threshold": 0.5,
    "pooling": "x",
    "empty_images": "y",
    "normalization": "imagenet",
}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("size", "128x128 pixels, masks by exact", "size: a 64x64 pixels, masks by exact, b 128x128 pixels"),
        ("threshold", 0.4, "threshold: a 0.5, b 0.4"),
        ("pooling", "z", "pooling: a x, b z"),
        ("epoch_rule", "epoch 7", "epoch rule: a last epoch, b epoch 7"),
        ("empty_images", "z", "empty images: a y, b z"),
        ("normalization", "authors", "normalization: a imagenet, b authors"),
        (
            "evaluated_list",
            {"cases": 4, "sha256": "c" * 64},
            "evaluated list: a BUSI, field division 1, val, b 4 cases, cccccccc",
        ),
        ("training_list", {"cases": 7, "sha256": "c" * 64}, "training list: a 7 cases, bbbbbbbb, b 7 cases, cccccccc"),
    ],
)
def test_each_field_counts(field, value, said):
    differing, unknown = unlike([("a", CARD), ("b", CARD | {field: value})])
    assert len(differing) == 1 and differing[0].startswith(said) and unknown == []


def test_what_is_unknown_is_not_unlike():
    assert unlike([("a", CARD), ("b", dict(CARD)), ("c", dict(CARD))]) == ([], [])
    differing, unknown = unlike([("a", CARD), ("b", CARD | {"training_list": None}), ("c", None)])
    assert differing == [] and unknown == [
        "c: no protocol card, so the protocol is unknown",
        "b: training list unknown",
    ]


def test_a_checkpoint_of_before_knows_less(run, tmp_path):
    content = load_checkpoint(run[0] / "seg" / "best.pth", "seg")
    for name in ("provenance", "best", "epoch"):
        del content[name]
    save_checkpoint(tmp_path / "old.pth", content)
    card = evaluate("--weights", tmp_path / "old.pth", "--output_dir", tmp_path)["protocol"]
    assert card["training_list"] is card["epoch_list"] is card["epoch_rule"] is None
    assert card["evaluated_list"]["cases"] == 3
