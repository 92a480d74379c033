"""The pages: their content, that nothing in them runs, and that they work in a browser."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from browser import browser, console_errors

import evaluation
import models
from datasets.prepare.sample import make_sample
from utils.common.precision import Precision
from utils.networks.checkpoints import load_checkpoint, save_checkpoint
from utils.networks.inference_engines import load_engine
from utils.report.charts import Axis, histogram, line_chart
from utils.report.dpconv_views import deviations, look_inside
from utils.report.example_cases import _zoom, choose
from utils.report.report import training_charts, write_report

HOSTILE = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>'


class Elements(HTMLParser):
    """Every element of a page, and the names of all attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An evaluation with its page: fresh weights, eight images, the logs of both phases."""
    folder = tmp_path_factory.mktemp("report")
    make_sample(folder / "set", count=12, size=32, val_share=0.7)
    torch.manual_seed(0)
    args = evaluation.parser().settings(
        ["--base_dir", str(folder / "set"), "--img_size", "32", "--variant", "srs_tiny", "--workers", "0"]
    )
    run = folder / "run"
    model = models.build_srs("srs_tiny").state_dict()
    settings = vars(args) | {"output_dir": str(run)}
    save_checkpoint(run / "seg" / "best.pth", {"phase": "seg", "settings": settings, "model": model})
    for phase in ("recon", "seg"):
        (run / phase).mkdir(exist_ok=True)
        lines = [
            {"epoch": n, "train": {"loss": 1 / n, "iou": 0.1 * n}, "val": {"loss": 2 / n, "iou": 0.1}, "seconds": 1}
            for n in (1, 2)
        ]
        if phase == "recon":
            lines = [{**line, "train": {"loss": 1}, "val": {"loss": 1}} for line in lines]
        (run / phase / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    weights = ["--weights", str(run / "seg" / "best.pth")]
    summary = evaluation.main(evaluation.settings([*weights, "--report", str(folder / "page")]))
    return folder, summary


@pytest.fixture(scope="module")
def page(experiment):
    return (experiment[0] / "page" / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_the_figures_and_every_image(experiment, page):
    folder, summary = experiment
    assert f">{100 * summary['mean_over_images']['iou']:.2f}<" in page
    rows = list(csv.DictReader((folder / "run" / "evaluation" / "best-val" / "per_image.csv").open(encoding="utf-8")))
    assert len(rows) == summary["images"] == 8
    for row in rows:
        assert f"<bdi>{row['name']}</bdi>" in page and f'data-value="{float(row["iou"])!r}"' in page
    for heading in ("Training", "Distribution over the images", "Worst, median and best", "What DPConv does"):
        assert heading in page


def test_the_page_is_one_file_and_its_pictures_have_texts(page):
    elements = Elements(page)
    for tag, attributes in elements.found:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    pictures = elements.all("img")
    assert len(pictures) == len([uri for uri in re.findall(r'src="data:image', page)]) >= 6 * (4 + 6)
    assert all(picture["alt"] for picture in pictures)
    assert all(chart["aria-label"] for chart in elements.all("svg") if "role" in chart)
    assert "http" not in page.replace("http-equiv", "")


def test_the_errors_of_a_case_are_those_of_its_row(experiment, page):
    folder, _ = experiment
    with (folder / "run" / "evaluation" / "best-val" / "per_image.csv").open(encoding="utf-8") as file:
        counts = {row["name"]: (row["TP"], row["FN"], row["FP"]) for row in csv.DictReader(file)}
    found = re.findall(r'alt="(\w+), the errors: (\d+) pixels found, (\d+) missed, (\d+) false"', page)
    assert len(found) == 6 and all(counts[name] == tuple(said) for name, *said in found)
    assert any(missed != false for _, _, missed, false in found), "or this has shown nothing"


def test_pictures_are_what_was_predicted(experiment, page):
    """The target of a case is the mask of that name, its image the image."""
    folder, _ = experiment
    found = re.findall(r'src="data:image/png;base64,([^"]+)" alt="(\w+), the target: (\d+) pixels"', page)
    photos = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="(\w+), the image"', page)
    photos = {name: data for data, name in photos}
    assert len(found) == len(photos) == 6
    for data, name, pixels in found:
        picture, photo = (
            cv2.imdecode(np.frombuffer(base64.b64decode(uri), np.uint8), cv2.IMREAD_GRAYSCALE)
            for uri in (data, photos[name])
        )
        image, mask = (
            cv2.imread(str(folder / "set" / part / f"{name}.png"), cv2.IMREAD_GRAYSCALE) for part in ("images", "masks")
        )
        assert np.array_equal(picture > 127, mask > 127) and int(pixels) == (mask > 127).sum()
        assert np.abs(photo.astype(float) - image).mean() < 5, "JPEG"


@dataclass
class Curves:
    thresholds = np.array([0.0, 0.5, 1.0])
    precision = np.array([0.1, 0.8, 1.0])
    recall = tpr = np.array([1.0, 0.7, 0.0])
    fpr = np.array([1.0, 0.1, 0.0])
    iou = np.array([0.1, 0.6, 0.0])
    f1 = np.array([0.2, 0.7, math.nan])
    average_precision = 0.8123
    roc_auc = 0.9456


def test_any_column_and_any_summary_and_a_sweep(tmp_path):
    (tmp_path / "per_image.csv").write_text("name,iou,HD95,kind\na,0.2,,x\nb,0.9,3.25,y\n")
    summary = {
        "images": 2,
        "pd": {"found": 3, "of": {"all": 4}},
        "nothing": None,
        "sweep": {"best_threshold": {"threshold": 0.99999999, "iou": 0.6}},
        "curve": list(range(99)),
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = write_report(tmp_path / "page", tmp_path, [], sweep=Curves()).read_text(encoding="utf-8")
    for text in (
        "HD95",
        ">3.25<",
        'data-value="">–<',
        ">x<",
        "of / all",
        "0.8123",
        "0.9456",
        "IoU is highest at 0.5: 60.00 %",
    ):
        assert text in page, text
    assert "best threshold / IoU (%)" in page and ">60.00<" in page
    assert ">0.99999999<" in page
    curves = Curves()
    curves.thresholds = np.array([0.0, 0.99999999, 1.0])
    page = write_report(tmp_path / "page", tmp_path, [], sweep=curves).read_text(encoding="utf-8")
    assert "IoU is highest at 0.99999999: 60.00 %" in page
    curves.thresholds, curves.iou = np.array([1e-8, 0.5, 1.0]), np.array([0.6, 0.6, 0.1])
    page = write_report(tmp_path / "page", tmp_path, [], sweep=curves).read_text(encoding="utf-8")
    assert "IoU is highest at 0.5: 60.00 %" in page, "of several, as in summary.json, the one nearest to 0.5"
    assert 'id="layer"' not in page and 'id="training"' not in page
    write_report(tmp_path / "page", tmp_path, [])
    assert 'id="thresholds"' not in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")


def test_a_name_of_a_stranger_stays_a_text(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "per_image.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["name", "iou", "TP", "FN", HOSTILE], [HOSTILE, 0.5, 3, 4, HOSTILE]])
        hostile = {"settings": {"Dataset": HOSTILE, "weights": HOSTILE, HOSTILE: HOSTILE, "img_size": name}}
        (tmp_path / name / "summary.json").write_text(json.dumps({HOSTILE: {HOSTILE: HOSTILE}, **hostile}))
    write_report(tmp_path / "page", tmp_path / "a", [])
    evaluation.main(
        evaluation.settings(["--compare", *(str(tmp_path / name) for name in "ab"), "--report", str(tmp_path / "page")])
    )
    for name in ("report.html", "comparison.html"):
        page = (tmp_path / "page" / name).read_text(encoding="utf-8")
        elements = Elements(page)
        assert len(elements.all("script")) == 1 and not elements.all("img"), name
        assert not [1 for _, attributes in elements.found if any(key.startswith("on") for key in attributes)]
        assert page.count("&lt;script&gt;") >= 2, "it is shown"
        assert "script-src 'sha256-" in elements.all("meta")[1]["content"]


def test_a_case_name_of_a_stranger_stays_a_text(experiment, tmp_path):
    """The same on the way of pictures: the name of the file, through the cases, their alt texts and charts."""
    folder, _ = experiment
    name = 'a"><script>owned()<script>'  # a name that a file may have: without "/"
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        source = next((folder / "set" / part).iterdir())
        (tmp_path / part / f"{name}.png").write_bytes(source.read_bytes())
    (tmp_path / "val.txt").write_text(f"{name}\n")
    weights = str(folder / "run" / "seg" / "best.pth")
    argv = ["--weights", weights, "--base_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    evaluation.main(evaluation.settings([*argv, "--report", str(tmp_path)]))
    elements = Elements((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(elements.all("script")) == 1
    assert any(picture["alt"].startswith(name) for picture in elements.all("img"))


@pytest.mark.parametrize("width", [390, 1280])
def test_only_tables_scroll_sideways(experiment, width):
    """The page is at most as wide as the window, also on a phone; tables scroll, also by keyboard."""
    folder, _ = experiment
    with browser(width) as driver:
        driver.get((folder / "page" / "report.html").as_uri())
        # A window of Chromium has a least width; a device has not.
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for details in driver.find_elements("tag name", "summary"):
            details.click()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        scrolling = driver.find_elements("css selector", ".scroll")
        assert len(scrolling) > 2 and all(one.get_attribute("tabindex") == "0" for one in scrolling)
        assert all(one.get_attribute("aria-label") for one in scrolling)


def test_the_pages_work_in_a_browser(experiment, tmp_path):
    folder, _ = experiment
    other = tmp_path / "other"
    other.mkdir()
    source = folder / "run" / "evaluation" / "best-val"
    summary = json.loads((source / "summary.json").read_text())
    del summary["files"]  # whose hashes the table below does not have
    (other / "summary.json").write_text(json.dumps(summary))
    rows = list(csv.reader((source / "per_image.csv").open(encoding="utf-8")))
    with (other / "per_image.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([rows[0], *([row[0], float(row[1]) / 2, *row[2:]] for row in rows[1:])])
    evaluation.main(evaluation.settings(["--compare", str(source), str(other), "--report", str(tmp_path)]))
    with browser() as driver:
        for path in (folder / "page" / "report.html", tmp_path / "comparison.html"):
            driver.get(path.as_uri())
            for column in (0, 1, 2):
                _sorts(driver, column)
            assert driver.execute_script(
                "return [...document.images].every((image) => image.complete && image.naturalWidth > 0)"
            )
            assert not console_errors(driver)
        # The policy holds in the browser: a script that found its way into the page does not run.
        hostile = tmp_path / "hostile.html"
        page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
        hostile.write_text(page.replace("</main>", f"</main>{HOSTILE[2:]}"), encoding="utf-8")
        driver.get(hostile.as_uri())
        assert driver.title != "owned" and "Content Security Policy" in console_errors(driver)[0]


def _sorts(driver, column):
    """Two clicks on a header: up and down, in order, and aria-sort says so; the keyboard does the same as the mouse."""
    from selenium.webdriver.common.keys import Keys

    header = driver.find_elements("css selector", "table.sortable thead th")[column]
    button = header.find_element("tag name", "button")
    button.click()
    if header.get_attribute("aria-sort") != "ascending":
        button.click()
    rising = _column(driver, column)
    assert rising == sorted(rising) and len(rising) == 8
    button.send_keys(Keys.ENTER)
    assert header.get_attribute("aria-sort") == "descending"
    assert _column(driver, column) == sorted(rising, reverse=True)
    assert len(driver.find_elements("css selector", "table.sortable th[aria-sort]")) == 1


def _column(driver, column):
    script = (
        "return [...document.querySelector('table.sortable').tBodies[0].rows].map((row) => row.cells[arguments[0]])"
        ".map((cell) => cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value))"
    )
    return driver.execute_script(script, column)


def test_cases_are_chosen_once():
    assert choose(1) == [("worst", 0)]
    assert choose(2) == [("worst", 0), ("best", 1)]
    assert choose(3) == [("worst", 0), ("median", 1), ("best", 2)]
    assert [rank for _, rank in choose(55)] == [0, 1, 2, 26, 27, 28, 52, 53, 54]


def test_a_small_target_is_enlarged_and_a_large_one_is_not():
    where = np.zeros((256, 256), bool)
    assert _zoom(where) is None
    where[2:5, 250:254] = True
    assert _zoom(where) == (slice(0, 32), slice(224, 256))
    where[100:200] = True
    assert _zoom(where) is None


@pytest.mark.parametrize("encoder_bn", ["frozen", "batch"])
def test_inside_is_what_the_network_does(encoder_bn):
    torch.manual_seed(1)
    model = models.build_srs("srs_tiny", encoder_bn).eval()
    image = torch.randn(1, 3, 24, 30)
    seen = {}
    model.dpconv.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], change=output))
    with torch.no_grad():
        model(image)
    view = look_inside(model, image)
    assert view.before.shape == view.deep.shape == (3, 4)
    after = (seen["x"] + seen["change"])[0].mean(0).numpy()
    assert np.allclose(view.after, after, rtol=1e-3, atol=1e-3)
    assert view.strength == pytest.approx((seen["change"].norm() / seen["x"].norm()).item(), rel=1e-3)
    assert view.code.shape == (64,) and view.kernel.shape == (64, 64, 3, 3)
    other = look_inside(model, torch.randn(1, 3, 24, 30))
    # Kernels of 2 and of 4 are 1 away from their mean of 3.
    assert deviations([replace(view, kernel=0 * view.kernel + n) for n in (2, 4)]) == pytest.approx([1 / 3, 1 / 3])
    near, far = deviations([view, other])
    assert near == pytest.approx(far, rel=1e-3) and near > 0 and deviations([view, view]) == [0, 0]


@pytest.mark.parametrize(
    ("layer", "source", "shown"),
    [
        ("condconv", "recon", "kernel"),
        ("film", "random", "code"),
        ("odconv", "self", "kernel"),
        ("static", "recon", ""),
    ],
)
def test_the_page_names_the_layer_that_the_network_has(experiment, tmp_path, layer, source, shown):
    folder, _ = experiment
    torch.manual_seed(0)
    content = load_checkpoint(folder / "run" / "seg" / "best.pth", "seg")
    content["settings"] |= {"dynamic": layer, "kernel_source": source, "output_dir": str(tmp_path)}
    content["model"] = models.build("srs_tiny", layer=layer, kernel_source=source).state_dict()
    save_checkpoint(tmp_path / "seg" / "best.pth", content)
    code = ["--code", "swap"] if shown else []
    argv = ["--weights", str(tmp_path / "seg" / "best.pth"), "--report", str(tmp_path), "--batch_size", "8", *code]
    evaluation.main(evaluation.settings(argv))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "DPConv" not in page and "dpconv" not in page
    section = "".join(re.findall(r'<section aria-labelledby="layer">(.*?)</section>', page, re.DOTALL))
    if not shown:
        assert not section and "What static does" not in page
        return
    assert f"What {layer} does" in section and f'href="#layer">{layer}<' in page
    assert f"The code is the only part of {layer} that depends on the image" in page
    assert f"x30 + {layer}(x30)" in section and f"Code of {layer}" in section
    assert f"from the mean {shown} of these images" in section
    assert ("slices of the kernel" in section) == (shown == "kernel")
    assert ("deep feature of the encoder" in section) == (source != "self")
    assert {"recon": "frozen reconstruction", "random": "never trained", "self": "own deepest"}[source] in section


@pytest.mark.parametrize(("amp", "tolerance"), [("off", 1e-3), ("bf16", 0.05)])
def test_the_network_that_evaluated_is_looked_into(amp, tolerance):
    """The copy that an engine runs, in its number format, shows what the network itself shows in float32."""
    torch.manual_seed(1)
    model, precision = models.build_srs("srs_tiny").eval(), Precision(amp, torch.device("cpu"))
    image = torch.randn(1, 3, 24, 32)
    expected = look_inside(model, image)
    with precision.autocast():
        found = look_inside(load_engine("torch", model, precision).network, image)
    for name in ("deep", "before", "change", "after", "code", "kernel"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == np.float32 and np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), name
    assert found.strength == pytest.approx(expected.strength, rel=tolerance)


def test_logs_of_strangers_cost_no_report(tmp_path):
    (tmp_path / "seg").mkdir()
    weights = tmp_path / "seg" / "best.pth"
    assert training_charts(weights) == []
    for text in (
        "not json\n",
        "[1]\n",
        '{"epoch": 1}\n',
        '{"epoch": "x", "train": {"loss": 1}, "val": {}}\n',
        "\xff\n",
    ):
        (tmp_path / "seg" / "log.jsonl").write_text(text, encoding="latin-1")
        assert training_charts(weights) == []


@pytest.mark.parametrize(("dataset", "epochs"), [("BUS", 300), ("KBT2019", 469), ("BUSI", None)])
def test_the_released_log_stands_beside_a_run_of_its_data_set(tmp_path, dataset, epochs):
    run = tmp_path / "seg"
    run.mkdir()
    figures = {"loss": 0.5, "iou": 0.4}
    lines = [{"epoch": n, "train": figures, "val": figures, "seconds": 1} for n in (1, 2, 3)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "settings.txt").write_text(f"  Dataset         {dataset}\n  base_dir        x\n")
    loss, iou = training_charts(run / "best.pth")
    for chart in (loss, iou):
        drawn = {label: [len(piece.split()) for piece in pieces] for label, pieces in chart.lines}
        assert drawn.pop("released log, validation", None) == (None if epochs is None else [epochs])
        assert drawn == {"training": [3], "validation": [3]}
        assert chart.x.high == (epochs or 3)
    if dataset == "BUS":
        assert "released log: 88.29 in its best epoch by IoU (114)" in iou.text
        assert iou.at(114, 88.29) in [tuple(map(float, point.split(","))) for point in iou.lines[2][1][0].split()]


def test_axes_and_gaps():
    assert Axis("", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Axis("", 1, 2, whole=True).ticks() == [1, 2]
    assert Axis("", 3, 400, log=True).ticks() == [3, 10, 30, 100, 300]
    chart = line_chart("t", "", "x", "y", [1, 2, 3, 4], {"a": [1.0, math.nan, 0.5, 2.0]})
    ((_, pieces),) = chart.lines
    assert [len(piece.split()) for piece in pieces] == [1, 2]
    bars = histogram("t", "x", [0.1, 0.1, 0.9, 1.0, math.nan], 0, 1, bins=2).bars
    assert [bar[3] for bar in bars] == [244, 244] and "0 to 0.5: 2 images" in bars[0][4]


def test_a_checkpoint_older_than_a_setting_is_read(experiment, tmp_path):
    content = load_checkpoint(experiment[0] / "run" / "seg" / "best.pth", "seg")
    del content["settings"]["amp"]
    save_checkpoint(tmp_path / "old.pth", content)
    assert evaluation.settings(["--weights", str(tmp_path / "old.pth")]).amp == "auto"
