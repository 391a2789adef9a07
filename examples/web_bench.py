"""The page in Chromium: bytes that opening it transfers, and time from a photo to the verdict.

Everything is real: the release, rules and log of `make demo`, the matching service, the bridge, the built page in a
headless browser, and a photo of a face. The clock runs in the page, from the click to the moment when the page says
accepted: detection, embedding, encryption, three calls, proofs of the log, decryption. One verification is the warm-up.
One photo verifies; every further one that a release averages takes its detection and embedding longer.
"""

from __future__ import annotations

import io
import shutil
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from client.faces.datasets import orl_faces
from examples.web import DEMO, serving, ticket

PAGE = Path("web/dist/index.html")
MOST_BYTES = 6_000_000
MOST_MS = 1000.0
_PERSON = "s2"
"""Whose photographs leave some room around the face, as a reference needs."""
_READY = "body:is([data-screen=welcome], [data-screen=enrolled])"
_PATIENCE_MS = 120_000.0
_TIMED_CLICK = """button => new Promise(resolve => {
  const begun = performance.now()
  const watcher = new MutationObserver(() => {
    if (['accepted', 'refused', 'failed'].includes(document.body.dataset.screen)) {
      watcher.disconnect()
      resolve(performance.now() - begun)
    }
  })
  watcher.observe(document.body, { attributeFilter: ['data-screen'] })
  button.click()
})"""
_AUTHENTICATOR: dict[str, Any] = {
    "protocol": "ctap2", "ctap2Version": "ctap2_1", "transport": "internal", "hasResidentKey": True, "hasPrf": True,
    "hasUserVerification": True, "isUserVerified": True, "automaticPresenceSimulation": True,
}  # fmt: skip
"""Of the browser's own: it gives what opens the wallet without asking anybody."""


def missing() -> str | None:
    """Why the page cannot be measured here, or None."""
    if _chromium() is None:
        return "Chromium is missing (Debian: apt-get install chromium)"
    if not PAGE.is_file():
        return "the page is not built; run `make web`, which needs npm"
    if not (DEMO / "release.zip").is_file():
        return "there is no release; run `make demo`"
    return None


def measure(rounds: int) -> tuple[int, list[float]]:
    """Bytes transferred until the page is ready, and milliseconds of each of `rounds` verifications."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    photos = _photos()
    with serving(port) as origin, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_chromium(), args=["--disable-gpu"], chromium_sandbox=False
        )
        page = browser.new_page(base_url=origin)
        finished: list[Any] = []
        page.on("requestfinished", lambda request: finished.append(request))  # noqa: PLW0108 - Playwright marks the handler
        devtools = page.context.new_cdp_session(page)
        devtools.send("WebAuthn.enable")
        devtools.send("WebAuthn.addVirtualAuthenticator", {"options": _AUTHENTICATOR})
        page.goto("/")
        page.wait_for_selector(_READY, timeout=_PATIENCE_MS)
        transferred = sum(_bytes_of(request) for request in finished)
        for worker in page.workers:  # their own scripts are not among a page's requests
            transferred += int(page.request.get(worker.url).headers["content-length"])
        page.click(".card .main")
        page.fill("#ticket", ticket())
        page.check("#agree")
        page.click(".card .main:enabled")
        _bring(page, photos).click()
        page.click("#passkey-button")
        page.wait_for_selector("[data-screen=enrolled] .card", timeout=_PATIENCE_MS)
        times = list(_verifications(page, photos[0], rounds + 1))
        browser.close()
    return transferred, times[1:]


def quantiles(times: list[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    return statistics.median(times), statistics.quantiles(times, n=20, method="inclusive")[-1]


def _verifications(page: Any, photo: Any, count: int) -> Iterator[float]:  # noqa: ANN401 - Playwright's, imported late
    for _ in range(count):
        page.click(".card button:text-is('Done')")
        page.click("[data-screen=home] .card .main")
        yield _bring(page, photo).evaluate(_TIMED_CLICK)
        said = page.text_content(".card h1")
        assert said.startswith("Accepted"), said


def _bring(page: Any, photos: Any) -> Any:  # noqa: ANN401 - Playwright's, imported late
    """Brings photos as files, which the page asks for without a camera; gives the button that goes on with them."""
    page.wait_for_selector(".problem[role=alert]:not(:empty)")
    page.set_input_files("#files", photos)
    return page.wait_for_selector(".files .main:enabled")


def _bytes_of(request: Any) -> int:  # noqa: ANN401 - as above
    sizes = request.sizes()
    return int(sizes["responseBodySize"] + sizes["responseHeadersSize"])


def _photos() -> list[Any]:
    """Two photographs of one face. The first also verifies: the time does not depend on it; each round is accepted."""
    photos = []
    for number in (1, 2):
        written = io.BytesIO()
        Image.open(orl_faces() / _PERSON / f"{number}.pgm").save(written, "PNG")
        photos.append({"name": "face.png", "mimeType": "image/png", "buffer": written.getvalue()})
    return photos


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")
