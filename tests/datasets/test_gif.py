"""GIF masks, as retina sets have them: the pixels that Pillow reads, in pairing and in decoding."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from raw_sets import picture, target, write

from datasets.decode import image_size, read_image, read_mask
from datasets.load import load_lists
from datasets.pairing import find_cases, image_files
from utils.common.errors import UserError


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB"])
def test_a_gif_mask_has_its_pixels(tmp_path, mode):
    path = tmp_path / "m.gif"
    Image.fromarray(target(3, 5)).convert(mode).save(path)
    np.testing.assert_array_equal(read_mask([path]) * 255, target(3, 5))
    np.testing.assert_array_equal(read_image(path), np.repeat(target(3, 5)[..., None], 3, 2))
    assert image_size(path) == (20, 30)


def test_a_colour_palette_and_transparency(tmp_path):
    indices = Image.fromarray(target(3, value=1), "P")
    indices.putpalette([0, 0, 0, 0, 255, 0])
    indices.save(tmp_path / "green.gif")
    assert (read_image(tmp_path / "green.gif")[3] == (0, 255, 0)).all()
    np.testing.assert_array_equal(read_mask([tmp_path / "green.gif"]) * 255, target(3))
    indices.save(tmp_path / "clear.gif", transparency=0)
    np.testing.assert_array_equal(read_mask([tmp_path / "clear.gif"]) * 255, target(3))


@pytest.mark.parametrize("suffix", [".gif", ".GIF"])
def test_gif_masks_in_training(tmp_path, suffix):
    for i in range(1, 4):
        write(tmp_path / "images" / f"a{i}.png", picture(i))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(target(i)).save(tmp_path / "masks" / f"a{i}_mask{suffix}", "GIF")
    (tmp_path / "train.txt").write_text("a1\na2\na3\n")
    cases = load_lists(tmp_path, {"training": "train.txt"})["training"]
    np.testing.assert_array_equal(read_mask(cases[1].masks) * 255, target(2))


def test_gif_files_are_no_images_and_no_second_masks(tmp_path):
    write(tmp_path / "images" / "a.png", picture(1))
    Image.fromarray(target(1)).save(tmp_path / "images" / "preview.gif")
    write(tmp_path / "masks" / "a.png", target(1))
    assert [path.name for path in image_files(tmp_path / "images")] == ["a.png"]
    Image.fromarray(target(2)).save(tmp_path / "masks" / "a.gif")
    assert "ambiguous, masks differ only in their extension" in find_cases(tmp_path, ["a"])[1][0]


def test_more_than_one_frame_and_damage_are_refused(tmp_path):
    first, second = (Image.fromarray(target(row)) for row in (1, 2))
    path = tmp_path / "m.gif"
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(UserError, match="must contain one frame"):
        read_mask([path])
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (90, 90), np.uint8) * 255).save(path)
    whole = path.read_bytes()
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=r"m\.gif: .*(damaged|truncated)") as error:
            read_mask([path])
        assert "\n" not in str(error.value)
