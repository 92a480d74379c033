"""predict.py as a user runs it: folders of all kinds of files in, masks out; interrupted and resumed."""

from __future__ import annotations

import json
import os
import signal

import cv2
import numpy as np
import pytest
import torch
from jobs import predict_with_a_failure, run_job
from PIL import Image
from random_weights import save_random_weights

import predict
from datasets.inputs import find_inputs
from utils.common.errors import UserError
from utils.common.signals import Stopped
from utils.prediction import contact_sheet
from utils.prediction import predictor as predictor_module
from utils.prediction.output_folder import Outputs
from utils.prediction.predict_folder import predict_files
from utils.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_weights(tmp_path_factory.mktemp("weights") / "best.pth")


@pytest.fixture
def scans(tmp_path):
    """Seven images in four sizes: RGB, gray, 16-bit, 1-bit, RGBA, palette."""
    folder = tmp_path / "scans"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 24, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder / "a.png")
    Image.fromarray(rgb[..., 0]).save(folder / "deep" / "a.jpg")
    Image.fromarray(rgb[..., 0]).convert("1").save(folder / "bits.png")
    Image.fromarray(rgb).convert("RGBA").save(folder / "rgba.png")
    Image.fromarray(rgb[:20]).convert("P").save(folder / "palette.bmp")
    cv2.imwrite(str(folder / "deep.tif"), rng.integers(0, 65536, (33, 65), dtype=np.uint16))
    Image.fromarray(rgb[:9, :7]).save(folder / "small.png")
    return folder


NAMES = ["a", "bits", "deep", "deep/a", "palette", "rgba", "small"]
RECORDS = ["inputs.json", "predict.json"]
SHEET = ["contact_sheet/contact_sheet.png", *(f"contact_sheet/rows/{name}.png" for name in NAMES)]


def run(*argv):
    return predict.main(predict.settings(list(map(str, argv))))


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("more", [[], ["--resize", "keep"], ["--tile", "32"]])
def test_every_image_becomes_a_mask_of_its_size(weights, scans, tmp_path, more):
    threshold = ["--threshold", "0.08"]
    report = run("--weights", weights, scans, "--output", tmp_path / "out", *more, *threshold)
    assert (report.predicted, report.there_before, report.failures) == (7, 0, [])
    assert files(tmp_path / "out") == sorted([*(f"{name}.png" for name in NAMES), *SHEET, *RECORDS])
    args = predict.settings(["--weights", str(weights), "x", "--output", "x", *more, *threshold])
    predictor = predict.build_predictor(args)
    both = 0
    for image in find_inputs([str(scans)]):
        mask = read(tmp_path / "out" / f"{image.name}.png")
        np.testing.assert_array_equal(mask, predictor(image.path) * np.uint8(255))
        both += len(np.unique(mask)) == 2
    assert both, "masks with target and background, or this has shown nothing"


@pytest.mark.parametrize(("bits", "full"), [(8, 255), (16, 65535)])
def test_probability_maps_and_overlays(weights, scans, tmp_path, bits, full):
    out = tmp_path / "out"
    run("--weights", weights, scans, "--output", out, "--resize", "keep", "--probability", bits, "--overlay")
    predictor = Predictor(weights, resize="keep")
    for image in find_inputs([str(scans)]):
        found = read(out / f"probability{bits}" / f"{image.name}.png")
        assert found.dtype == (np.uint8 if bits == 8 else np.uint16)
        np.testing.assert_allclose(found / full, predictor.probability(image.path), atol=0.51 / full + 1e-5)
        assert read(out / "overlay" / f"{image.name}.png").shape == (*found.shape, 3)
    assert len(files(out)) == 3 * 7 + len(SHEET) + len(RECORDS)


