import cv2
import numpy as np
import pytest

from datasets.checks import check_cases
from datasets.pairing import Case
from utils.common.errors import UserError


def case(folder, name, shape=(8, 9), mask_shape=(8, 9), mask_values=(0, 255)):
    """A case on disk; `mask_shape` None for a case without masks."""
    image = folder / f"{name}.png"
    cv2.imwrite(str(image), np.full(shape, 100, np.uint8))
    if mask_shape is None:
        return Case(name, image, ())
    mask = np.full(mask_shape, mask_values[0], np.uint8)
    mask[0, : len(mask_values)] = mask_values
    path = folder / f"{name}_mask.png"
    cv2.imwrite(str(path), mask)
    return Case(name, image, (path,))


def message(*args, **options):
    with pytest.raises(UserError) as caught:
        check_cases(*args, progress=False, **options)
    return str(caught.value)


def test_good_data_passes(tmp_path):
    assert check_cases([case(tmp_path, f"c{i}") for i in range(9)], [], progress=False) is None


def test_mask_of_another_size(tmp_path):
    wrong = case(tmp_path, "a", (8, 9), (16, 20))
    text = message([wrong], [])
    assert text.startswith("1 problem in the data:")
    assert "20x16" in text and "9x8" in text and "--fit_masks" in text
    assert str(wrong.image) in text and str(wrong.masks[0]) in text
    check_cases([wrong], [], fit_masks=True, progress=False)


def test_fit_masks_still_decodes(tmp_path):
    assert "--mask_threshold" in message([case(tmp_path, "a", mask_values=(0, 100, 255))], [], fit_masks=True)


def test_threshold_is_passed_on(tmp_path):
    soft = case(tmp_path, "a", mask_values=(0, 100, 255))
    check_cases([soft], [], mask_threshold=99, progress=False)
    check_cases([soft], [], mask_threshold=0, progress=False)


def test_image_and_mask_of_one_case_are_both_named(tmp_path):
    broken = case(tmp_path, "a", mask_values=(0, 100, 255))
    broken.image.write_bytes(b"no image")
    text = message([broken], [])
    assert text.startswith("2 problems") and str(broken.image) in text and str(broken.masks[0]) in text


def test_without_masks_only_the_image_is_decoded(tmp_path):
    cases = [case(tmp_path, "a", mask_shape=None), case(tmp_path, "b", mask_shape=None)]
    check_cases(cases, [], progress=False)
    cases[1].image.write_bytes(b"")
    assert str(cases[1].image) in message(cases, [])


def test_problems_passed_in_come_first_and_order_is_kept(tmp_path):
    cases = [case(tmp_path, name, mask_values=(0, 100, 255)) for name in "cab"]
    lines = message(cases, ["first.", "second."]).splitlines()
    assert lines[0] == "5 problems in the data:"
    assert lines[1:3] == ["  first.", "  second."]
    assert [f"{name}_mask.png" in line for name, line in zip("cab", lines[3:], strict=True)] == [True] * 3


def test_only_problems_and_no_cases():
    assert message([], ["a is missing."]) == "1 problem in the data:\n  a is missing."


@pytest.mark.parametrize(("count", "end"), [(20, ":"), (27, "; the first 20:")])
def test_at_most_20_are_shown(count, end):
    lines = message([], [f"problem {i}." for i in range(count)]).splitlines()
    assert lines[0] == f"{count} problems in the data{end}"
    assert lines[1:] == [f"  problem {i}." for i in range(20)]


def test_progress_bar(tmp_path, capsys, monkeypatch):
    cases = [case(tmp_path, "a")]
    monkeypatch.setattr("utils.common.progress._is_terminal", lambda file: True)
    check_cases(cases, [])
    assert "checking" in capsys.readouterr().err
    check_cases(cases, [], progress=False)
    assert capsys.readouterr().err == ""


def test_an_image_that_the_network_would_not_take(tmp_path):
    text = message([case(tmp_path, "a", (7, 40), (7, 40))], [])
    assert "a.png: the image must have at least 8x8 pixels, but has 40x7" in text
    check_cases([case(tmp_path, "b", (8, 8), (8, 8))], [], progress=False)
