from __future__ import annotations

import cv2
import numpy as np
import pytest

from utils.common import pictures


def test_errors_colours_what_was_found_missed_and_false():
    image = np.full((2, 2, 3), 100, np.uint8)
    target = np.array([[True, True], [False, False]])
    prediction = np.array([[True, False], [True, False]])
    out = pictures.errors(image, target, prediction).astype(int)
    assert out[0, 0].argmax() == 1  # found: green
    assert out[0, 1, 0] > out[0, 1, 2] + 50 and out[0, 1, 1] > out[0, 1, 2] + 50  # missed: yellow
    assert out[1, 0].argmax() == 0 and out[1, 0, 1] < out[1, 0, 0] - 50  # false: red
    assert (out[1, 1] == 60).all()  # the rest: the image, dimmed


@pytest.mark.parametrize(("pixel", "seen"), [(np.uint8(80), 80), (np.uint16(80 * 257), 80), (np.uint16(65280), 254)])
@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3)])
def test_overlay_outlines_the_target_and_leaves_the_rest(shape, pixel, seen):
    pixels, mask = np.full(shape, pixel), np.zeros((7, 9), bool)
    mask[3, 4] = True
    out = pictures.overlay(pixels, mask)
    assert out.shape == (7, 9, 3) and out.dtype == np.uint8
    around = np.zeros((7, 9), bool)
    around[2:5, 3:6] = True
    around[3, 4] = False
    assert (out[around] == pictures.TARGET).all()
    assert (out[~around & ~mask] == seen).all()
    assert out[3, 4].tolist() == [seen - seen // 4 + colour // 4 for colour in pictures.TARGET], "tinted, not hidden"
    assert (pixels == pixel).all()


def test_bars_stand_above_and_below_the_line():
    out = pictures.bars(np.array([1.0, -0.5, 0.0]), height=100, width=10)
    assert out.shape == (100, 34, 3)
    red, blue = ((out == colour).all(axis=2) for colour in (pictures.POSITIVE, pictures.NEGATIVE))
    assert red[:50, 4:10].sum() > 250 and not red[:, 14:].any()
    assert blue[51:, 14:20].sum() == pytest.approx(red.sum() / 2, rel=0.15) and not blue[:50].any()


def test_a_drawn_kernel_shows_signs_on_one_scale():
    kernels = np.zeros((8, 4, 3, 3), np.float32)
    kernels[0, 0, 0, 0], kernels[7, 3, 2, 2] = 2, -1
    out = pictures.draw_kernel(kernels, count=2, zoom=2)
    assert out.shape == (2 * 6 + pictures.LINE, 2 * 6 + pictures.LINE, 3)
    assert out[0, 0].tolist() == list(pictures.POSITIVE), "the largest in full"
    half = 255 + 0.5 * (np.array(pictures.NEGATIVE) - 255)
    assert np.abs(out[-1, -1] - half).max() <= 1
    assert (out == 255).all(axis=2).sum() == 12 * 12 - 8
    of_report = pictures.draw_kernel(kernels, count=2, zoom=2, limit=4)
    assert np.abs(of_report[0, 0] - (255 + 0.5 * (np.array(pictures.POSITIVE) - 255))).max() <= 1


def test_grid_places_rows_and_captions():
    black, white = np.zeros((10, 12)), np.ones((10, 12))
    picture = pictures.grid([[black, white], [white, black]])
    assert picture.shape == (2 * 14, 2 * 16, 3) and picture.dtype == np.uint8
    assert picture[5, 5, 0] == picture[19, 21, 0] == 0 and picture[5, 21, 0] == picture[19, 5, 0] == 255
    captioned = pictures.grid([[black, white], [white, black]], ["one", "two"])
    assert captioned.shape[0] > picture.shape[0] and captioned[:18].min() == 0


def test_png_keeps_the_colours(tmp_path):
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[..., 0] = 200
    pictures.save_png(tmp_path / "new" / "x.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "x.png"))[..., ::-1], picture)
