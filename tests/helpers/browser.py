"""A headless Chromium for the tests of pages; they are skipped where there is none.

    with browser() as driver:
        driver.get(path.as_uri())
        assert not console_errors(driver)

Debian and Ubuntu: apt-get install chromium chromium-driver
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def browser(width: int = 1200, height: int = 900) -> Iterator[Chrome]:
    """A selenium driver with a window of that size; skips the test, and says why, where there is no browser."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (requirements-dev.txt)")
    chromium = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        missing = "chromedriver" if chromium else "chromium"
        pytest.skip(f"{missing} was not found (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Containers run as root, where Chromium's sandbox does not start, and have a small /dev/shm.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


def console_errors(driver: Chrome) -> list[str]:
    """The errors in the browser's console since it was last asked: scripts that failed, resources not found."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
