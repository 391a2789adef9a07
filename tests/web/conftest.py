"""A built page, its bridge and the service behind it, with a browser whose camera shows one person."""

import asyncio
import shutil
from pathlib import Path

import pytest

from federation.onebit import parameters_for
from server.matching.workers import MatchWorkers
from server.storage.sqlstorage import open_storage
from tests.bundles import a_bundle
from tests.running import RunningServer, a_pki, a_rules_file, a_service, a_ticket, an_issuer, public_rules
from tests.web.hands import ME, opened
from tests.web.site import film, orl_release, provenance_of, serving

PAGE = Path(__file__).parents[2] / "web" / "dist"
PATIENCE_MS = 200_000
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def release():
    return orl_release()


@pytest.fixture(scope="module")
def rules(release):
    """The content of the rules file."""
    return a_rules_file(releases=(release,))


@pytest.fixture(scope="module")
def site(tmp_path_factory, release, rules):
    """The page, its bridge, and the service behind it."""
    if CHROMIUM is None:
        pytest.skip("Chromium is missing (Debian: apt-get install chromium)")
    if not (PAGE / "index.html").is_file():
        pytest.skip("the page is not built: make web")
    directory = tmp_path_factory.mktemp("site")
    tls = a_pki(directory / "tls")
    workers = MatchWorkers(1, parameters_for(release.code_length), timeout_seconds=60)
    asyncio.run(workers.start())
    with open_storage(str(directory / "matching.db")) as storage:
        issuer = an_issuer(a_bundle(release))
        software = provenance_of(PAGE)
        service = a_service(release, storage, workers, public_rules(rules), directory, issuer=issuer, software=software)
        with RunningServer(service, tls) as server, serving(PAGE, server.target, tls, release, rules) as served:
            served.ticket = lambda: a_ticket(storage).reveal()
            yield served
    workers.close()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the camera shows from its next opening on, in a file: ME."""
    path = tmp_path_factory.mktemp("film") / "me.mjpeg"
    film(ME, range(1, 6), path)
    return path


def patient(new_context):
    """Contexts whose pages are waited for as long as a test may take: several browsers may share a core."""

    def made(browser, **how):
        context = new_context(browser, **how)
        context.set_default_timeout(PATIENCE_MS)
        return context

    return made


@pytest.fixture(scope="module")
def chromium(site, seen):
    """A browser with a camera. It comes after the site: Playwright keeps this thread's event loop."""
    from playwright.sync_api import Browser, sync_playwright  # noqa: PLC0415 - only where there is a browser

    arguments = [
        "--disable-gpu", "--disable-dev-shm-usage", "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={seen}",
    ]  # fmt: skip
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Browser, "new_context", patient(Browser.new_context))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium, site):
    """A browser profile of its own, whose requests and complaints are written down. What a test alters ends with it."""
    site.between.calls.clear()
    context = chromium.new_context(permissions=["camera"], base_url=site.url, service_workers="block")
    context.ticket = site.ticket
    yield context
    site.between.alter = lambda _name, answer: answer
    context.close()


@pytest.fixture
def page(context, site):
    """The page, ready."""
    return opened(context)
