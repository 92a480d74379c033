import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets.decode import read_image, read_mask
from utils.common.errors import UserError

SHAPE = (20, 30)
TARGET = np.zeros(SHAPE, np.uint8)
TARGET[5:9, 8:18] = 1


def save(path, array, **options):
    """Write with Pillow (RGB order; palette, 1-bit and RGBA are possible)."""
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
    return path


def save16(path, array):
    assert cv2.imwrite(str(path), array)
    return path


def with_values(*values, dtype=np.uint8):
    """A mask that holds all `values`: the first one nearly everywhere, the last one on the target."""
    array = np.full(SHAPE, values[0], dtype)
    array[TARGET > 0] = values[-1]
    array[0, : len(values)] = values
    return array


def palette_image(indices, *colours):
    image = Image.fromarray(indices, "L").convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([channel for colour in colours for channel in colour])
    return image


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


# Images


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_rgb_image(tmp_path, rgb, suffix):
    image = read_image(save(tmp_path / f"a.{suffix}", rgb))
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, rgb)


def test_jpeg_image_is_rgb(tmp_path):
    red = np.full((*SHAPE, 3), (200, 20, 90), np.uint8)
    assert np.abs(read_image(save(tmp_path / "a.jpg", red)).astype(int) - red).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_gray_image_has_three_equal_channels(tmp_path, rgb, suffix):
    gray = rgb[..., 0]
    image = read_image(save(tmp_path / f"a.{suffix}", gray))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.dstack([gray] * 3))


def test_alpha_of_an_image_is_dropped(tmp_path, rgb):
    alpha = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", np.dstack([rgb, alpha]))), rgb)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_palette_image(tmp_path, suffix):
    image = read_image(save(tmp_path / f"a.{suffix}", palette_image(TARGET, (10, 20, 30), (200, 100, 0))))
    assert image.shape == (*SHAPE, 3)
    assert image[0, 0].tolist() == [10, 20, 30] and image[6, 10].tolist() == [200, 100, 0]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_one_bit_image(tmp_path, suffix):
    image = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(TARGET * 255).convert("1")))
    np.testing.assert_array_equal(image, np.dstack([TARGET * 255] * 3))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_image_keeps_its_precision(tmp_path, suffix, channels):
    array = np.random.default_rng(2).integers(0, 65536, (*SHAPE, channels), dtype=np.uint16)
    array[0, 0], array[0, 1], array[0, 2] = 0, 65535, 257
    image = read_image(save16(tmp_path / f"a.{suffix}", array))
    assert image.dtype == np.float32 and image.shape == (*SHAPE, 3)
    np.testing.assert_allclose(image, np.broadcast_to(array[..., ::-1], image.shape) / 257, rtol=1e-6)
    assert (image[0, 0].max(), image[0, 1].min(), image[0, 2].max()) == (0, 255, 1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_orientation_is_not_applied(tmp_path, rgb, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / f"a.{suffix}", rgb, exif=exif)
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
    image = read_image(path)
    assert image.shape[:2] == SHAPE
    if suffix != "jpg":
        np.testing.assert_array_equal(image, rgb)


def test_non_ascii_path(tmp_path, rgb):
    assert read_image(save(tmp_path / "é 世界.png", rgb)).shape == rgb.shape


# Broken files


@pytest.mark.parametrize("read", [read_image, lambda path: read_mask([path])])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_file(tmp_path, rgb, suffix, read):
    path = save(tmp_path / f"a.{suffix}", rgb)
    data = path.read_bytes()
    for length in (20, len(data) // 2, len(data) - 13):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="truncated") as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_jpeg_with_a_thumbnail_cut_in_the_scan(tmp_path, rgb):
    # The end marker of the thumbnail must not count as the one of the image.
    path = save(tmp_path / "a.jpg", rgb)
    data = path.read_bytes()
    thumbnail = b"\xff\xe1" + (2 + len(data)).to_bytes(2, "big") + data
    path.write_bytes(data[:2] + thumbnail + data[2:])
    assert read_image(path).shape == rgb.shape
    path.write_bytes(data[:2] + thumbnail + data[2:-20])
    with pytest.raises(UserError, match="ends before the image does"):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "cause"), [(None, "cannot be read"), (b"", "empty"), (b"not an image", "not an image")]
)
def test_unreadable_file(tmp_path, data, cause):
    path = tmp_path / "a.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=cause) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_other_pixel_types_are_refused(tmp_path, dtype):
    path = save16(tmp_path / "a.tif", np.ones(SHAPE, dtype))
    for read in (read_image, lambda p: read_mask([p], threshold=0)):
        with pytest.raises(UserError, match=np.dtype(dtype).name):
            read(path)


