"""A person comes over to another release in a real browser, with real faces (AT&T Laboratories Cambridge)."""

import asyncio
import dataclasses
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from federation.onebit import parameters_for
from server.matching.workers import MatchWorkers
from server.storage.sqlstorage import open_storage
from tests.bundles import a_bundle, signed
from tests.running import RunningServer, a_pki, a_rules_file, a_service, a_ticket, an_issuer, public_rules
from tests.web.conftest import CHROMIUM, PAGE
from tests.web.hands import (
    ANOTHER,
    ME,
    choose,
    device_name,
    enrol,
    loaded,
    lock,
    opened,
    outcome,
    press,
    screen,
    verify,
)
from tests.web.site import orl_release, picture, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

OLD = orl_release()
NEW = dataclasses.replace(OLD, threshold=OLD.threshold - 2)


class Town:
    """One origin, one database and one log, and whatever release is served there."""

    def __init__(self, directory, storage, workers):
        self._directory, self.storage, self._workers = directory, storage, workers
        self._tls, self._rules, self._port = a_pki(directory / "tls"), a_rules_file(releases=(OLD, NEW)), 0

    @contextmanager
    def serving(self, release, former=()):
        service = a_service(
            release,
            self.storage,
            self._workers,
            public_rules(self._rules),
            self._directory,
            former=[signed(a_bundle(one)) for one in former],
            issuer=an_issuer(a_bundle(release)),
        )
        more = {"former": former, "port": self._port}
        with (
            RunningServer(service, self._tls) as server,
            serving(PAGE, server.target, self._tls, release, self._rules, **more) as served,
        ):
            self._port = urlsplit(served.url).port
            yield served

    def stored(self):
        """Account and release of every template."""
        accounts = {owner.key_id: self.storage.template(owner.key_id) for owner in self.storage.owners()}
        return {(one.account, one.release_digest.hex()) for one in accounts.values() if one is not None}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """In the place of the one that most tests share."""
    if CHROMIUM is None:
        pytest.skip("Chromium is missing (Debian: apt-get install chromium)")
    if not (PAGE / "index.html").is_file():
        pytest.skip("the page is not built: make web")
    workers = MatchWorkers(1, parameters_for(OLD.code_length), timeout_seconds=60)
    asyncio.run(workers.start())
    directory = tmp_path_factory.mktemp("town")
    with open_storage(str(directory / "matching.db")) as storage:
        yield Town(directory, storage, workers)
    workers.close()


def come_over(page, *pictures):
    """Takes the step that the page offers."""
    page.click("[data-screen=behind] .card .main")
    page.check("#agree")
    press(page, "Continue")
    choose(page, *(picture(*one) for one in pictures))
    page.click(".files .main:enabled")
    lock(page)
    return outcome(page)


@pytest.mark.slow
def test_a_person_comes_over_on_the_page_with_the_account_and_somebody_else_does_not(chromium, site):
    with site.serving(OLD) as old:
        context = chromium.new_context(permissions=["camera"], base_url=old.url, service_workers="block")
        context.ticket = lambda: a_ticket(site.storage).reveal()
        page = opened(context)
        assert enrol(page).startswith("You are enrolled")
        before, ((account, release),) = device_name(page), site.stored()
        assert release == OLD.digest
    with site.serving(NEW, former=(OLD,)) as new:
        assert screen(loaded(page)) == "behind"
        assert come_over(page, (ANOTHER, 1), (ANOTHER, 2), (ANOTHER, 3)).startswith("Not accepted")
        assert site.stored() == {(account, OLD.digest)}
        assert screen(loaded(page)) == "behind"
        assert device_name(page) == before
        new.between.alter = lambda name, answer: b"" if name == "SubmitToken" else answer
        assert come_over(page, (ME, 1), (ME, 2), (ME, 3)).startswith("Stopped")  # the last answer was lost
        new.between.alter = lambda _name, answer: answer
        assert site.stored() == {(account, NEW.digest)}
        said = come_over(loaded(page), (ME, 1), (ME, 2), (ME, 3))
        assert "This device has come over already" in said
        assert verify(loaded(page)).startswith("Accepted")
        assert device_name(page) != before
        assert verify(page, ANOTHER).startswith("Not accepted")
        assert page.complaints == []
    context.close()


@pytest.mark.slow
def test_where_the_service_lets_nobody_over_the_page_says_what_to_do(chromium, site):
    with site.serving(OLD) as old:
        context = chromium.new_context(permissions=["camera"], base_url=old.url, service_workers="block")
        context.ticket = lambda: a_ticket(site.storage).reveal()
        page = opened(context)
        enrol(page)
        before = site.stored()
    with site.serving(NEW):
        said = come_over(loaded(page), (ME, 1), (ME, 2), (ME, 3))
        assert "lets nobody come over any more. Withdraw, and enrol again." in said
    with site.serving(NEW, former=(OLD,)):
        assert site.stored() == before
        assert come_over(loaded(page), (ME, 1), (ME, 2), (ME, 3)).startswith("You have come over")
        assert screen(loaded(page)) == "home"
    context.close()
