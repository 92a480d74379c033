"""The contact sheet: which images it shows, what stands in a row, how large it gets."""

from __future__ import annotations

import numpy as np
import pytest

from utils.common.pictures import GAP, TARGET, save_png
from utils.prediction import contact_sheet
from utils.prediction.contact_sheet import ACROSS, MOST_LETTERS, ROW, SHOWN, SIDE, assemble, choose, draw_row


def tiles(row):
    """Image, mask and probability of a row."""
    return [row[18:-GAP, i * (SIDE + GAP) : i * (SIDE + GAP) + SIDE] for i in range(3)]


def test_a_growing_folder_keeps_most_of_the_choice():
    names = [f"case{i}" for i in range(1000)]
    before, after = choose(names[:900]), choose(names)
    assert len(before) == len(after) == SHOWN and len(before & after) > 0.7 * SHOWN
    assert choose(reversed(names)) == after and choose(names[:5]) == set(names[:5])
    assert choose(["\udcff", "b"]) == {"\udcff", "b"}, "a name that is not text"


@pytest.mark.parametrize(("height", "width"), [(1000, 700), (16, 24), (1, 1), (3000, 2), (160, 160)])
def test_a_row_has_one_shape_whatever_the_image(height, width):
    pixels = np.full((height, width), 60000, np.uint16)
    row = draw_row("x", pixels, np.zeros((height, width), np.float32), np.zeros((height, width), bool), 60000)
    assert row.shape == ROW and row.dtype == np.uint8
    image, mask, probability = tiles(row)
    assert (image == 255).any() and np.array_equal(image, mask) and (probability == 0).any()


def test_a_target_of_one_pixel_is_seen_on_a_reduced_image():
    probability = np.zeros((1024, 1024), np.float32)
    probability[511, 700] = 0.8
    _, mask, shown = tiles(draw_row("x", np.zeros((1024, 1024), np.uint8), probability, probability > 0.5))
    assert np.argwhere(shown[..., 0] == 204).tolist() == [[511 * SIDE // 1024, 700 * SIDE // 1024]]
    assert (mask == TARGET).all(2).sum() == 8, "the outline runs around it"
    _, below, _ = tiles(draw_row("x", np.zeros((1024, 1024), np.uint8), probability, probability > 0.95))
    assert not below.any()


def test_a_name_is_printed_and_fits(monkeypatch):
    printed = []
    monkeypatch.setattr(contact_sheet, "grid", lambda rows, captions: printed.extend(captions))
    for name in ("deep/a", "病例7", "long/" * 40 + "end"):
        draw_row(name, np.zeros((8, 8), np.uint8), np.zeros((8, 8)), np.zeros((8, 8), bool))
    assert printed[:2] == ["deep/a", "\\u75c5\\u4f8b7"]
    assert len(printed[2]) == MOST_LETTERS and printed[2].startswith("long/") and printed[2].endswith("/long/end")


def test_the_sheet_is_bounded_and_leaves_out_what_cannot_be_read(tmp_path):
    rows = [tmp_path / f"{i:02}.png" for i in range(SHOWN + 2)]
    for i, file in enumerate(rows[:SHOWN]):
        save_png(file, np.full(ROW, i, np.uint8))
    rows[SHOWN].write_text("no picture")
    save_png(rows[SHOWN + 1], np.zeros((9, 9, 3), np.uint8))
    sheet = assemble(rows, images=1000)
    lines = SHOWN // ACROSS
    assert sheet.shape == (18 + lines * (ROW[0] + GAP), ACROSS * (ROW[1] + GAP), 3)
    assert max(sheet.shape) < 1600
    assert sheet[18 + ROW[0] // 2, ROW[1] + GAP].tolist() == [1, 1, 1]
    assert assemble(rows[SHOWN:], images=2) is None
