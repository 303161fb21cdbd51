"""The page as a reader meets it, in a headless Chromium without a network."""

import re

import pytest

from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.reports.page import read_runs, write_page
from benchmarks.browser import READY, chromium, look_like, scroll_down, wait_until, why_not
from tests.pages import leave
from tests.records import record

HOSTILE = "<script>document.title='broken'</script><img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Two attacks, two defenses and two seeds, a sweep, a hostile record, a failed run."""
    outputs = tmp_path_factory.mktemp("outputs")
    for seed in (0, 1):
        for attack in ("wanet", "badnets"):
            for defense in ("unibp", "ft"):
                leave(outputs, attack=attack, defense=defense, seed=seed, asr=0.1 + 0.2 * seed)
        for k in ("1", "10"):
            leave(outputs, f"defense.k={k}", seed=seed, protocol="unibp")
    forgot = Scores(0.85, None, 0.8, None, 0.9, 0.1, 0.1)
    leave(outputs, attack=HOSTILE, defense=HOSTILE, details={"x": HOSTILE}, purified=forgot)
    leave(outputs, attack=HOSTILE, defense=HOSTILE, seed=1, asr=0.1)
    record(error=HOSTILE, command="python run.py attack=sig").write(outputs / "runs" / "failed")
    found = read_runs(outputs)
    return write_page(outputs, found, found.failures)


@pytest.fixture(scope="module")
def browser():
    if lacking := why_not():
        pytest.skip(f"the page's tests in a browser: {lacking}")
    with chromium() as driver:
        driver.look = None
        yield driver


@pytest.fixture
def opened(browser, index):
    """Opens the page; where it is open already with the same look, its filters are cleared."""

    def open_page(**look):
        if look or browser.current_url != index.as_uri() or browser.look:
            look_like(browser, **look)
            browser.get(index.as_uri())
            browser.look = look
        else:
            browser.find_element("css selector", "button[type=reset]").click()
            wait_until(browser, "return !form.querySelector('input:checked')")
        wait_until(browser, READY)
        return browser

    return open_page


def rows(driver, section):
    """The texts of a section's table, a list a row."""
    script = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    return driver.execute_script(script, f"#{section} tbody tr")


def tick(driver, facet, value):
    """Click a filter's box, as a hand would."""
    script = """
    const group = [...document.querySelectorAll("fieldset")].find(
      (one) => one.querySelector("legend").textContent === arguments[0]);
    return [...group.querySelectorAll("label")].find(
      (one) => one.textContent.trim() === arguments[1]).querySelector("input");
    """
    driver.execute_script(script, facet, value).click()
    wait_until(driver, READY)


def test_it_opens_without_an_error_and_without_a_network(opened):
    driver = opened()
    scroll_down(driver)
    told = [one for one in driver.get_log("browser") if one["level"] == "SEVERE"]
    assert not told
    names = "return performance.getEntriesByType('resource').map(one => one.name)"
    assert all(name.startswith(("file:", "data:")) for name in driver.execute_script(names))
    buttons = "return [...document.querySelectorAll('.modebar-btn')].map((one) => one.ariaLabel)"
    assert not [name for name in driver.execute_script(buttons) if re.search("hare|loud", name)]
    drawn = "return document.querySelectorAll('.js-plotly-plot').length"
    assert driver.execute_script(drawn) == 5  # arrows, a sweep, two costs, parallel coordinates


def test_what_a_record_says_does_not_run(opened):
    driver = opened()
    scroll_down(driver)
    assert driver.title == "Backdoor purification: results"
    assert HOSTILE in driver.find_element("id", "troubles").text
    assert not driver.execute_script("return document.querySelectorAll('main img').length")
    page = driver.find_elements("css selector", "#runs td a")
    hostile = next(one for one in page if "script" in one.get_attribute("href"))
    driver.get(hostile.get_attribute("href"))
    assert HOSTILE in driver.find_element("tag name", "main").text
    assert driver.title != "broken"