def test_several_pages_are_refused(tmp_path):
    page = Image.fromarray(TARGET * 255)
    path = save(tmp_path / "a.tif", page, save_all=True, append_images=[page])
    with pytest.raises(UserError, match="must contain one page"):
        read_mask([path])


# Masks with one meaning


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("value", [1, 7, 128, 255])
def test_black_and_one_value(tmp_path, suffix, value):
    mask = read_mask([save(tmp_path / f"a.{suffix}", TARGET * value)])
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, TARGET)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("value", [1, 255, 4095, 65535])
def test_16_bit_mask(tmp_path, suffix, value):
    path = save16(tmp_path / f"a.{suffix}", TARGET.astype(np.uint16) * value)
    np.testing.assert_array_equal(read_mask([path]), TARGET)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_mask_modes(tmp_path, suffix, mode):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(TARGET * 255).convert(mode))
    np.testing.assert_array_equal(read_mask([path]), TARGET)


@pytest.mark.parametrize("compression", ["group4", None])
def test_bilevel_tiff_with_white_as_zero(tmp_path, compression):
    """Programs disagree whether it is inverted: an image is, a mask is refused."""
    one_bit = Image.fromarray(TARGET * 255).convert("1")
    path = save(tmp_path / "a.tif", one_bit, compression=compression, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(path)[..., 0], TARGET * 255)
    for threshold in (None, 0):
        with pytest.raises(UserError, match="WhiteIsZero") as caught:
            read_mask([path], threshold)
        assert 'photometric="minisblack"' in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("mask", [TARGET.astype(bool), TARGET * 255, TARGET.astype(np.uint16)])
def test_tiff_mask_of_tifffile(tmp_path, mask):
    """tifffile writes boolean arrays as WhiteIsZero."""
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
    np.testing.assert_array_equal(read_mask([tmp_path / "a.tif"]), TARGET)
    tifffile.imwrite(tmp_path / "b.tif", mask, photometric=None if mask.dtype == bool else "miniswhite")
    with pytest.raises(UserError, match="WhiteIsZero"):
        read_mask([tmp_path / "b.tif"])


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("colour", [(200, 0, 0), (0, 0, 1), (10, 200, 30)])
def test_one_colour_on_black(tmp_path, suffix, colour):
    palette = save(tmp_path / f"p.{suffix}", palette_image(TARGET, (0, 0, 0), colour))
    direct = save(tmp_path / f"d.{suffix}", TARGET[..., None] * np.array(colour, np.uint8))
    np.testing.assert_array_equal(read_mask([palette]), TARGET)
    np.testing.assert_array_equal(read_mask([direct]), TARGET)


def test_16_bit_colour_on_black(tmp_path):
    path = save16(tmp_path / "a.png", TARGET[..., None] * np.array([0, 40000, 300], np.uint16))
    np.testing.assert_array_equal(read_mask([path]), TARGET)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_value_only(tmp_path, dtype):
    path = tmp_path / "a.png"
    assert read_mask([save16(path, np.zeros(SHAPE, dtype))]).sum() == 0
    for value in {1, 255, np.iinfo(dtype).max}:
        assert read_mask([save16(path, np.full(SHAPE, value, dtype))]).min() == 1


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_constant_alpha_is_dropped(tmp_path, alpha):
    rgba = np.dstack([TARGET * 255] * 3 + [np.full_like(TARGET, alpha)])
    np.testing.assert_array_equal(read_mask([save(tmp_path / "a.png", rgba)]), TARGET)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 10, 0)])
