"""The page in headless Chromium, by mouse and by keyboard, against a server that is told by the environment."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

expect.set_options(timeout=120_000)  # a machine may be busy
UNIT = os.environ["LOWC_UNIT"]
URL = f"http://{os.environ['LOWC_HTTP']}"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that containers do not have.
        options = {"executable_path": BROWSER, "args": ["--no-sandbox"]}
        with playwright.chromium.launch(**options) as started:
            yield started


@pytest.fixture
def page(browser):
    """Return the page; anything that it fetches from elsewhere, or says on the console, fails."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1600})
    opened.set_default_timeout(120_000)
    wrong: list[str] = []
    opened.on("request", lambda one: None if one.url.startswith(URL) else wrong.append(one.url))
    opened.on(
        "console", lambda one: wrong.append(one.text) if one.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(URL)
    expect(opened.locator("#form option").first).to_be_attached(timeout=120_000)
    yield opened
    opened.close()
    assert not [one for one in wrong if "status of 400" not in one]


def test_a_heat_map_of_tiles(page) -> None:
    page.select_option("#form", "lmul")
    page.select_option("#target", UNIT)
    for name, value in (("#m", "64"), ("#n", "256"), ("#k", "128")):
        page.fill(name, value)
    page.click("button:text('Predict')")
    expect(page.locator("#tile-status")).to_have_text(
        re.compile(rf"\d+ tiles, by tiles 1 for {UNIT}")
    )
    expect(page.locator("#choice")).to_have_text(re.compile(r"Tile t\w+: [\d.]+ (µs|ms)"))
    expect(page.locator("#limited-by")).to_have_text(re.compile("Limited by (bytes|operations): "))
    best = page.locator("#map td.best").first
    expect(best).to_have_text("1.00")
    assert page.locator("#map td:not(.empty)").count() > 20
    assert best.evaluate("cell => getComputedStyle(cell).backgroundColor") == "rgb(68, 1, 84)"
    rows = page.locator("#best tr")
    assert rows.count() == 11
    energy = page.locator("#energy")
    expect(energy).to_have_text(
        re.compile(r"[\d.]+ [nµm]J as lmul, [\d.]+ [nµm]J with f32 multiplications \(-\d")
    )
    assert "form=lmul&shape=1x64x256x128" in page.url
    page.screenshot(path=os.environ.get("LOWC_SCREENSHOT", os.devnull), type="png", full_page=True)


def test_all_by_keyboard(page) -> None:
    """Without a mouse: to the first field, through the form, and over the map."""
    page.keyboard.press("Tab")  # the link to OpenAPI
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "form"
    page.keyboard.type("w4a8")
    for text in ("1", "64", "384", "256"):
        page.keyboard.press("Tab")
        page.keyboard.press("Control+a")
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    expect(page.locator("#choice")).to_be_visible()
    assert page.input_value("#form") == "w4a8"
    while page.evaluate("document.activeElement.tagName") != "TD":
        page.keyboard.press("Tab")
    before = page.text_content("#cell")
    cells = set()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowUp", "End", "Home"):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.tagName") == "TD"
        cells.add(page.text_content("#cell"))
    assert len(cells) > 2
    assert before.startswith("t")


def test_wrong_sizes_are_said(page) -> None:
    page.fill("#m", "-3")
    page.click("button:text('Predict')")
    expect(page.locator("#tile-status")).to_have_text("M must be a whole number from 1 on")
    page.fill("#m", "99999999")
    page.click("button:text('Predict')")
    expect(page.locator("#tile-status")).to_have_text(re.compile("less than or equal to 1048576"))
    expect(page.locator("#tile-result")).to_be_hidden()


def test_a_module(page) -> None:
    page.select_option("#recipe", "lmul")
    page.focus("#mlir")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#totals")).to_have_text(
        re.compile(r"Energy: [\d.]+ µJ of arithmetic \(-\d.*% against f32")
    )
    expect(page.locator("#matmuls tr")).to_have_count(2)
    expect(page.locator("#matmuls tr:nth-child(2) td:nth-child(3)")).to_have_text("lmul")
    page.fill("#mlir", "func.func @main(")
    page.click("button:text('Estimate')")
    expect(page.locator("#mlir-status")).to_have_text(re.compile("this is not valid MLIR"))


def test_a_link_brings_the_product_back(page) -> None:
    page.goto(f"{URL}/#form=pam&shape=2x32x64x48&target={UNIT}&lowering=linalg")
    page.reload()
    expect(page.locator("#choice")).to_be_visible()
    assert [page.input_value(f"#{name}") for name in ("form", "batch", "m", "n", "k", "lowering")] == [
        "pam", "2", "32", "64", "48", "linalg",
    ]  # fmt: skip
