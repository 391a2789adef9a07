"""The organisation's page in a real browser: it fits, is whole under its own policy, and asks nobody for anything."""

from __future__ import annotations

import shutil

import pytest

from server.dashboard.page import dashboard_page
from server.dashboard.site import PATH
from server.dashboard.sources import DashboardReader
from tests.server.dashboard.organisation import KEY_ID, RECEIPT_ID, SALT, an_organisation

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ORIGIN = "http://localhost:8090"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser

    with sync_playwright() as playwright:
        arguments = ["--disable-gpu", "--disable-dev-shm-usage"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, chromium_sandbox=False)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The page of an organisation, with a name that has no place to break."""
    folder = tmp_path_factory.mktemp("organisation")
    sources = an_organisation(folder)
    record = next((folder / "ledger.jsonl.runs").glob("*.json"))
    record.write_bytes(record.read_bytes().replace(b'"west"', b'"' + b"w" * 60 + b'"'))
    return dashboard_page(DashboardReader(sources).read())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 1000])
def test_the_page_fits_every_screen_and_its_policy_stops_nothing_of_it(chromium, content, width, scheme):
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, complaints, requested = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: requested.append(request.url))
    page.route(f"{ORIGIN}/**", lambda route: route.fulfill(body=content, content_type="text/html"))
    page.goto(f"{ORIGIN}{PATH}")
    assert complaints == []
    assert {url.partition(":")[0] for url in requested} <= {"http", "data"}
    assert [url for url in requested if url.startswith("http")] == [f"{ORIGIN}{PATH}"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(247, 246, 242)" if scheme == "light" else "rgb(20, 25, 26)")
    shown = page.inner_text("body")
    for words in ("What needs attention", "door-access", "Dropped out", "w" * 60):
        assert words in shown
    for secret in (KEY_ID, RECEIPT_ID, SALT.hex()):
        assert secret not in shown
    plot = page.locator("figure.det svg").bounding_box()
    assert plot["width"] > 250
    assert plot["x"] >= 0
    assert plot["x"] + plot["width"] <= width
    context.close()
