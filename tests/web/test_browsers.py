"""The page's main story in Firefox and in WebKit, over pictures from files, against a real matching service.

Neither has passkeys that a program can use here, so their wallets are locked with a passphrase. `test_page.py` is about
Chromium, and about everything else.
"""

import re

import pytest

from client.wallet.backup import Backup
from tests.running import a_rules_file
from tests.web.browsers import FIREFOX, WEBKIT, XVFB, Firefox, WebKit
from tests.web.site import PAGE, a_site, orl_release, picture

ME, ANOTHER = 2, 5
KEEPING_FILES = """void (globalThis.files = [], URL.createObjectURL = ((make) => (file) => {
    globalThis.files.push(file); return make.call(URL, file) })(URL.createObjectURL))"""
SAVED = "globalThis.files.at(-1).arrayBuffer().then((bytes) => [...new Uint8Array(bytes)])"
PASSPHRASE, OF_BACKUP = "a long passphrase", "another passphrase"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (PAGE / "index.html").is_file(), reason="the page is not built: make web"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    release = orl_release()
    with a_site(tmp_path_factory.mktemp("site"), release, a_rules_file(releases=(release,))) as served:
        yield served


BROWSERS = [
    pytest.param(
        Firefox,
        id="firefox",
        marks=pytest.mark.skipif(FIREFOX is None, reason="Firefox is missing (Debian: apt-get install firefox-esr)"),
    ),
    pytest.param(
        WebKit,
        id="webkit",
        marks=pytest.mark.skipif(
            WEBKIT is None or XVFB is None, reason="WebKit is missing (Debian: apt-get install webkit2gtk-driver xvfb)"
        ),
    ),
]


@pytest.fixture(params=BROWSERS)
def page(request, tmp_path):
    """A browser with an empty profile."""
    profile = tmp_path / "profile"
    profile.mkdir()
    with request.param.started(profile) as browser:
        yield Page(browser, tmp_path)


class Page:
    """The page as somebody uses it: by what it shows, in whichever browser."""

    def __init__(self, browser, folder):
        self.browser = browser
        self._folder = folder

    def open(self, url):
        self.browser.goto(url)
        self.wait("document.body.dataset.busy === 'false'")
        assert self.text("#alert") == ""
        assert self.text("#result") == "Ready."
        return self

    def wait(self, condition):
        self.browser.evaluate(
            "new Promise((done, fail) => { const ends = Date.now() + 80000;"
            f" const look = () => ({condition}) ? done(true) : Date.now() > ends ? fail(new Error('too long: '"
            " + document.getElementById('result').textContent + document.getElementById('alert').textContent))"
            " : setTimeout(look, 50); look() })"
        )

    def text(self, selector):
        return self.browser.evaluate(f"document.querySelector({selector!r}).textContent")

    def click(self, selector):
        self.wait(f"document.querySelector({selector!r})?.disabled === false")
        self.browser.evaluate(f"document.querySelector({selector!r}).click()")

    def choose(self, selector, *pictures):
        """Puts pictures, or paths, into an input, and waits until they have been looked at."""
        paths = [one if not isinstance(one, tuple) else self._file(one) for one in pictures]
        self.browser.choose(selector, paths)

    def _file(self, one):
        path = self._folder / "face-{}-{}.png".format(*one)
        path.write_bytes(picture(*one)["buffer"])
        return path

    def unlock(self, passphrase=PASSPHRASE, *, new=False):
        self.wait("document.getElementById('keeping').open")
        for place in ("passphrase", "passphrase-again") if new else ("passphrase",):
            self.browser.evaluate(f"void (document.getElementById({place!r}).value = {passphrase!r})")
        self.browser.evaluate("document.getElementById('passphrase').dispatchEvent(new Event('input'))")
        self.click("#passphrase-button")

    def outcome(self):
        self.wait("document.body.dataset.busy === 'false'")
        return self.text("#result") + self.text("#alert")

    def enrol(self, *pictures):
        self.choose("#faces-file", *pictures)
        self.wait(f"document.querySelectorAll('#faces li').length === {len(pictures)}")
        self.click("#agree")
        self.click("#enrol-button")
        self.unlock(new=True)
        return self.outcome()

    def verify(self, one):
        self.choose("#probe-file", one)
        self.click("#verify-button")
        self.unlock()
        return self.outcome()

    def do(self, name):
        self.click(f"#{name}-button")
        self.unlock()
        return self.outcome()

    def confirm(self, name):
        self.click(f"#{name}-button")
        self.click("#confirm button[value=yes]")
        self.unlock()
        return self.outcome()


def test_the_main_story_is_the_same_in_every_browser(page, site, tmp_path):
    page.open(site.url)
    assert page.enrol((ME, 1), (ME, 2), (ME, 3)).startswith("Enrolled."), page.outcome()
    assert page.verify((ME, 6)).startswith("Accepted.")
    assert page.verify((ANOTHER, 6)).startswith("Not accepted.")
    name = re.search(r"Name of this device: (\w+)", page.text("#state")).group(1)

    page.open(site.url)  # what it knows is on disk
    assert name in page.text("#state")
    assert page.verify((ME, 7)).startswith("Accepted.")
    page.choose("#probe-file", (ME, 8))
    page.click("#verify-button")
    page.unlock("a wrong passphrase")
    assert "wrong passphrase" in page.outcome()
    page.click("#renew-button")  # the picture is still there
    page.unlock()
    assert page.outcome().startswith("Your consent is renewed.")
    page.do("export")
    assert "2 signed consents" in page.text("#result")
    page.do("history")
    events = page.browser.evaluate("[...document.querySelectorAll('#found li')].map((one) => one.textContent)")
    assert [line.split()[2] for line in events] == ["enrolment", *3 * ["attempt"], "attempt", "renewal"]

    page.browser.evaluate(KEEPING_FILES)
    page.click("#backup-button")
    page.unlock(OF_BACKUP, new=True)
    page.unlock()
    assert page.outcome().startswith("Here is the backup.")
    kept = tmp_path / "a.backup"
    kept.write_bytes(bytes(page.browser.evaluate(SAVED)))
    assert Backup.read(kept, OF_BACKUP).revocation.audience == "example.org"
    page.browser.evaluate("void (document.querySelector('details:has(#backup-file)').open = true)")
    page.choose("#backup-file", kept)
    page.unlock(OF_BACKUP)
    assert page.outcome() == f"Revoked: the log says that the server deleted the template of device {name}."
    assert page.verify((ME, 6)).startswith("Refused")
    assert page.confirm("erase").startswith("Erased")
    assert page.text("#state").startswith("Revoked")