def test_alpha_is_the_mask_if_colour_is_constant(tmp_path, colour):
    rgba = np.dstack([np.full((*SHAPE, 3), colour, np.uint8), TARGET * 255])
    path = save(tmp_path / "a.png", rgba)
    np.testing.assert_array_equal(read_mask([path]), TARGET)
    np.testing.assert_array_equal(read_mask([path], threshold=100), TARGET)


def test_alpha_that_agrees_with_colour(tmp_path):
    rgba = np.dstack([TARGET * 255, TARGET * 0, TARGET * 0, TARGET * 128])
    np.testing.assert_array_equal(read_mask([save(tmp_path / "a.png", rgba)]), TARGET)


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("resaved", [False, True])
def test_jpeg_noise(tmp_path, quality, mode, resaved):
    big = np.kron(TARGET, np.ones((8, 8), np.uint8))
    path = save(tmp_path / "a.jpg", Image.fromarray(big * 255).convert(mode), quality=quality)
    if resaved:
        with Image.open(path) as image:
            path = save(tmp_path / "a.png", image.convert("L"))
    np.testing.assert_array_equal(read_mask([path]), big)


def test_jpeg_whose_channels_nearly_agree(tmp_path):
    big = np.kron(TARGET, np.ones((8, 8), np.uint8))
    path = save(tmp_path / "a.jpg", big[..., None] * np.array([255, 250, 240], np.uint8))
    decoded = read_image(path)
    assert 0 < np.ptp(decoded, axis=2).max() <= 32
    np.testing.assert_array_equal(read_mask([path]), big)


