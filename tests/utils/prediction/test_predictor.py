"""One image to one mask, by every way that leads there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_weights import save_random_weights

import models
from datasets.decode import read_image
from datasets.prepare.sample import ultrasound_image
from datasets.transforms import Transform
from utils.common.errors import UserError
from utils.evaluation.threshold_sweep import THRESHOLDS, above_thresholds, count_scores
from utils.evaluation.thresholds import as_text
from utils.networks.checkpoints import save_checkpoint
from utils.networks.load_weights import load_trained
from utils.prediction import predictor as module
from utils.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_weights(tmp_path_factory.mktemp("weights") / "best.pth")


def picture(height, width, seed=0):
    gray, _ = ultrasound_image(np.random.default_rng(seed), 160)
    return np.stack([gray, gray.T, 255 - gray], axis=2)[:height, :width]


def logits_of(weights, image, size):
    """The logits of the network as it was trained, by hand."""
    model, _ = load_trained(weights)
    with torch.no_grad():
        return model(Transform(size)(image)[0][None])[0, 0]


def expected(weights, image, size):
    return torch.sigmoid(logits_of(weights, image, size)).numpy()


def test_an_image_of_the_trainings_size_is_predicted_as_evaluation_does(weights):
    image = picture(32, 32)
    probability = Predictor(weights).probability(image)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected(weights, image, 32), atol=1e-5)
    mask = Predictor(weights, threshold=float(np.median(probability)))(image)
    assert mask.dtype == bool and 0.3 < mask.mean() < 0.7
    np.testing.assert_array_equal(mask, probability > np.median(probability))


@pytest.mark.parametrize("threshold", [0, 1e-8, 0.5, 0.99999, 0.9999999, 0.99999999, 1])
def test_a_threshold_of_the_sweep_gives_the_masks_that_the_sweep_counts(weights, threshold):
    predictor = Predictor(weights, threshold=float(as_text(threshold)))
    logits = torch.linspace(-32, 32, 1024).half().float().view(1, 1, 32, 32)  # the sweep rounds to half precision
    predictor.network = lambda images: logits
    place = THRESHOLDS.tolist().index(pytest.approx(threshold, rel=1e-10, abs=0))
    counts = above_thresholds(count_scores(logits.numpy(), np.ones(1024, bool)))[1]
    assert predictor(picture(32, 32)).sum() == counts[place]
    predictor.tta = True  # an average in float32 may be 1, as in evaluation.py
    with_views = predictor(picture(32, 32))
    average = predictor.probability(picture(32, 32))
    of_average = above_thresholds(count_scores(torch.logit(torch.from_numpy(average)).numpy(), np.ones(1024, bool)))
    assert with_views.sum() == of_average[1][place]


def test_resized_predictions_come_back_to_the_images_size(weights):
    image = picture(50, 70)
    """The logits, not the probabilities: as `evaluation.py --resize back` compares them."""
    resized = cv2.resize(logits_of(weights, image, 32).numpy(), (70, 50), interpolation=cv2.INTER_LINEAR)
    found = Predictor(weights).probability(image)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-resized)), atol=1e-5)
    assert Predictor(weights, img_size=48).probability(image).shape == (50, 70)


@pytest.mark.parametrize("size", [(50, 70), (8, 8), (5, 3), (1, 40)])
def test_keep_predicts_at_the_images_own_size(weights, size):
    image = picture(*size)
    found = Predictor(weights, resize="keep").probability(image)
    padded = np.pad(image, [(0, max(0, 8 - size[0])), (0, max(0, 8 - size[1])), (0, 0)], mode="edge")
    np.testing.assert_allclose(found, expected(weights, padded, None)[: size[0], : size[1]], atol=1e-5)


def test_files_and_arrays_of_all_kinds_agree(weights, tmp_path):
    predictors = Predictor(weights), Predictor(weights, tile=32)
    gray = picture(40, 40)[..., 0]
    cv2.imwrite(str(tmp_path / "gray.png"), gray)
    cv2.imwrite(str(tmp_path / "gray16.png"), gray.astype(np.uint16) * 257)
    references = [predict.probability(gray) for predict in predictors]
    forms = [tmp_path / "gray.png", str(tmp_path / "gray16.png"), np.repeat(gray[..., None], 3, axis=2)]
    forms += [gray.astype(np.uint16) * 257, gray.astype(np.float64), read_image(tmp_path / "gray16.png")]
    for image in forms:
        for predict, reference, tolerance in zip(predictors, references, (0.05, 1e-4), strict=True):
            # Resizing rounds 8-bit images to whole gray levels.
            np.testing.assert_allclose(predict.probability(image), reference, atol=tolerance)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"\(H, W, 3\), got \(4, 4, 4\)"),
        (np.zeros((0, 4), np.uint8), r"got \(0, 4\)"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.full((4, 4), 0.7), "multiply"),
        (np.full((4, 4), 300.0), r"between 0 and 255"),
        (np.full((4, 4), np.nan), r"between 0 and 255"),
    ],
)
def test_arrays_that_would_be_misread_are_refused(weights, image, message):
    with pytest.raises(ValueError, match=message):
        Predictor(weights)(image)


def symmetries(image):
    """The eight views of an image and the way back from each."""
    for flip in (False, True):
        for turns in range(4):
            view = np.rot90(image[:, ::-1] if flip else image, turns)

            def back(array, turns=turns, flip=flip):
                array = np.rot90(array, -turns)
                return array[:, ::-1] if flip else array

            yield np.ascontiguousarray(view), back


def test_tta_is_the_mean_of_the_eight_views_probabilities(weights):
    image = picture(20, 37)
    plain, tta = Predictor(weights, resize="keep"), Predictor(weights, resize="keep", tta=True)
    views = [back(plain.probability(view)) for view, back in symmetries(image)]
    assert np.ptp(views, axis=0).max() > 0.01, "the views differ"
    np.testing.assert_allclose(tta.probability(image), np.mean(views, axis=0), atol=1e-5)


def test_tta_turns_with_the_image(weights):
    tta = Predictor(weights, resize="keep", tta=True)
    reference = tta.probability(picture(20, 37))
    for view, back in symmetries(picture(20, 37)):
        np.testing.assert_allclose(back(tta.probability(view)), reference, atol=1e-5)


@pytest.mark.parametrize(
    "way",
    [{}, {"tta": True}, {"resize": "keep"}, {"resize": "keep", "tta": True}, {"tile": 32}, {"tile": 32, "tta": True}],
)
def test_a_learned_shift_is_undone_by_every_way(tmp_path, way):
    """A network that has learned masks one pixel to the right of and below their images, in every view and tile."""
    weights = save_random_weights(tmp_path / "best.pth", recorded={"mask_shift": (1.0, 1.0)})
    smooth = cv2.GaussianBlur(picture(64, 96), (0, 0), 3)
    moved, lying = Predictor(weights, **way), Predictor(save_random_weights(tmp_path / "other.pth"), **way)
    moved.network = lambda images: torch.roll(images[:, :1], (1, 1), (2, 3))
    lying.network = lambda images: images[:, :1]
    inside = (slice(6, -6), slice(9, -9))  # what is rolled in at the edges comes from the other side
    np.testing.assert_allclose(moved.probability(smooth)[inside], lying.probability(smooth)[inside], atol=1e-4)
    assert moved.settings["mask_shift"] == [1, 1]


def conv(images):
    return F.conv2d(images, torch.linspace(-1, 1, 27).view(1, 3, 3, 3), padding=1)


def pooled(images):
    return F.interpolate(F.avg_pool2d(images, 8), scale_factor=8)[:, :1]


@pytest.mark.parametrize(("local", "overlap"), [(conv, 8), (conv, 16), (pooled, 0), (pooled, 8)])
@pytest.mark.parametrize("size", [(96, 72), (40, 160)])
def test_tiles_equal_the_whole_where_the_network_is_local(weights, local, overlap, size):
    """A receptive field within the quarter of the overlap that counts nothing; pooling on the same grid of 8 pixels."""
    whole, tiled = Predictor(weights, resize="keep"), Predictor(weights, tile=32, overlap=overlap)
    whole.network = tiled.network = local
    image = picture(*size)
    np.testing.assert_allclose(tiled.probability(image), whole.probability(image), atol=1e-6)


def test_tiles_come_close_to_the_whole_and_overlap_helps(weights):
    """Its attentions and DPConv's kernel see the tile alone. docs/how_to/predict.md has trained weights' figures."""
    image = picture(150, 133)
    whole = Predictor(weights, resize="keep").probability(image)
    apart, joined = (
        np.abs(Predictor(weights, tile=64, overlap=overlap).probability(image) - whole).mean() for overlap in (0, 32)
    )
    assert joined < apart and joined < 0.05 * np.ptp(whole)


def test_a_large_image_is_decoded_once_and_converted_tile_by_tile(weights, tmp_path, monkeypatch):
    converted, read = [], []
    to_rgb, decode = module.to_rgb, module.decode
    monkeypatch.setattr(module, "to_rgb", lambda part, *level: converted.append(part.shape) or to_rgb(part, *level))
    monkeypatch.setattr(module, "decode", lambda path: read.append(path) or decode(path))
    cv2.imwrite(str(tmp_path / "a.png"), picture(150, 133))
    Predictor(weights, tile=64)(tmp_path / "a.png")
    assert len(read) == 1 and len(converted) == 9 and max(converted) <= (64, 64, 3)


def test_batches_are_cut_by_pixels_and_to_one_where_the_batch_matters(weights):
    predict = Predictor(weights, batch_size=8)
    assert [predict.batch_of(side, side) for side in (16, 32, 64, 65, 500)] == [8, 8, 2, 1, 1]
    assert Predictor(weights, encoder_bn="batch").batch_of(16, 16) == 1
    seen = []
    tiled = Predictor(weights, tile=32, overlap=0, batch_size=3)
    tiled.network = lambda images: seen.append(len(images)) or images[:, :1]
    tiled.probability(picture(64, 128))
    assert seen == [3, 3, 2]


def test_the_authors_weights(golden, tmp_path):
    from models import authors

    for name in ("SRS_R", "SRS_S"):
        torch.save(golden.state(name), tmp_path / f"{name}.pth")
    options = {"recon_weights": tmp_path / "SRS_R.pth", "encoder_bn": "batch", "normalization": "authors"}
    predict = Predictor(tmp_path / "SRS_S.pth", img_size=48, **options)
    image = picture(48, 48)
    model = authors.load_srs(golden.state("SRS_R"), golden.state("SRS_S"), encoder_bn="batch")
    with torch.no_grad():
        reference = torch.sigmoid(model(Transform(48, "authors")(image)[0][None]))[0, 0].numpy()
    np.testing.assert_allclose(predict.probability(image), reference, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "multiple of 8"),
        ({"tile": 8}, "at least 16"),
        ({"tile": 64, "overlap": 40}, "half"),
        ({"tile": 64, "overlap": 12}, "multiple of 8"),
        ({"overlap": 8}, "overlap requires tile"),
        ({"threshold": 50}, "between 0 and 1"),
        ({"resize": "crop"}, "img_size, keep"),
        ({"amp": "x"}, "auto, off, bf16, fp16"),
        ({"img_size": 0}, "img_size must be between 1 and 65535, got 0"),
        ({"batch_size": 0, "tile": 32}, "batch_size must be between 1"),
        ({"white_level": 70000}, "white_level must be between 1 and 65535, got 70000"),
    ],
)
def test_settings_that_do_not_fit_are_refused(weights, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(weights, **options)


def test_a_narrow_image_is_predicted_as_evaluation_does(weights):
    predict, image = Predictor(weights, resize="keep"), picture(8, 60)
    with torch.no_grad():
        expected = predict.model(Transform(None)(image)[0][None]).sigmoid()[0, 0].numpy()
    np.testing.assert_allclose(predict.probability(image), expected, atol=1e-5)
    assert Predictor(weights, resize="keep", encoder_bn="batch")(picture(8, 8)).shape == (8, 8)


def test_an_argument_that_does_not_fit_the_network_is_named(tmp_path):
    state = models.build("unext").state_dict()
    save_checkpoint(tmp_path / "u.pth", {"phase": "seg", "model": state, "settings": {"variant": "unext"}})
    with pytest.raises(UserError, match=r"u.pth does not run with encoder_bn batch: .* require a variant of SRS"):
        Predictor(tmp_path / "u.pth", encoder_bn="batch")
    assert Predictor(tmp_path / "u.pth").img_size == 256


def test_an_output_that_is_not_finite_is_an_error(weights):
    predict = Predictor(weights)
    predict.network = lambda images: images[:, :1] * float("nan")
    with pytest.raises(UserError, match="--amp off"):
        predict(picture(32, 32))