def test_unreadable_files_are_listed_at_the_end_and_do_not_stop_the_others(weights, scans, tmp_path, capsys):
    whole = (scans / "a.png").read_bytes()
    (scans / "b_cut.png").write_bytes(whole[: len(whole) // 2])
    (scans / "deep" / "text.png").write_text("no image")
    with pytest.raises(SystemExit) as ended:
        run("--weights", weights, scans, "--output", tmp_path / "out")
    assert ended.value.code == 1
    told = capsys.readouterr().err.splitlines()[-3:]
    assert told[0].startswith("2 ") and "b_cut.png" in told[1] and "text.png" in told[2]
    assert files(tmp_path / "out") == sorted([*(f"{name}.png" for name in NAMES), *SHEET, *RECORDS])


@pytest.mark.parametrize("more", [[], ["--tile", "32"]])
def test_images_that_viewers_turn_are_named(weights, scans, tmp_path, capsys, more):
    exif = Image.Exif()
    exif[274] = 6
    pixels = np.random.default_rng(1).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(scans / "turned.jpg", exif=exif)
    assert run("--weights", weights, scans, "--output", tmp_path / "out", *more).predicted == 8
    (warning,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: "))
    assert warning.startswith("warning: 1 images have an EXIF orientation") and warning.endswith("turned.jpg")
    assert read(tmp_path / "out" / "turned.png").shape == (40, 24)


@pytest.mark.parametrize(("factor", "level", "warned"), [(16, None, True), (16, 4095, False), (1, None, False)])
def test_images_that_the_white_level_makes_dark_are_counted(weights, tmp_path, capsys, factor, level, warned):
    (tmp_path / "scans").mkdir()
    for name in "ab":
        pixels = np.random.default_rng(1).integers(0, 256, (40, 24)).astype(np.uint16 if factor > 1 else np.uint8)
        cv2.imwrite(str(tmp_path / "scans" / f"{name}.png"), pixels * pixels.dtype.type(factor))
    more = ["--white_level", level] if level else []
    run("--weights", weights, tmp_path / "scans", "--output", tmp_path / "out", *more)
    dark = (
        "warning: 2 images use 12 of 16 bits and are read as nearly black (0 to 15.9 of 255). --white_level 4095 fits"
    )
    assert (dark in capsys.readouterr().out) == warned


def test_a_second_call_predicts_what_is_missing(weights, scans, tmp_path):
    out = tmp_path / "out"
    flags = ["--weights", weights, scans, "--output", out]
    run(*flags)
    (out / "rgba.png").unlink()
    (out / ".rgba.png.1-ab.writing").write_bytes(b"half")
    os.utime(out / ".rgba.png.1-ab.writing", (0, 0))
    kept = (out / "a.png").stat().st_mtime_ns
    report = run(*flags)
    assert (report.predicted, report.there_before) == (1, 6)
    assert (out / "rgba.png").exists() and not list(out.rglob(".*.writing"))
    assert (out / "a.png").stat().st_mtime_ns == kept
    report = run(*flags, "--overlay")
    assert report.predicted == 7, "the masks were there, the overlays were not"
    assert run(*flags, "--overwrite").predicted == 7


def test_a_resumed_run_ends_with_the_contact_sheet_of_a_whole_one(weights, scans, tmp_path, capsys):
    flags = ["--weights", weights, "--threshold", "0.08", "--output"]
    (scans / "cut.png").write_bytes((scans / "a.png").read_bytes()[:99])
    for folder in ("whole", "part"):
        with pytest.raises(SystemExit):
            run(*flags, tmp_path / folder, scans)
    sheets = [tmp_path / folder / SHEET[0] for folder in ("whole", "part")]
    whole = read(sheets[0])
    assert f"contact sheet: {sheets[0]}" in capsys.readouterr().out
    assert whole.shape == (18 + 3 * contact_sheet.ROW[0] + 12, 3 * contact_sheet.ROW[1] + 12, 3)
    for name in (SHEET[0], SHEET[3], "rgba.png"):
        (tmp_path / "part" / name).unlink()
    with pytest.raises(SystemExit):
        run(*flags, tmp_path / "part", scans)
    assert capsys.readouterr().out.count("2 images predicted, 5 existing results skipped") == 1
    np.testing.assert_array_equal(read(sheets[1]), whole)
    (scans / "cut.png").unlink()
    run(*flags, tmp_path / "part", scans / "a.png", scans / "small.png")
    assert read(sheets[1]).shape[0] < whole.shape[0], "the sheet shows the images of the last call"


def test_a_result_as_old_as_the_settings_is_predicted_again(tmp_path):
    """Some disks count time in seconds: what an interrupted run has not made anew may have the settings' own time."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((16, 16), np.uint8))
    inputs, outputs = find_inputs([str(tmp_path / "a.png")], leave_out=tmp_path / "out"), Outputs(tmp_path / "out")
    outputs.begin(inputs, {}, overwrite=False)
    cv2.imwrite(str(tmp_path / "out" / "a.png"), np.zeros((16, 16), np.uint8))
    settings = (tmp_path / "out" / "predict.json").stat().st_mtime_ns
    for later, missing in ((0, inputs), (1, [])):
        os.utime(tmp_path / "out" / "a.png", ns=(settings, settings + later))
        assert outputs.missing(inputs) == missing


def test_a_changed_image_is_predicted_again(weights, scans, tmp_path):
    out = tmp_path / "out"
    flags = ["--weights", weights, scans, "--output", out, "--probability", "16"]
    run(*flags)
    before = read(out / "probability16" / "rgba.png")
    cv2.imwrite(str(scans / "rgba.png"), np.full((40, 24, 3), 200, np.uint8))
    report = run(*flags)
    assert (report.predicted, report.there_before) == (1, 6)
    assert not np.array_equal(read(out / "probability16" / "rgba.png"), before)
    assert run(*flags).predicted == 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_result_of_the_old_image_or_settings_stays(weights, scans, tmp_path, overwrite):
    """Whatever the flags of the call that predicts the image again."""
    out = tmp_path / "out"
    (scans / "overlay").mkdir()
    (scans / "overlay" / "a.png").write_bytes((scans / "a.png").read_bytes())
    plain = ["--weights", weights, scans, "--output", out]
    every = [*plain, "--probability", "8"]
    run(*every)
    empty = np.zeros((4, 4), np.uint8)
    Outputs(out, 16, True).write("rgba", empty, np.float32(empty), empty > 0)
    old = [out / folder / "rgba.png" for folder in ("probability8", "probability16", "overlay")]
    kept = (out / "probability8" / "a.png").stat().st_mtime_ns
    assert all(path.exists() for path in old)
    if not overwrite:
        cv2.imwrite(str(scans / "rgba.png"), np.full((40, 24, 3), 200, np.uint8))
    report = run(*plain, *(["--overwrite", "--threshold", "0.3"] if overwrite else []))
    assert report.predicted == (8 if overwrite else 1)
    assert not any(path.exists() for path in old)
    assert (out / "overlay" / "a.png").exists(), "the mask of overlay/a, not an overlay of a"
    if not overwrite:
        assert run(*every).predicted == 1
        assert (out / "probability8" / "a.png").stat().st_mtime_ns == kept


def test_an_input_image_in_the_output_folder_is_not_removed(weights, scans, tmp_path):
    out = tmp_path / "out"
    run("--weights", weights, scans / "a.png", "--output", out)
    (out / "overlay").mkdir()
    cv2.imwrite(str(out / "overlay" / "a.png"), np.full((40, 24, 3), 200, np.uint8))
    assert run("--weights", weights, out / "overlay" / "a.png", "--output", out, "--overwrite").predicted == 1
    assert (out / "overlay" / "a.png").exists()


def test_images_of_the_same_names_are_not_taken_for_those_before(weights, scans, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    run("--weights", weights, scans, "--output", out)
    kept = (out / "a.png").read_bytes()
    other.mkdir()
    cv2.imwrite(str(other / "a.png"), np.full((40, 24, 3), 200, np.uint8))
    with pytest.raises(UserError, match=r"results of another image of the name a \(.*scans/a.png, now .*other/a.png\)"):
        run("--weights", weights, other, "--output", out)
    assert (out / "a.png").read_bytes() == kept
    moved = scans.rename(tmp_path / "moved")
    (out / "small.png").unlink()
    report = run("--weights", weights, moved / "small.png", moved / "bits.png", "--output", out)
    assert (report.predicted, report.there_before) == (1, 1), "the same files at another place"
    assert run("--weights", weights, other, "--output", out, "--overwrite").predicted == 1


def test_images_of_one_name_size_and_time_are_told_apart(weights, tmp_path):
    """Archives may give all files one time, and uncompressed images of one size have as many bytes."""
    for folder, value in (("one", 50), ("two", 200)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.bmp"), np.full((32, 32, 3), value, np.uint8))
        os.utime(tmp_path / folder / "a.bmp", (1e9, 1e9))
    run("--weights", weights, tmp_path / "one", "--output", tmp_path / "out")
    with pytest.raises(UserError, match="results of another image of the name a"):
        run("--weights", weights, tmp_path / "two", "--output", tmp_path / "out")


def test_a_file_of_unknown_origin_beside_results_is_not_replaced(weights, scans, tmp_path):
    out = tmp_path / "out"
    run("--weights", weights, scans / "a.png", "--output", out)
    (out / "small.png").write_bytes(b"by hand")
    with pytest.raises(UserError, match=r"small.png exists, but inputs.json does not list its image"):
        run("--weights", weights, scans, "--output", out)
    assert (out / "small.png").read_bytes() == b"by hand"
    assert run("--weights", weights, scans, "--output", out, "--overwrite").predicted == 7


def test_a_setting_that_is_no_longer_given_is_another_setting(weights, scans, tmp_path):
    flags = ["--weights", weights, scans, "--output", tmp_path / "out"]
    run(*flags, "--white_level", "4095")
    with pytest.raises(UserError, match="white_level 4095, now None"):
        run(*flags)


def test_a_folder_of_before_inputs_were_recorded(weights, scans, tmp_path):
    flags = ["--weights", weights, scans, "--output", tmp_path / "out"]
    run(*flags)
    (tmp_path / "out" / "inputs.json").unlink()
    assert run(*flags).there_before == 7
    (tmp_path / "out" / "inputs.json").write_text("{")
    assert run(*flags).there_before == 7


def test_results_of_other_settings_are_not_mixed(weights, scans, tmp_path):
    flags = ["--weights", weights, scans, "--output", tmp_path / "out"]
    run(*flags)
    with pytest.raises(UserError, match=r"threshold 0.5, now 0.3.*--overwrite"):
        run(*flags, "--threshold", "0.3")
    assert run(*flags, "--threshold", "0.3", "--overwrite").predicted == 7
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["threshold"] == 0.3


@pytest.mark.parametrize("overwrite", [False, True])
def test_ctrl_c_stops_between_two_passes_and_the_next_call_resumes(weights, scans, tmp_path, overwrite):
    out = tmp_path / "out"
    inputs, outputs = find_inputs([str(scans)]), Outputs(out)
    if overwrite:
        predict_files(Predictor(weights), inputs, outputs, {})
        for file in out.glob("*.png"):
            os.utime(file, (1, 1))
    predictor = Predictor(weights, batch_size=1)
    network, calls = predictor.network, []

    def interrupted(images):
        calls.append(images)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return network(images)

    predictor.network = interrupted
    with pytest.raises(Stopped, match="stopped after 3 images"):
        predict_files(predictor, inputs, outputs, {}, overwrite)
    report = predict_files(predictor, inputs, outputs, {})
    assert (report.predicted, report.there_before) == (4, 3), "an interrupted --overwrite resumes, too"


def test_images_of_one_size_share_a_batch(weights, scans, tmp_path):
    predictor = Predictor(weights, resize="keep")
    network, shapes = predictor.network, []
    predictor.network = lambda images: shapes.append(tuple(images.shape)) or network(images)
    predict_files(predictor, find_inputs([str(scans)]), Outputs(tmp_path / "out"), {})
    assert sorted(shapes) == [(1, 3, 9, 8), (1, 3, 20, 24), (1, 3, 33, 65), (4, 3, 40, 24)]


def test_no_file_that_was_there_is_lost(weights, scans, tmp_path):
    with pytest.raises(UserError, match="must not be an input folder"):
        run("--weights", weights, scans, "--output", scans, "--overwrite")
    with pytest.raises(UserError, match=r"a.png would overwrite an input image"):
        run("--weights", weights, scans / "a.png", "--output", scans, "--overwrite")
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "bits.png").write_text("drawn by hand")
    with pytest.raises(UserError, match=r"bits.png exists, but there is no predict.json"):
        run("--weights", weights, scans, "--output", tmp_path / "truth")
    assert files(tmp_path / "truth") == ["bits.png"]
    (scans / "overlay").mkdir()
    (scans / "overlay" / "a.png").write_bytes((scans / "a.png").read_bytes())
    with pytest.raises(UserError, match="rename one"):
        run("--weights", weights, scans, "--output", tmp_path / "out", "--overlay")
    (scans / "overlay").rename(scans / "contact_sheet")
    (scans / "contact_sheet" / "a.png").rename(scans / "contact_sheet" / "contact_sheet.png")
    with pytest.raises(UserError, match="for both the contact sheet and"):
        run("--weights", weights, scans, "--output", tmp_path / "out")


def test_a_file_and_a_folder_of_one_name_are_refused_before_anything_is_written(weights, scans, tmp_path):
    inner = scans / "a.png"
    nested = tmp_path / "nested"
    for folder in ("a.png", "predict.json", "contact_sheet/contact_sheet.png"):
        (nested / folder).mkdir(parents=True)
    cv2.imwrite(str(nested / "a.bmp"), np.zeros((16, 16), np.uint8))
    out = tmp_path / "out"
    for folder, other in (
        ("a.png", r".*nested/a\.bmp"),
        ("predict.json", "the records"),
        ("contact_sheet/contact_sheet.png", "the contact sheet"),
    ):
        (nested / folder / "q.png").write_bytes(inner.read_bytes())
        found = rf"out/{folder} would be written for both {other}, as a file, and .*{folder}/q\.png, as a folder"
        with pytest.raises(UserError, match=found):
            run("--weights", weights, nested, "--output", out)
        (nested / folder / "q.png").unlink()
    assert not out.exists()
    run("--weights", weights, nested, "--output", out)
    (nested / "a.bmp").unlink()
    (nested / "a.png" / "q.png").write_bytes(inner.read_bytes())
    with pytest.raises(UserError, match=r"out/a\.png is a file, but .*a\.png/q\.png requires a folder there"):
        run("--weights", weights, nested, "--output", out)
    for file in (out / "a.png", out / "contact_sheet" / "rows" / "a.png"):
        file.unlink()
    run("--weights", weights, nested, "--output", out)
    with pytest.raises(UserError, match=r"out/a\.png is a folder, but would be written as a file for .*scans/a\.png"):
        run("--weights", weights, scans / "a.png", "--output", out)


def test_results_inside_the_input_folder_are_not_predicted(weights, scans):
    for _ in range(2):
        run("--weights", weights, scans, "--output", scans / "out", "--overlay")
    assert len(files(scans / "out")) == 2 * 7 + len(SHEET) + len(RECORDS)


def test_an_image_that_does_not_fit_into_memory_is_a_failure_like_others(weights, scans, tmp_path):
    predictor = Predictor(weights, resize="keep", batch_size=1)
    network = predictor.network

    def small_memory(images):
        if images.shape[3] == 65:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you")
        return network(images)

    predictor.network = small_memory
    report = predict_files(predictor, find_inputs([str(scans)]), Outputs(tmp_path / "out"), {})
    assert report.predicted == 6 and len(report.failures) == 1
    assert "deep.tif" in report.failures[0] and "--tile 512" in report.failures[0]


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("(-4:Insufficient memory) Failed to allocate 9 bytes")])
def test_an_image_that_cannot_be_decoded_for_want_of_memory_is_a_failure_like_others(
    weights, scans, tmp_path, monkeypatch, error
):
    decode = predictor_module.decode

    def small_memory(path):
        if path.name == "deep.tif":
            raise error
        return decode(path)

    monkeypatch.setattr(predictor_module, "decode", small_memory)
    with pytest.raises(SystemExit):
        run("--weights", weights, scans, "--output", tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {"a", "bits", "palette", "rgba", "small"}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_image_whose_output_is_not_finite_is_a_failure_and_the_others_of_its_batch_are_predicted(
    weights, scans, tmp_path, number
):
    predictor = Predictor(weights, resize="keep", tta=True)
    network = predictor.network

    def broken(images):
        logits = network(images)
        bits = torch.tensor([len(image.unique()) <= 6 for image in images])  # the image of one bit: two per channel
        logits[bits, :, 3, 5] = number
        return logits

    predictor.network = broken
    report = predict_files(predictor, find_inputs([str(scans)]), Outputs(tmp_path / "out"), {})
    assert report.predicted == 6 and len(report.failures) == 1
    assert report.failures[0].startswith(
        f"{scans / 'bits.png'}: the output of the network is not finite. Try --amp off"
    )
    predictor.network = network
    for image in find_inputs([str(scans)]):
        if image.name != "bits":
            np.testing.assert_array_equal(
                read(tmp_path / "out" / f"{image.name}.png"), predictor(image.path) * np.uint8(255)
            )


@pytest.mark.slow
def test_two_processes_share_the_images(weights, scans, tmp_path):
    (scans / "bad.png").write_text("no image")
    flags = ["--weights", str(weights), str(scans), "--output"]
    run_job(2, predict_with_a_failure, [*flags, str(tmp_path / "two")], tmp_path / "read")
    with pytest.raises(SystemExit):
        run(*flags, tmp_path / "one")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    for name in NAMES:
        one, two = (read(tmp_path / folder / f"{name}.png") for folder in ("one", "two"))
        np.testing.assert_array_equal(one, two)
    shares = [set((tmp_path / f"read{rank}").read_text().splitlines()) for rank in (0, 1)]
    assert [len(share) for share in shares] == [4, 4] and not shares[0] & shares[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["x.png"], "no weights given"),
        (["x.png", "--seg_weights", "a.pth"], "two files"),
        (["nowhere", "--weights", "a.pth"], "nowhere was not found"),
        (["{scans}", "--weights", "a.pth"], "a.pth was not found"),
        (["{scans}", "--weights", "{weights}", "--tile", "100"], "multiple of 8"),
        (["{scans}", "--weights", "{weights}", "--amp", "fp16", "--device", "cpu"], "requires CUDA"),
    ],
)
def test_errors_come_before_anything_is_written(weights, scans, tmp_path, argv, message):
    argv = [word.format(scans=scans, weights=weights) for word in argv]
    with pytest.raises(UserError, match=message):
        run(*argv, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bfloat16_comes_close(weights, scans, tmp_path):
    image = scans / "a.png"
    full, half = (Predictor(weights, amp=amp).probability(image) for amp in ("off", "bf16"))
    assert 0 < np.abs(full - half).max() < 0.1 and torch.get_default_dtype() == torch.float32