def test_jpeg_is_no_class_map(tmp_path):
    # In a lossless file these values are refused: classes 0 and 1, 255 to ignore. JPEG cannot hold a class map.
    array = np.zeros((16, 16), np.uint8)
    array[:, 8:] = 255
    array[3, 0], array[7, 4] = 1, 2
    path = tmp_path / "a.jpg"
    assert cv2.imwrite(str(path), array, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert np.unique(read_image(path)).tolist() == [0, 1, 255]
    np.testing.assert_array_equal(read_mask([path]), array > 127)


@pytest.mark.parametrize("values", [(0, 3, 250, 255), (0, 32, 223, 255), (2, 250, 251), (0, 1, 254, 255)])
def test_noise_around_black_and_white(tmp_path, values):
    array = with_values(*values)
    np.testing.assert_array_equal(read_mask([save(tmp_path / "a.png", array)]), array > 127)


def test_noise_in_16_bit(tmp_path):
    array = with_values(0, 8224, 65535 - 8224, 65535, dtype=np.uint16)
    np.testing.assert_array_equal(read_mask([save16(tmp_path / "a.tif", array)]), array > 32767)


def test_several_masks_are_merged(tmp_path):
    second = np.zeros_like(TARGET)
    second[15:18, 2:5] = 1
    paths = [save(tmp_path / "a_mask.png", TARGET * 255), save(tmp_path / "a_mask_1.png", second)]
    merged = read_mask(paths)
    assert merged.dtype == np.uint8
    np.testing.assert_array_equal(merged, TARGET | second)


def test_merged_masks_must_have_one_size(tmp_path):
    paths = [save(tmp_path / "a.png", TARGET * 255), save(tmp_path / "b.png", TARGET[:10] * 255)]
    with pytest.raises(UserError, match="30x10") as caught:
        read_mask(paths)
    assert "30x20" in str(caught.value) and str(paths[1]) in str(caught.value)


# Ambiguous masks


def rgba_that_disagrees():
    return np.dstack([TARGET * 255] * 3 + [255 - TARGET * 255])


AMBIGUOUS = {
    "class numbers": (with_values(0, 1, 2), "0, 1, 2"),
    "class numbers and 255 to ignore": (with_values(0, 1, 255), "0, 1, 255"),
    "one class of many and 255 to ignore": (with_values(0, 15, 255), "0, 15, 255"),
    "three class numbers and 255 to ignore": (with_values(0, 2, 7, 255), "0, 2, 7, 255"),
    "no class 0 and 255 to ignore": (with_values(1, 2, 255), "1, 2, 255"),
    "one class number and 255 to ignore": (with_values(1, 255), "1, 255"),
    "254 to ignore": (with_values(0, 1, 254), "0, 1, 254"),
    "soft edges": (with_values(0, 128, 255), "0, 128, 255"),
    "just outside of noise": (with_values(0, 33, 255), "0, 33, 255"),
    "outside of noise at white": (with_values(0, 222, 255), "0, 222, 255"),
    "no black": (with_values(1, 2), "1, 2"),
    "only near white": (with_values(240, 250, 255), "240, 250, 255"),
    "one other value": (with_values(128), "128"),
    "two colours on black": (palette_image(with_values(0, 1, 2), (0, 0, 0), (9, 0, 0), (0, 8, 0)), "(9, 0, 0)"),
    "two colours, no black": (palette_image(TARGET, (9, 9, 9), (200, 0, 0)), "(200, 0, 0)"),
    "one colour everywhere": (np.full((*SHAPE, 3), (255, 0, 0), np.uint8), "(255, 0, 0)"),
    "alpha against colour": (rgba_that_disagrees(), "alpha"),
    "soft alpha": (np.dstack([TARGET * 0] * 3 + [with_values(0, 100, 255)]), "0, 100, 255"),
    "many values": (with_values(*range(0, 250, 25)), "0, 25, 50, 75, 100, 125, ... (10 in all)"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_mask(tmp_path, name):
    array, found = AMBIGUOUS[name]
    path = save(tmp_path / "a.png", array)
    with pytest.raises(UserError, match="--mask_threshold") as caught:
        read_mask([path])
    assert str(path) in str(caught.value) and found in str(caught.value)
    assert read_mask([path], threshold=127).max() <= 1


def test_ambiguous_16_bit(tmp_path):
    path = save16(tmp_path / "a.png", with_values(0, 1, 255, dtype=np.uint16))
    with pytest.raises(UserError, match="0, 1, 255"):
        read_mask([path])


def test_jpeg_in_colour_is_ambiguous(tmp_path):
    big = np.kron(TARGET, np.ones((8, 8), np.uint8))
    path = save(tmp_path / "a.jpg", big[..., None] * np.array([255, 0, 0], np.uint8))
    with pytest.raises(UserError, match=r"in all"):
        read_mask([path])
    np.testing.assert_array_equal(read_mask([path], threshold=127)[::8, ::8], TARGET)


# Threshold


def test_threshold_takes_brighter_pixels(tmp_path):
    array = with_values(0, 99, 100, 101, 255)
    path = save(tmp_path / "a.png", array)
    np.testing.assert_array_equal(read_mask([path], threshold=100), array > 100)
    np.testing.assert_array_equal(read_mask([path], threshold=0), array > 0)
    np.testing.assert_array_equal(read_mask([path], threshold=98.5), array >= 99)


def test_threshold_uses_the_largest_channel(tmp_path):
    array = TARGET[..., None] * np.array([5, 150, 20], np.uint8) + np.array([100, 0, 0], np.uint8)
    np.testing.assert_array_equal(read_mask([save(tmp_path / "a.png", array)], threshold=120), TARGET)


def test_threshold_is_in_the_values_of_the_file(tmp_path):
    array = with_values(0, 1000, 2000, dtype=np.uint16)
    np.testing.assert_array_equal(read_mask([save16(tmp_path / "a.png", array)], threshold=1500), array > 1500)


def test_no_path_is_a_programming_error():
    with pytest.raises(ValueError, match="at least one"):
        read_mask([])
