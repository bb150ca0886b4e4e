"""Debian's Chromium in headless mode, and the text of its pages."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from support.processes.required_tools import require_tools


@dataclass(frozen=True)
class Browser:
    """A browser window."""

    driver: webdriver.Chrome

    def text(self) -> str:
        """The visible text of the page."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def open(self, address: str, *expected: str, timeout: float = 90) -> None:
        """Open a page and wait until it shows all these texts."""
        self.driver.get(address)
        deadline = time.monotonic() + timeout
        while missing := [text for text in expected if text not in self.text()]:
            assert time.monotonic() < deadline, (missing, self.text())
            time.sleep(0.2)

    def screenshot(self) -> bytes:
        """The page as PNG."""
        return self.driver.get_screenshot_as_png()


@contextmanager
def browser(width: int = 1600, height: int = 900) -> Iterator[Browser]:
    """A headless Chromium that loads nothing but the page."""
    chromium, chromedriver = require_tools("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--window-size={width},{height}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
