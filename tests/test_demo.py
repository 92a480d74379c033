"""The page of demo.py, in a browser that finds no network."""

from __future__ import annotations

import socket
import struct
import sys
import time
import zlib

import cv2
import numpy as np
import pytest
import torch
from browser import browser, console_errors
from jobs import free_port
from random_weights import save_random_weights

import demo
import models
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.networks.checkpoints import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow


SCAN = np.random.default_rng(1).integers(0, 256, (32, 48), dtype=np.uint8)


def start(folder, *argv):
    return demo.start(demo.parser().parse_args(list(map(str, argv))), str(folder))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_weights(tmp_path_factory.mktemp("NAME") / "seg" / "best.pth")


@pytest.fixture(scope="module")
def strangers():
    """Every address but this machine's that this process tries to reach, and does not."""
    tried, patch = [], pytest.MonkeyPatch()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            tried.append(address)
            raise OSError("no network in this test")
        return connect(self, address)

    def guarded_look_up(host, *args, **options):
        if host not in ("127.0.0.1", "::1", "localhost", None, ""):
            tried.append(host)
            raise socket.gaierror("no network in this test")
        return look_up(host, *args, **options)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield tried
    patch.undo()


@pytest.fixture(scope="module")
def driver(weights, strangers, tmp_path_factory):
    """A browser that shows the page."""
    pytest.importorskip("gradio", reason="Gradio is not installed (requirements-demo.txt)")
    with browser() as driver:
        port = free_port()
        opened = tmp_path_factory.mktemp("opened") / "opened.png"
        cv2.imwrite(str(opened), SCAN)
        argv = ["--weights", weights, "--image", opened, "--port", port, "--max_upload", 1, "--device", "cpu"]
        page, address = start(tmp_path_factory.mktemp("files"), *argv)
        driver.get(address)
        wait_for(lambda: driver.find_elements("id", "sample-infrared"))
        yield driver
        page.close()


def wait_for(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
    return result


def upload(driver, path):
    (clear,) = driver.find_elements("css selector", "#file button[aria-label*=lear]") or [None]
    if clear:
        clear.click()
        wait_for(lambda: not status(driver))
    wait_for(lambda: driver.find_elements("css selector", "#file input[type=file]"))[0].send_keys(str(path))


def move_threshold(driver, value):
    number = driver.find_element("css selector", "#threshold input[type=number]")
    driver.execute_script("arguments[0].select()", number)
    number.send_keys(value, "\t")


def status(driver):
    return driver.find_element("id", "status").text


def picture(driver, name):
    """What the page shows, (H, W, 3), by the width and height of the file; None where there is nothing."""
    script = """
        const image = document.querySelector(arguments[0]);
        if (!image || !image.complete || !image.naturalWidth) return null;
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        return [canvas.height, canvas.width, Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data)];
    """
    found = driver.execute_script(script, f"#{name} img")
    return found and np.array(found[2], np.uint8).reshape(found[0], found[1], 4)[..., :3]


def test_the_page_opens_with_an_image_that_is_segmented(driver):
    """Before anything else: every picture is there, each with a text, and the threshold already works."""
    wait_for(lambda: "opened.png: 48x32 pixels" in status(driver))
    assert "opened.png" in driver.find_element("id", "file").text.replace("\n", "")  # a narrow page breaks the name
    for name in ("image", "mask", "overlay", "code", "kernel"):
        wait_for(lambda name=name: picture(driver, name) is not None)
        wait_for(lambda name=name: driver.find_element("css selector", f"#{name} img").get_attribute("alt"))
    assert np.array_equal(picture(driver, "image")[..., 0], SCAN)
    wait_for(lambda: "DPConv reduces the deepest feature map" in driver.find_element("id", "layer").text)
    move_threshold(driver, "0")
    wait_for(lambda: np.all(picture(driver, "mask") == 255))


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(driver, width):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    try:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_mask_appears_and_moves_with_the_threshold(driver, tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (40, 24), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "scan.png"), gray)
    upload(driver, tmp_path / "scan.png")
    wait_for(lambda: "scan.png: 24x40 pixels" in status(driver))
    for name in ("image", "mask", "overlay", "code", "kernel"):
        wait_for(lambda name=name: picture(driver, name) is not None)
    assert np.array_equal(picture(driver, "image")[..., 0], gray)
    shares = []
    for value in ("1", "0"):
        move_threshold(driver, value)
        share = 0 if value == "1" else 255
        wait_for(lambda share=share: np.all(picture(driver, "mask") == share))
        shares.append(status(driver).split(", ")[-1].split(" %")[0])
    assert shares == ["0", "100"]


def test_a_sample_is_drawn_and_predicted(driver):
    driver.find_element("id", "sample-infrared").click()
    wait_for(lambda: "infrared1.png: 192x192 pixels" in status(driver))


