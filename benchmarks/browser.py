"""A headless Chromium, for the tests and the measurements of the page; it reaches no network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DRAWN = "return !stale.has(arguments[0])"
TABLES = "return performance.getEntriesByName('tables')[0].startTime / 1000"
READY = """
if (typeof stale !== "object" || typeof Plotly !== "object" || near.size === 0) return false;
return ![...stale].some((one) => near.has(one) || !FIGURES.includes(one))"""
LACKING = "needs Debian's chromium and chromium-driver, and the package selenium (extra dev)"


def why_not() -> str | None:
    """What is lacking, in a sentence; None where a browser can be started."""
    try:
        import selenium
    except ImportError:
        return LACKING
    return (
        None if selenium and shutil.which("chromedriver") and shutil.which("chromium") else LACKING
    )


@contextmanager
def chromium() -> Iterator[Any]:
    """A driver, whose console is kept; stopped in the end."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    switches = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "enable-unsafe-swiftshader")
    for switch in (*switches, "window-size=1400,1000", "proxy-server=127.0.0.1:9"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


def look_like(driver: Any, width: int = 1400, height: int = 1000, scheme: str = "light") -> None:
    """A screen of another width, in `light` or `dark` colours."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def wait_until(driver: Any, script: str, *arguments: object, seconds: float = 120) -> None:
    """Until a script says so; a busy machine is given time."""
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(driver, seconds, poll_frequency=0.02)
    waiting.until(lambda found: found.execute_script(script, *arguments))


def scroll_to(driver: Any, section: str) -> None:
    """Until what is drawn only when it comes near is drawn."""
    driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", section)
    wait_until(driver, DRAWN, section)


def scroll_down(driver: Any) -> None:
    """To all that is drawn only when it comes near."""
    for section in driver.execute_script("return FIGURES"):
        scroll_to(driver, section)
