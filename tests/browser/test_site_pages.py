"""The site as a reader opens it: from files, without a server or a network.

`make docs` makes it; where it was not made, these tests are skipped and counted (the workflow that publishes it runs
them)."""

import pytest
from lab import ROOT

SITE = ROOT / "build" / "site" / "html"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}  # pixels
PAGES = ("index", "course/07_fusion", "analysis/a1_main_table", "docs/results", "api/sevlm.models.fusion")
FORMULAS = "[document.querySelectorAll('.math').length, document.querySelectorAll('mjx-container').length]"

pytestmark = pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the site is not built; run: make docs")


def open_page(page, name, size=DESK):
    page.set_viewport_size(size)
    page.goto((SITE / f"{name}.html").as_uri())


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_whole_and_fit_a_phone(watch, name):
    open_page(watch.page, name)
    watch.page.wait_for_function(f"(([a, b]) => a === b)({FORMULAS})")
    assert watch.page.locator("mjx-merror").count() == 0
    assert watch.page.locator("img:not([alt])").count() == 0
    watch.shoot("desk")
    watch.page.set_viewport_size(PHONE)
    assert watch.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    watch.shoot("phone")


def test_the_sidebar_is_the_road(page):
    open_page(page, "index")
    assert page.locator(".sidebar-tree .toctree-l1").first.inner_text().strip().startswith("00")


def test_search_works_without_a_server(watch):
    watch.page.set_viewport_size(DESK)
    watch.page.goto((SITE / "search.html").as_uri() + "?q=contrastive")
    found = watch.page.locator("#search-results li a")
    found.first.wait_for()
    assert any("09_contrast" in (link.get_attribute("href") or "") for link in found.all())


def test_a_name_leads_to_its_entry(page):
    open_page(page, "course/07_fusion")
    link = page.locator("article a[href*='api/sevlm.models.fusion.html#']").first
    target = link.get_attribute("href").rpartition("#")[2]
    link.click()
    page.locator(f'[id="{target}"]').wait_for(state="attached")
    assert page.url.endswith(f"#{target}")


def test_dark(watch):
    open_page(watch.page, "course/07_fusion")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = watch.page.evaluate(colour)
    watch.page.emulate_media(color_scheme="dark")
    assert watch.page.evaluate(colour) != light
    watch.shoot("dark")