def bomb(side):
    """A PNG of a few bytes that claims side x side pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image", "not an image"), (bomb(6000), "25 megapixels"), (bomb(60000), "must have at most")],
    ids=["text", "large", "bomb"],
)
def test_a_bad_upload_is_explained_in_the_page(driver, tmp_path, capfd, content, message):
    (tmp_path / "<b>bad.png").write_bytes(content)
    upload(driver, tmp_path / "<b>bad.png")
    wait_for(lambda: message in status(driver))
    assert str(tmp_path) not in status(driver) and picture(driver, "mask") is None
    assert "Traceback" not in capfd.readouterr().err


def test_nothing_is_fetched_from_elsewhere(driver, strangers):
    """After the others: neither the page nor the server behind it has tried."""
    urls = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert urls and all(url.startswith("http://127.0.0.1:") for url in urls)
    assert not strangers
    assert console_errors(driver) == []


def test_an_upload_that_is_too_large_is_refused(driver, tmp_path):
    def told():
        return "exceed the maximum allowed size" in driver.find_element("tag name", "body").text.lower()

    (tmp_path / "large.png").write_bytes(bytes(3 << 20))
    assert not told()
    upload(driver, tmp_path / "large.png")
    wait_for(told)


def pictures(page):
    """What the components of a page hold at first, by their ids."""
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


def opened_with(weights, folder, monkeypatch, base_dir="gone", **options):
    """The page's first image, by its name, and whether code and kernel are shown."""
    demo_page = pytest.importorskip("utils.prediction.demo_page", reason="Gradio is not installed")
    content = load_checkpoint(weights, "seg")
    content["settings"] |= {"base_dir": base_dir, "val_file_dir": "val.txt"}
    save_checkpoint(folder / "w.pth", content)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
    shown = pictures(demo_page.build_page([folder / "w.pth"], folder, "cpu", **options))
    return shown["status"].value.split("</b>")[0], [shown[name].visible for name in ("code", "kernel")]


def test_the_page_opens_with_the_first_validation_image_but_not_for_strangers(weights, tmp_path, monkeypatch):
    make_sample(tmp_path / "set", count=6, size=32)
    first = (tmp_path / "set" / "val.txt").read_text().split()[0]
    options = {"base_dir": str(tmp_path / "set")}
    assert first in opened_with(weights, tmp_path, monkeypatch, **options)[0]
    assert "ultrasound1.png" in opened_with(weights, tmp_path, monkeypatch, **options, show_data=False)[0]
    assert "ultrasound1.png" in opened_with(weights, tmp_path, monkeypatch)[0]


@pytest.mark.parametrize(("white", "warned"), [(1023, True), (65535, False)])
def test_the_page_warns_of_a_white_level_that_does_not_fit(weights, tmp_path, monkeypatch, white, warned):
    demo_page = pytest.importorskip("utils.prediction.demo_page", reason="Gradio is not installed")
    cv2.imwrite(str(tmp_path / "sensor.png"), np.linspace(0, white, 32 * 32).astype(np.uint16).reshape(32, 32))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    shown = pictures(demo_page.build_page([weights], tmp_path, "cpu", tmp_path / "sensor.png"))["status"].value
    assert "sensor.png" in shown
    assert ("warning: 1 image uses 10 of 16 bits and is read as nearly black" in shown) == warned


@pytest.mark.parametrize(("layer", "shown"), [("film", [True, False]), ("none", [False, False])])
def test_a_network_without_code_or_kernel_shows_none(tmp_path, monkeypatch, layer, shown):
    torch.manual_seed(0)
    settings = {"variant": "srs_tiny", "dynamic": layer, "img_size": 32}
    model = models.build("srs_tiny", layer=layer).state_dict()
    save_checkpoint(tmp_path / "best.pth", {"phase": "seg", "settings": settings, "model": model})
    assert opened_with(tmp_path / "best.pth", tmp_path, monkeypatch)[1] == shown


def test_a_missing_gradio_is_one_line_with_the_command(monkeypatch, weights, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "utils.prediction.demo_page", raising=False)
    with pytest.raises(UserError, match=r"pip install -r requirements-demo.txt"):
        start(tmp_path, "--weights", weights)


def test_what_keeps_the_page_from_starting_is_one_line(weights, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="Gradio is not installed (requirements-demo.txt)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make demo"):
        start(tmp_path)
    with pytest.raises(UserError, match=r"nowhere.pth was not found"):
        start(tmp_path, "--weights", "nowhere.pth")
    with pytest.raises(UserError, match=r"--image nowhere.png"):
        start(tmp_path, "--weights", weights, "--image", "nowhere.png")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="--port"):
            start(tmp_path, "--weights", weights, "--port", taken.getsockname()[1])
