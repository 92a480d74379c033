"""Draws the other pictures of pages: report.png, report_dpconv.png, report_comparison.png, demo.png, contact_sheet.png.

make demo
RUN=checkpoints/demo MORE=checkpoints/continued
python train_seg.py --Dataset sample --variant srs_tiny --init_from $RUN/seg/best.pth --epochs 2 --output_dir $MORE
python evaluation.py --weights $MORE/seg/best.pth
python evaluation.py --compare $RUN $MORE --unlike_protocols --report $RUN/report
python predict.py --weights $RUN/seg/best.pth "DataSet/sample/images/us000[1-6].png" --output $RUN/masks
PYTHONPATH=.:tests/helpers python docs/pictures/draw_pages.py $RUN docs/pictures

Requires Chromium and Gradio (requirements-dev.txt, requirements-demo.txt).
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

from browser import browser
from jobs import free_port
from PIL import Image
from selenium.webdriver import Chrome

import demo

WIDTH = 1150  # of a page, pixels


def save(driver: Chrome, path: Path, width: int, height: int, left: int = 0, top: int = 0) -> None:
    """Saves a part of the page, which may be longer than the window."""
    clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB").save(path, optimize=True)


def bottom(driver: Chrome, selector: str) -> int:
    """Where the first element of that kind ends, in pixels from the top of the page."""
    script = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return box.bottom + scrollY"
    return round(driver.execute_script(script, selector))


def draw(run: Path, pictures: Path) -> None:
    shutil.copy(run / "masks" / "contact_sheet" / "contact_sheet.png", pictures)
    with browser(WIDTH, 900) as driver:
        driver.get((run / "report" / "report.html").resolve().as_uri())
        save(driver, pictures / "report.png", WIDTH, bottom(driver, ".case") + 8)
        end, start = bottom(driver, "#layer ~ .case"), bottom(driver, "#layer") - 40
        save(driver, pictures / "report_dpconv.png", WIDTH, end - start + 8, top=start)
        driver.get((run / "report" / "comparison.html").resolve().as_uri())
        save(driver, pictures / "report_comparison.png", WIDTH, bottom(driver, "main > p") + 8)
    with browser(1280, 900) as driver, tempfile.TemporaryDirectory() as folder:
        argv = ["--weights", str(run / "seg" / "best.pth"), "--port", str(free_port()), "--device", "cpu"]
        page, address = demo.start(demo.parser().parse_args(argv), folder)
        driver.get(address)
        time.sleep(5)  # fonts and pictures
        save(driver, pictures / "demo.png", 1280, bottom(driver, "#kernel") + 8)
        page.close()


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
