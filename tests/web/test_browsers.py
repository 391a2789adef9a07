"""The page's main story in Firefox and in WebKit, over pictures from files, against a real matching service.

Neither has passkeys that a program can use here, so their wallets are locked with a passphrase. `test_page.py` is about
Chromium, and about everything else.
"""

import json

import pytest

from client.wallet.backup import Backup
from tests.web.browsers import FIREFOX, WEBKIT, XVFB, Firefox, WebKit
from tests.web.hands import ANOTHER, ME
from tests.web.site import picture

PASSPHRASE, OF_BACKUP = "a long passphrase", "another passphrase"
KEEPING_FILES = """void (globalThis.files = [], URL.createObjectURL = ((make) => (file) => {
    globalThis.files.push(file); return make.call(URL, file) })(URL.createObjectURL))"""
SAVED = "globalThis.files.at(-1).arrayBuffer().then((bytes) => [...new Uint8Array(bytes)])"

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

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
def page(request, site, tmp_path):
    """The page in a browser with an empty profile."""
    profile = tmp_path / "profile"
    profile.mkdir()
    with request.param.started(profile) as browser:
        yield Page(browser, site, tmp_path)


class Page:
    """The page as somebody uses it: by what it shows, in whichever browser."""

    def __init__(self, browser, site, folder):
        self.browser = browser
        self._site = site
        self._folder = folder

    def open(self):
        """Loads the page, and waits until it says something else than that it loads."""
        self.browser.goto(self._site.url)
        self.wait("!['loading', undefined].includes(document.body.dataset.screen)")
        assert self.screen() in {"welcome", "home"}, self.text(".card")

    def wait(self, condition):
        self.browser.evaluate(
            "new Promise((done, fail) => { const ends = Date.now() + 80000;"
            f" const look = () => ({condition}) ? done(true) : Date.now() > ends ? fail(new Error('too long: '"
            " + document.querySelector('.card')?.textContent)) : setTimeout(look, 50); look() })"
        )

    def screen(self):
        return self.browser.evaluate("document.body.dataset.screen")

    def text(self, selector):
        return self.browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")

    def click(self, selector):
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"{found} !== null && {found}.disabled !== true")
        self.browser.evaluate(f"{found}.click()")

    def press(self, name):
        """Presses the button of the screen with that name, if there is one."""
        named = f"(one) => one.textContent === {json.dumps(name)}"
        self.browser.evaluate(f"[...document.querySelectorAll('.card button')].find({named})?.click()")

    def type(self, selector, text):
        found = f"document.querySelector({json.dumps(selector)})"
        self.browser.evaluate(f"void ({found}.value = {json.dumps(text)})")
        self.browser.evaluate(f"{found}.dispatchEvent(new Event('input', {{ bubbles: true }}))")
        self.browser.evaluate(f"{found}.dispatchEvent(new Event('change', {{ bubbles: true }}))")

    def choose(self, *pictures):
        """Brings files instead of a look into the camera, and goes on with them."""
        self.wait("[...document.querySelectorAll('.card button')].length > 0")
        self.press("Use picture files instead")
        self.wait("document.getElementById('files') !== null")
        self.browser.choose("#files", [self._file(one) for one in pictures])
        self.wait(f"document.querySelectorAll('.pictures li').length === {len(pictures)}")
        self.click(".files .main")

    def _file(self, one):
        path = self._folder / "face-{}-{}.png".format(*one)
        path.write_bytes(picture(*one)["buffer"])
        return path

    def unlock(self, passphrase=PASSPHRASE):
        self.wait("document.getElementById('passphrase') !== null")
        self.type("#passphrase", passphrase)
        if self.browser.evaluate("document.getElementById('passphrase-again') !== null"):
            self.type("#passphrase-again", passphrase)
        self.click("#passphrase-button")

    def outcome(self):
        self.wait("document.body.dataset.screen !== 'working' && !document.getElementById('keeping').open")
        return self.text(".card")

    def start(self):
        for name in ("Done", "Back", "Cancel"):
            self.press(name)

    def agree(self):
        if self.browser.evaluate("document.getElementById('ticket') !== null"):
            self.type("#ticket", self._site.ticket())
        self.click("#agree")
        self.press("Continue")

    def enrol(self, *pictures):
        self.start()
        self.click("[data-screen=welcome] .main")
        self.agree()
        self.choose(*pictures)
        self.unlock()
        return self.outcome()

    def verify(self, one, passphrase=PASSPHRASE):
        self.start()
        self.click("[data-screen=home] .main")
        self.choose(one)
        self.unlock(passphrase)
        return self.outcome()

    def wish(self, name, fold="#yours"):
        """Asks for something that is the person's own."""
        self.start()
        self.browser.evaluate(f"void (document.querySelector('{fold}').open = true)")
        self.click(f"#{name}-button")

    def confirm(self, name):
        self.wish(name)
        self.click("#confirm button[value=yes]")
        self.unlock()
        return self.outcome()


def test_the_main_story_is_the_same_in_every_browser(page, tmp_path):
    page.open()
    assert "You are enrolled" in page.enrol((ME, 1), (ME, 2), (ME, 3))
    assert "Accepted" in page.verify((ME, 6))
    assert "Not accepted" in page.verify((ANOTHER, 6))
    name = page.text("#device")

    page.open()  # what it knows is on disk
    assert page.text("#device") == name
    assert "The passphrase is another one" in page.verify((ME, 7), "a wrong passphrase")
    assert "Accepted" in page.verify((ME, 7))

    page.wish("renew")
    page.agree()
    page.choose((ME, 8))
    page.unlock()
    assert "Your consent is renewed" in page.outcome()
    page.wish("export")
    page.unlock()
    page.wait("document.getElementById('held') !== null")
    assert "2 signed consents" in page.text("#held")
    page.wish("history")
    page.unlock()
    page.wait("document.getElementById('found') !== null")
    events = page.browser.evaluate("[...document.querySelectorAll('#found li')].map((one) => one.textContent)")
    assert [line.split()[2].strip(",") for line in events] == ["enrolment", *4 * ["attempt"], "renewal"]
    page.wish("devices")
    page.unlock()
    page.wait("document.getElementById('devices') !== null")
    assert f"(this device){name}, since" in page.text("#devices")

    page.browser.evaluate(KEEPING_FILES)
    page.wish("backup")
    page.unlock(OF_BACKUP)
    page.unlock()
    page.wait("document.getElementById('backup') !== null")
    kept = tmp_path / "a.backup"
    kept.write_bytes(bytes(page.browser.evaluate(SAVED)))
    assert Backup.read(kept, OF_BACKUP).revocation.key_id.hex()[:16] == name
    assert "withdrew" in page.confirm("revoke") or page.screen() == "revoked"
    assert "Erased" in page.confirm("erase") or page.screen() == "erased"
    page.wish("forget", "#others")
    page.click("#confirm button[value=yes]")
    assert "The keys are deleted" in page.outcome()
    page.browser.evaluate("void (document.querySelector('#others').open = true)")
    page.browser.choose("#backup-file", [kept])
    page.unlock(OF_BACKUP)
    assert "not" in page.outcome().lower()  # erased: nobody may ask about it any more