def test_a_filter_changes_tables_figures_and_what_is_read_out(opened):
    driver = opened()
    count = driver.find_element("id", "count")
    assert count.get_attribute("aria-live") == "polite"
    assert count.text.startswith("Shown: 14 of 14 runs, 7 rows of means")
    before = len(rows(driver, "means"))
    traces = "return document.querySelector('#trade .figure').data.length"
    assert driver.execute_script(traces) == 3
    tick(driver, "defense", "ft")
    assert count.text.startswith("Shown: 4 of 14 runs, 2 rows of means")
    assert (before, len(rows(driver, "means"))) == (7, 2)
    assert driver.execute_script(traces) == 1
    tick(driver, "seed", "1")
    assert all(any("30.0" in text for text in row) for row in rows(driver, "means"))
    driver.find_element("css selector", "button[type=reset]").click()
    wait_until(
        driver,
        "return document.querySelectorAll(arguments[0]).length === 14",
        "#runs tbody tr",
    )


def test_means_are_over_seeds_alone(opened):
    driver = opened()
    tick(driver, "attack", "wanet")
    told = [" ".join(row) for row in rows(driver, "means")]
    assert len(told) == 4  # ft and unibp without a protocol; two values of k with one
    assert all(re.search(r"\b2\b", row) for row in told)
    assert sum("20.0 ± 14.1" in row for row in told) == 2


def test_a_class_that_one_run_forgot_is_marked(opened):
    driver = opened()
    tick(driver, "defense", HOSTILE)
    assert "✕" in " ".join(rows(driver, "means")[0])
    marks = driver.find_elements("css selector", ".forgot")
    said = {one.get_attribute("title") for one in marks}
    assert "a class was forgotten in 1 of 2 runs" in said
    symbols = "return document.querySelector('#trade .figure').data[0].marker.symbol[1]"
    tick(driver, "defense", "ft")
    assert driver.execute_script(symbols) == "x"


def test_a_heat_map_says_the_numbers(opened):
    driver = opened()
    driver.find_element("id", "measure").send_keys("ASR")
    told = [text for row in rows(driver, "heat") for text in row]
    assert any(text.startswith("20.0 ± 14.1 (2)") for text in told)


def test_tables_sort(opened):
    driver = opened()
    button = driver.find_element("xpath", "//section[@id='means']//th/button[text()='DER %']")
    button.click()
    button.click()
    head = button.find_element("xpath", "..")
    assert head.get_attribute("aria-sort") == "descending"


def test_a_phone_scrolls_down_only(opened, browser, index):
    driver = opened(width=390, height=844)
    scroll_down(driver)
    width = "return document.documentElement.scrollWidth"
    assert driver.execute_script(width) == 390
    driver.get(next((index.parent / "runs").rglob("*unibp*/*.html")).as_uri())
    assert driver.execute_script(width) == 390


def test_dark_mode_has_other_colours(opened):
    colours = (
        "const ink = document.querySelector('#trade .xtick text').style.fill;"
        "return [getComputedStyle(document.body).backgroundColor, ink]"
    )
    light = opened().execute_script(colours)
    dark = opened(scheme="dark").execute_script(colours)
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_the_keyboard_reaches_the_filters_and_headings_have_a_scope(opened):
    driver = opened()
    from selenium.webdriver.common.keys import Keys

    def press(*keys):
        driver.switch_to.active_element.send_keys(*keys)
        return driver.switch_to.active_element

    driver.find_element("tag name", "body").send_keys(Keys.TAB)
    assert driver.switch_to.active_element.get_attribute("class") == "skip"
    assert press(Keys.TAB).tag_name == "summary"
    box = press(Keys.TAB)
    assert box.get_attribute("type") == "checkbox"
    assert box.accessible_name
    press(Keys.SPACE)
    assert box.is_selected()
    assert "14 of" not in driver.find_element("id", "count").text.split(" runs")[0].split("of")[0]
    assert not driver.execute_script("return document.querySelectorAll('th:not([scope])').length")
