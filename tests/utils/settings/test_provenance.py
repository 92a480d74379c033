"""What is recorded of list files."""

from __future__ import annotations

import argparse

from utils.settings.provenance import list_facts


def test_lists_that_cannot_be_read_are_left_out(tmp_path):
    (tmp_path / "val.txt").write_text("a.png\nb\n")
    settings = argparse.Namespace(base_dir=str(tmp_path), train_file_dir="train.txt", val_file_dir="val.txt")
    assert list_facts(settings).keys() == {"val_file_dir"}
    (tmp_path / "train.txt").write_bytes(b"\0\xff")
    found = list_facts(settings)
    assert found.keys() == {"val_file_dir"} and found["val_file_dir"]["cases"] == 2
    assert list_facts(argparse.Namespace(base_dir=str(tmp_path))) == {}
