"""The person's page in a real browser, with real faces (AT&T Laboratories Cambridge) and a real matching service."""

import dataclasses
import gzip
import hashlib
import io
import json
import re
import time
import urllib.request

import jwt
import pytest
from PIL import Image

from client.wallet.backup import Backup
from examples import publishing
from federation.consent.purposes import DAY_SECONDS
from federation.release.manifest import Role, Use
from federation.rules.entries import Moratorium
from federation.transparency import KeyKind, NoteSigner
from tests.agreeing import public
from tests.bundles import MAKER, a_bundle, a_report, signed, wolves
from tests.running import ISSUER_KEY
from tests.running import signed as signed_rule
from tests.web.conftest import PAGE
from tests.web.hands import (
    ANOTHER,
    ME,
    agree,
    choice,
    choose,
    device_name,
    enrol,
    loaded,
    lock,
    opened,
    outcome,
    press,
    screen,
    to_start,
    verify,
)
from tests.web.site import nobody, picture, with_other_reply

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_the_owner_is_accepted_and_another_is_not_and_nothing_goes_anywhere_else(page, site):
    assert enrol(page).startswith("You are enrolled")
    assert verify(page).startswith("Accepted")
    assert verify(page, ANOTHER).startswith("Not accepted")
    assert page.complaints == []
    assert {re.match(r"(blob:)?https?://[^/]+", url).group() for url in page.requested} <= {
        site.url,
        f"blob:{site.url}",
    }
    assert (
        sum("/intaglio/" in url for url in page.requested) == len(site.between.calls) == 10
    )  # the first: is it there?


def test_an_organisation_that_gave_a_nonce_gets_an_assertion_for_an_acceptance_only(page, context):
    enrol(page)
    asked = loaded(page, f"/?nonce={'ab' * 32}")
    assert verify(asked, ANOTHER).startswith("Not accepted")
    assert asked.locator(".card a.main").count() == 0
    assert verify(asked).startswith("Accepted")
    with asked.expect_download() as saved:
        asked.click(".card a.main")
    assert asked.text_content("#saved").startswith("Your browser has it now: look for assertion.jwt")
    token = saved.value.path().read_text().strip()
    claims = jwt.decode(token, ISSUER_KEY.public_key(), algorithms=["EdDSA"], audience="example.org")
    assert claims["nonce"] == "ab" * 32


def test_a_link_s_ticket_is_taken_and_no_more_in_the_address_and_serves_once(context, site):
    ticket = site.ticket()
    page = opened(context, f"/#ticket={ticket}")
    assert page.url == f"{site.url}/"
    page.click("[data-screen=welcome] .card .main")
    assert page.locator("#ticket").count() == 0
    press(page, "Back")
    assert enrol(page).startswith("You are enrolled")
    page.close()
    with context.browser.new_context(base_url=site.url) as another:
        other = opened(another)
        other.ticket = lambda: ticket.upper().replace("-", " ")
        said = enrol(other, (ANOTHER, 1), (ANOTHER, 2), (ANOTHER, 3))
        assert "The ticket may have been used already" in said
        assert "this ticket is not valid here" in said
        assert screen(other) == "failed"
        press(other, "Back")
        other.click("[data-screen=welcome] .card .main")
        assert other.input_value("#ticket") == ""  # the bad one is forgotten, and another one can be typed
        press(other, "Back")
        other.evaluate("ticket => { location.hash = `#ticket=${ticket}` }", site.ticket())
        other.wait_for_function("location.hash === ''")
        other.click("[data-screen=welcome] .card .main")
        assert other.locator("#ticket").count() == 0  # the link of another one was taken, in the same tab


def test_the_page_says_which_page_it_is_and_that_the_log_has_it_and_notices_a_file_that_is_another(page, context, site):
    def asked(page):
        page.locator("#technical").evaluate("fold => { fold.open = true }")
        page.click("#self-button")
        page.wait_for_selector("#self-hash")
        return page.text_content("#self-hash"), page.text_content("#self-log"), page.text_content("#self")

    listed = (PAGE / publishing.PAGE_LIST).read_bytes()
    mine, log, said = asked(page)
    assert mine == hashlib.sha256(listed).hexdigest()
    assert log.startswith("has this hash: entry ")
    assert f"{listed.count(b'  ')} files, all as the list of its build has them" in said
    assert (hashlib.sha256(public(MAKER)).hexdigest() in said, "ab" * 20 in said) == (True, True)
    assert publishing.require_served(listed.decode(), lambda path: read(site.url + path)) == listed.count(b"  ")
    context.route("**/icon.svg", lambda route: route.fulfill(body="<svg/>"))
    other, log, said = asked(loaded(page))
    assert other != mine
    assert log.startswith("has another hash")
    assert "not as the list of its build has them: icon.svg" in said
    assert page.complaints == []


def read(address):
    with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - of the test's own site
        return answer.read()


@pytest.mark.slow
def test_two_pictures_of_different_people_enrol_nobody(page):
    assert enrol(page, (ME, 1), (ANOTHER, 1)).startswith("Not enrolled")
    to_start(page)
    assert screen(page) == "welcome"


@pytest.mark.slow
def test_everything_that_was_sent_is_shown_and_no_face_is_in_it(page):
    enrol(page)
    page.click("#technical > summary")
    calls = page.locator("#messages details summary").all_text_contents()
    named = [re.search(r"\((\w+)\)", call).group(1) for call in calls]
    assert named == ["GetCheckpoint", "StartEnrolment", "SubmitProbe", "SubmitToken"]
    page.click("#messages details:nth-child(2) summary")
    shown = page.text_content("#messages details:nth-child(2) pre")
    assert "door-access" in shown
    assert "example.org" in shown


@pytest.mark.slow
def test_an_enrolment_that_was_cut_off_is_made_again_after_a_reload(page, context, site):
    site.between.alter = lambda name, answer: b"" if name == "SubmitProbe" else answer
    assert enrol(page).startswith("Stopped: a proof is missing or wrong")
    site.between.alter = lambda _name, answer: answer
    again = loaded(page)
    assert "did not finish" in outcome(again)
    assert enrol(again).startswith("You are enrolled")
    assert verify(again).startswith("Accepted")


@pytest.mark.slow
def test_after_a_reload_the_owner_is_still_enrolled(page, context):
    enrol(page)
    name = device_name(page)
    again = loaded(page)
    assert device_name(again) == name
    assert verify(again).startswith("Accepted")


@pytest.mark.slow
def test_a_browser_without_the_keys_is_not_enrolled(page, chromium, site):
    enrol(page)
    with chromium.new_context(base_url=site.url) as stranger:
        other = opened(stranger)
        assert screen(other) == "welcome"
        assert other.locator("#yours").count() == 0


@pytest.mark.slow
def test_a_revoked_template_verifies_nobody_and_enrolling_again_makes_another_device(page):
    enrol(page)
    before = device_name(page)
    choice(page, "revoke")
    page.click("#confirm button[value=yes]")
    page.wait_for_selector("[data-screen=revoked] .card")
    assert "the public log proves it" in outcome(page)
    assert page.locator("#code-button, #erase-button, #history-button").count() == 3  # by another device, too
    assert enrol(page).startswith("You are enrolled")
    assert device_name(page) != before


@pytest.mark.slow
def test_a_revocation_asks_first(page):
    enrol(page)
    choice(page, "revoke")
    page.keyboard.press("Escape")
    assert verify(page).startswith("Accepted")


def renew(page, person=ME, number=6):
    choice(page, "renew")
    page.check("#agree")
    press(page, "Continue")
    choose(page, picture(person, number))
    page.click(".files .main:enabled")
    return outcome(page)


def test_the_consent_is_renewed_with_the_face_and_both_are_held(page):
    enrol(page)
    assert "so your former consent counts" in renew(page, ANOTHER)
    choice(page, "export")
    assert "1 signed consent," in page.text_content("#held")
    assert renew(page).startswith("Your consent is renewed")
    choice(page, "export")
    assert "2 signed consents" in page.text_content("#held")
    record = json.loads(page.text_content("#raw").partition("\n")[0])
    assert record["template"]["bytes"] == 8 + 32 + 128
    assert re.fullmatch("[0-9a-f]{64}", record["template"]["digest"])
    assert verify(page).startswith("Accepted")


OLD_WALLET = """async () => {
  const database = await new Promise((resolve) => {
    const request = indexedDB.open('intaglio', 1)
    request.onupgradeneeded = () => request.result.createObjectStore('wallet')
    request.onsuccess = () => resolve(request.result)
  })
  await new Promise((resolve) => {
    const transaction = database.transaction('wallet', 'readwrite')
    transaction.objectStore('wallet').put({ version: 2, sealed: new Uint8Array(10) }, 'device')
    transaction.oncomplete = resolve
  })
  database.close()
}"""


def test_a_browser_with_an_old_wallet_is_told_to_enrol_again_and_can(page, context):
    page.evaluate(OLD_WALLET)
    again = loaded(page)
    assert "Please enrol again." in outcome(again)
    assert again.locator("#yours").count() == 0
    assert enrol(again).startswith("You are enrolled")
    assert verify(again).startswith("Accepted")


def test_the_history_is_what_the_log_proves(page):
    entry = re.search(r"Entry \d+", enrol(page)).group()
    verify(page, ANOTHER)
    choice(page, "history")
    page.wait_for_selector("#found li")
    lines = page.locator("#found li").all_text_contents()
    assert all("Proved to be in the log" in line for line in lines)
    assert sum("attempt (compared)" in line for line in lines) == 1  # of an enrolment only the device knows
    assert [line.partition(", ")[0] for line in lines if "enrolment" in line] == [f"{entry}: enrolment"]


@pytest.mark.slow
def test_erasure_leaves_a_tombstone_and_nothing_else(page):
    enrol(page)
    choice(page, "erase")
    page.click("#confirm button[value=yes]")
    page.wait_for_selector("[data-screen=erased] .card")
    assert re.search(r"The log keeps a tombstone, entry [\d,]+", outcome(page))
    page = loaded(page)
    assert "Everything about you was erased." in outcome(page)
    assert page.locator("#erase-button").count() == 0  # there is nothing left
    assert page.locator("#code-button, #backup-file, #forget-button").count() == 3


def test_offline_says_so_and_afterwards_everything_works_again(page, context):
    enrol(page)
    context.set_offline(True)
    assert verify(page).startswith("Not available now\nThe service does not answer.")
    context.set_offline(False)
    assert verify(page).startswith("Accepted")


def naming_another_log(route):
    """The deployment, with the key of another log."""
    another = NoteSigner("example.org/log", KeyKind.NOTE, bytes(32)).key.to_text()
    told = route.fetch().json()
    route.fulfill(json=told | {"log": told["log"] | {"key": another}})


LIES = {
    "an inclusion proof of another entry": lambda m: m.log.CopyFrom(
        type(m.log)(logged=re.sub(rb"index \d+", b"index 0", m.log.logged), opening=m.log.opening)
    ),
    "no proof at all": lambda m: m.ClearField("log"),
    "an altered signature of the log": lambda m: setattr(
        m.log, "logged", m.log.logged[:-20] + bytes([m.log.logged[-20] ^ 1]) + m.log.logged[-19:]
    ),
    "another opening": lambda m: setattr(m.log, "opening", m.log.opening.replace(b'"salt":"', b'"salt":"0')),
}


@pytest.mark.parametrize(
    "lie", [pytest.param(lie, marks=pytest.mark.slow) if "no proof" not in lie else lie for lie in LIES]
)
def test_a_server_that_cannot_prove_the_log_learns_nothing(page, site, lie):
    from federation.wire.v1 import verification_pb2 as pb  # noqa: PLC0415 - the only test that builds messages

    enrol(page)

    def alter(name, answer):
        if name != "SubmitProbe":
            return answer
        message = pb.SubmitProbeResponse.FromString(answer)
        LIES[lie](message)
        return message.SerializeToString()

    site.between.alter = alter
    said = verify(page)
    assert said.startswith(("Stopped: a proof is missing", "Stopped: the service broke")), said
    assert site.between.calls[-1] == "SubmitProbe"  # no token left the page, not even "no match"


@pytest.mark.slow
def test_a_log_that_is_signed_with_another_key_than_the_one_named_enrols_nobody(context, site):
    site.between.alter = lambda _name, answer: answer
    context.route("**/deployment.json", naming_another_log)
    page = opened(context)
    assert enrol(page).startswith("Stopped: a proof is missing or wrong")
    assert site.between.calls[-1] == "SubmitProbe"
    page.reload()
    page.wait_for_selector("[data-screen=welcome]")
    assert "did not finish" in outcome(page)


@pytest.mark.slow
def test_a_device_goes_on_believing_the_log_key_that_it_enrolled_with(page, context):
    enrol(page)
    context.route("**/deployment.json", naming_another_log)
    assert verify(loaded(page)).startswith("Accepted")


MANIFESTS = {
    "worth too much without a face": lambda release: signed(
        a_bundle(release, report=a_report(release, wolf=wolves(2400, 0.9)))
    ).signed.to_bytes(),
    "expired": lambda release: signed(
        a_bundle(release, begins_at=int(time.time()) - 200 * DAY_SECONDS)
    ).signed.to_bytes(),
    "signed by its maker only": lambda release: a_bundle(release).signed_by(Role.MAKER, MAKER).signed.to_bytes(),
    "changed in one byte": lambda release: (
        signed(a_bundle(release)).signed.to_bytes().replace(b'"fmr":"0.001"', b'"fmr":"0.002"')
    ),
}


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.slow) if "byte" not in name else name for name in MANIFESTS]
)
def test_with_a_release_whose_manifest_does_not_hold_nothing_is_encrypted(page, context, site, release, fault):
    enrol(page)
    body = MANIFESTS[fault](release)
    context.route("**/manifest.json", lambda route: route.fulfill(body=body))
    sent = len(site.between.calls)
    said = verify(loaded(page))
    assert said.startswith(("Stopped: a proof is missing", "Not allowed")), said
    assert site.between.calls[sent:] == ["GetCheckpoint"]


@pytest.mark.parametrize(
    ("rates", "worth"),
    [(wolves(60, 0.9), "2 % (1 to 90) by the domain\u2019s mean, 0.3 % (0.1 to 2)"), (None, "at: not measured.")],
    ids=["measured", "not measured"],
)
def test_the_first_line_of_a_trial_is_what_a_stolen_wallet_is_worth(context, release, rates, worth):
    trial = signed(a_bundle(release, use=Use.TRIAL, report=a_report(release, wolf=rates)))
    context.route("**/manifest.json", lambda route: route.fulfill(body=trial.signed.to_bytes()))
    context.route("**/deployment.json", accepting_trials)
    shown = opened(context).text_content(".card")
    assert shown.startswith("On trial: not yet checked for general useThis is being tried out, and may be wrong")
    assert "The figuresPASS on 50 people, where 0.1 %" in shown
    assert worth in shown


def accepting_trials(route):
    """The deployment, for people who try a release that no audit has passed."""
    told = route.fetch().json()
    route.fulfill(json=told | {"release_trust": told["release_trust"] | {"accepts_trials": True}})


def test_a_moratorium_stops_the_page_and_a_rules_file_without_it_does_not_come_back(page, context, site, rules):
    enrol(page)
    sent = len(site.between.calls)
    stop = Moratorium("pause", int(time.time()) - 5, (), (), (), "its errors were found to be unfair")
    stopped = rules + b"\n" + signed_rule(stop)
    context.route("**/rules.jsonl", lambda route: route.fulfill(body=stopped))
    assert "The public rules have stopped this: moratorium \u201cpause\u201d" in verify(page)
    context.unroute("**/rules.jsonl")
    assert "lost an entry" in verify(page)
    assert len(site.between.calls) == sent


def test_a_moratorium_that_begins_during_a_session_keeps_the_reply_shut(page, context, site, rules):
    enrol(page)
    now = int(time.time())
    stop = Moratorium("pause", now + 3, (), (), (), "its errors were found to be unfair")
    context.route("**/rules.jsonl", lambda route: route.fulfill(body=rules + b"\n" + signed_rule(stop)))

    def alter(name, answer):
        while name == "SubmitProbe" and time.time() < now + 4:
            time.sleep(0.05)  # the session itself is held open; no answer comes before
        return answer

    site.between.alter = alter
    assert "stopped by the moratorium pause" in verify(page)
    assert "SubmitToken" not in site.between.calls[4:]


def test_a_release_for_another_recogniser_profile_is_refused(context, release):
    other = dataclasses.replace(release, model_digest="ab" * 32)
    context.route("**/release.json", lambda route: route.fulfill(body=other.to_bytes()))
    page = opened(context)
    assert outcome(page).startswith("This page cannot go on\nWhat this service offers is for another recogniser")
    assert page.locator(".card button").all_text_contents() == ["Try again"]


@pytest.mark.slow
def test_a_deployment_that_nobody_registered_enrols_nobody(context, site):
    context.route("**/deployment.json", lambda r: r.fulfill(json=r.fetch().json() | {"deployment": "elsewhere"}))
    site.between.calls.clear()
    assert "no deployment elsewhere stands in the public registry" in enrol(opened(context))
    assert site.between.calls == ["GetCheckpoint"]


def test_a_reply_that_was_changed_on_its_way_is_not_opened(page, site):
    enrol(page)
    site.between.alter = lambda name, answer: (
        with_other_reply(answer, lambda reply: reply[:-16] + bytes(16)) if name == "SubmitProbe" else answer
    )
    assert verify(page).startswith("Stopped: a proof is missing or wrong")
    assert site.between.calls[-1] == "SubmitProbe"  # no token left the page, not even "no match"
    site.between.alter = lambda _name, answer: answer
    assert verify(page).startswith("Accepted")


@pytest.mark.slow
def test_a_server_with_another_release_gets_no_signature(page, site):
    from federation.wire.v1 import verification_pb2 as pb  # noqa: PLC0415

    enrol(page)

    def alter(name, answer):
        if name != "StartVerification":
            return answer
        message = pb.StartVerificationResponse.FromString(answer)
        message.session.release_digest = bytes(32)
        return message.SerializeToString()

    site.between.alter = alter
    assert "another model release" in verify(page)
    assert site.between.calls[-1] == "StartVerification"


@pytest.mark.slow
def test_a_picture_without_a_face_is_refused_and_nothing_is_sent(page, site):
    assert enrol(page).startswith("You are enrolled")
    sent = len(site.between.calls)
    to_start(page)
    page.click("[data-screen=home] .card .main")
    choose(page, nobody())
    page.click(".files .main:enabled")
    page.wait_for_selector(".problem[role=alert]:not(:empty)")
    assert "Picture 1: There is no face to be seen." in outcome(page)
    page.click(".files .remove")
    page.set_input_files("#files", {"name": "face.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector(".files .problem:not(:empty)")
    assert "Not a JPEG, PNG, WebP, GIF or BMP image: convert it" in page.text_content(".files .problem")
    assert page.is_disabled(".files .main")
    assert len(site.between.calls) == sent


def test_one_of_somebody_else_among_the_pictures_is_named_and_can_be_taken_out(page, site):
    site.between.calls.clear()
    said = enrol(page, (ME, 1), (ANOTHER, 1), (ME, 2), (ME, 3))
    assert "Picture 2 is of somebody else than the others" in said
    assert site.between.calls == []
    page.click(".files li:nth-child(2) .remove")
    assert page.locator(".files li span").all_text_contents() == ["1", "2", "checks the others"]
    page.click(".files .main:enabled")
    lock(page)
    assert outcome(page).startswith("You are enrolled")
    assert page.locator("img").count() == 0  # no picture is kept


def test_the_same_picture_twice_is_not_two_and_that_is_said_before_anything_else_is_asked(page, site):
    site.between.calls.clear()
    agree(page)
    choose(page, picture(ME, 1), picture(ME, 1))
    page.wait_for_selector(".files .problem:not(:empty)")
    assert page.text_content(".files .problem") == "That picture is there already, as number 1. Choose another one."
    assert page.locator(".files li").count() == 1
    assert page.is_disabled(".files .main")
    assert site.between.calls == []


def test_fewer_pictures_than_the_threshold_is_set_for_are_allowed_and_more_are_not_taken(page):
    agree(page)
    choose(page, *(picture(ME, number) for number in range(1, 7)))
    assert "2 to 4 different pictures" in outcome(page)
    page.wait_for_selector(".files li:nth-child(4)")
    assert page.text_content(".files .problem") == "Only the first 4 pictures were taken."
    assert page.text_content(".files .small") == ""
    page.click(".files li:nth-child(4) .remove")
    page.click(".files li:nth-child(3) .remove")
    assert "2 of 4 pictures." in page.text_content(".files .small")
    page.click(".files .main:enabled")
    lock(page)
    assert outcome(page).startswith("You are enrolled")
    assert verify(page, numbers=(6, 8)).startswith("Accepted")


def test_what_the_rate_of_strangers_rests_on_is_said(page):
    assert (
        "How often somebody else is accepted0.1 % is aimed at, for pictures under the condition “clean”; it lies "
        "between "
        "0.05 and 0.2 % with a probability of 90 %, as public sets of faces say, checked privately on 24 people"
    ) in page.text_content("#technical")
    assert "PASS on 50 people, where 0.1 % false acceptances and 10 % false refusals were allowed in each group" in (
        page.text_content("#technical")
    )


def test_what_an_attacker_learns_of_those_who_trained_is_said_in_the_words_and_numbers_of_the_command(page, release):
    said = page.text_content("#technical")
    assert f"What it gives away of those who trained it{release.privacy.attacks.text}" in said
    assert f"Training alone is epsilon {release.privacy.epsilon:g} at delta 0.00001." in said


def test_opening_the_page_transfers_less_than_6_mb():
    assert sum(len(gzip.compress(file.read_bytes())) for file in PAGE.rglob("*") if file.is_file()) < 6_000_000


@pytest.mark.slow
def test_a_passkey_that_is_gone_opens_nothing_and_the_page_says_what_to_do(page, site):
    enrol(page)
    devtools, authenticator = page.passkeys
    devtools.send("WebAuthn.clearCredentials", {"authenticatorId": authenticator})
    sent = len(site.between.calls)
    said = verify(page)
    assert "If it is gone for good, nobody can bring it back" in said
    assert "delete the keys in this browser, and enrol again" in said
    assert len(site.between.calls) == sent
    choice(page, "forget")
    page.click("#confirm button[value=yes]")
    page.wait_for_selector("[data-screen=forgotten] .card")
    assert enrol(page).startswith("You are enrolled")
    assert verify(page).startswith("Accepted")


def test_a_passkey_whose_owner_is_not_verified_opens_nothing(page, site):
    enrol(page)
    devtools, authenticator = page.passkeys
    devtools.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": False})
    sent = len(site.between.calls)
    assert "The passkey did not open your keys" in verify(page)
    assert len(site.between.calls) == sent


def test_keys_under_a_passphrase_open_with_it_and_with_no_other(context, site):
    site.between.alter = lambda _name, answer: answer
    page = opened(context)
    agree(page)
    choose(page, *(picture(ME, number) for number in (1, 2, 3)))
    page.click(".files .main:enabled")
    lock(page, "correct horse")
    assert outcome(page).startswith("You are enrolled")
    page = loaded(page)
    sent = len(site.between.calls)
    for passphrase, said in [("correct house", "The passphrase is another one"), ("correct horse", "Accepted")]:
        to_start(page)
        page.click("[data-screen=home] .card .main")
        choose(page, picture(ME, 6))
        page.click(".files .main:enabled")
        assert page.locator("#passkey-button").count() == 0
        lock(page, passphrase)
        assert said in outcome(page)
        assert (len(site.between.calls) > sent) == (said == "Accepted")


def test_nobody_who_does_not_lock_them_makes_keys(page, site):
    agree(page)
    choose(page, *(picture(ME, number) for number in (1, 2, 3)))
    assert page.text_content(".steps").endswith("KeysDone")  # it is announced, and comes as a step
    page.click(".files .main:enabled")
    page.wait_for_selector("[data-screen=lock] .card")
    assert page.text_content(".steps [aria-current]") == "Keys"
    sent = len(site.between.calls)
    press(page, "Cancel")
    assert "your keys stayed locked" in outcome(page)
    assert len(site.between.calls) == sent
    assert page.evaluate("indexedDB.databases().then((all) => all.length)") in {0, 1}
    assert loaded(page).locator("#device").count() == 0


@pytest.mark.slow
def test_a_lost_phone_costs_no_visit(page, chromium, site):
    enrol(page)
    phone = device_name(page)
    with chromium.new_context(base_url=site.url, service_workers="block") as another:
        laptop = opened(another)
        laptop.locator("#others").evaluate("fold => { fold.open = true }")
        laptop.click("#code-button")
        lock(laptop)
        laptop.wait_for_selector("#code-shown")
        code = laptop.text_content("#code-shown")
        choice(page, "devices")
        page.wait_for_selector("#code")
        page.fill("#code", code.upper().replace("-", " "))
        page.fill("#code-name", "My laptop")
        page.click("#admit-button")
        assert outcome(page).startswith("Let the other device in\nIf your face matches, the other device may enrol")
        choose(page, picture(ME, 6))
        page.click(".files .main:enabled")
        assert outcome(page).startswith("The other device may enrol")
        press(laptop, "The other device has let me in")
        assert laptop.locator("#ticket").count() == 0
        laptop.check("#agree")
        press(laptop, "Continue")
        choose(laptop, *(picture(ME, number) for number in (1, 2, 3)))
        laptop.click(".files .main:enabled")
        assert outcome(laptop).startswith("You are enrolled")
        assert verify(laptop).startswith("Accepted")
        choice(page, "devices")
        page.wait_for_selector("#devices")
        assert page.locator("#devices li > strong").all_text_contents() == [
            "Chrome on Linux (this device)",
            "My laptop",
        ]
        page.click("#devices li:first-child summary")
        page.fill("#devices li:first-child input", "  My phone ")
        page.click("#devices li:first-child form button")
        page.wait_for_selector("#devices strong:text-is('My phone (this device)')")
        assert "let in by My phone" in page.text_content("#devices li:nth-child(2) > span")
        choice(laptop, "devices")
        laptop.wait_for_selector("#devices")
        assert laptop.locator("#devices li > strong").all_text_contents() == [
            "Another device", "Chrome on Linux (this device)",
        ]  # a name stays with whom it was told  # fmt: skip
        listed = laptop.locator("#devices li > span").all_text_contents()
        assert [phone in one for one in listed] == [True, True]  # the second was let in by it
        assert f"let in by {phone}" in listed[1]
        laptop.click("#devices .destructive")
        laptop.click("#confirm button[value=yes]")
        choose(laptop, picture(ME, 7))
        laptop.click(".files .main:enabled")
        assert outcome(laptop).startswith("The other device is removed")
        assert verify(laptop).startswith("Accepted")
    assert verify(page).startswith(
        "Not allowed\nThis device was removed: from another device of yours, or with a backup."
    )
    press(page, "Enrol again")
    assert page.locator("#ticket").count() == 1


def test_a_backup_revokes_from_any_browser_and_reads_like_the_command_line_s(page, chromium, site, tmp_path):
    enrol(page)
    choice(page, "backup")
    lock(page, "of the backup")
    page.wait_for_selector("#backup")
    with page.expect_download() as saved:
        page.click("#backup")
    assert page.text_content("#answer [role=status]").startswith("Your browser has it now: look for intaglio-")
    kept = tmp_path / "a.backup"
    saved.value.save_as(kept)
    revocation = Backup.read(kept, "of the backup").revocation
    assert revocation.key_id.hex()[:16] == device_name(page)
    with chromium.new_context(base_url=site.url, service_workers="block") as another:
        other = opened(another)
        other.locator("#others").evaluate("fold => { fold.open = true }")
        for passphrase, said in [
            ("another passphrase", "The passphrase is another one"),
            ("of the backup", "The lost device is withdrawn"),
        ]:
            other.set_input_files("#backup-file", kept)
            lock(other, passphrase)
            assert said in outcome(other)
            to_start(other)
            other.locator("#others").evaluate("fold => { fold.open = true }")
    assert verify(page).startswith("Not allowed")


KEPT = """async () => {
    const [name] = await caches.keys()
    return (await (await caches.open(name)).keys()).map(({ url }) => new URL(url).pathname)
}"""


@pytest.fixture
def installed(chromium, site):
    """A browser profile in which the page keeps its files."""
    context = chromium.new_context(permissions=["camera"], base_url=site.url)
    context.ticket = site.ticket
    yield context
    context.close()


def kept(page):
    """Waits until the page's files are kept."""
    page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    page.wait_for_function("caches.keys().then((names) => names.length === 1)")


def test_nothing_is_kept_but_the_page_s_own_files(installed, site):
    site.between.alter = lambda _name, answer: answer
    page = opened(installed)
    kept(page)
    enrol(page)
    verify(loaded(page))
    files = page.evaluate(KEPT)
    built = {f"/{file.relative_to(PAGE).as_posix()}" for file in PAGE.rglob("*") if file.is_file()}
    assert set(files) <= built
    assert {"/index.html", "/manifest.webmanifest"} < set(files)
    assert not [file for file in files if file.endswith((".bin", ".wasm", ".json"))]


@pytest.mark.slow
def test_a_page_that_was_kept_says_so_and_asks_nobody_anything(installed, site):
    site.between.alter = lambda _name, answer: answer
    page = opened(installed)
    kept(page)
    enrol(page)
    name = device_name(page)
    installed.route("**/*", lambda route: route.abort("internetdisconnected"))
    installed.set_offline(True)
    sent = len(site.between.calls)
    page = loaded(page)
    assert screen(page) == "kept"
    assert "This is the page as your browser kept it on" in outcome(page)
    assert f"This device is {name}: enrolled, with a consent until" in outcome(page)
    requested = len(page.requested)
    page.wait_for_timeout(200)
    assert [url for url in page.requested[requested:] if "/assets/" not in url] == []
    assert len(site.between.calls) == sent
    installed.set_offline(False)
    installed.unroute_all()
    assert screen(page) == "kept"
    assert verify(loaded(page)).startswith("Accepted")


def test_online_the_page_is_the_server_s_and_never_the_one_that_was_kept(installed, site):
    page = opened(installed)
    kept(page)
    page.evaluate(
        """async () => {
            const cache = await caches.open((await caches.keys())[0])
            for (const { url } of await cache.keys()) await cache.put(url, new Response('an old page', { status: 200 }))
        }"""
    )
    page = loaded(page)
    assert screen(page) == "welcome"
    assert page.evaluate("document.documentElement.dataset.kept") is None


def test_the_page_can_be_installed(installed, site):
    page = opened(installed)
    devtools = installed.new_cdp_session(page)
    told = devtools.send("Page.getAppManifest")
    assert told["errors"] == []
    manifest = json.loads(told["data"])
    for icon in manifest["icons"]:
        shown = page.request.get(icon["src"])
        assert shown.headers["content-type"] == icon["type"]
        if icon["type"] == "image/png":
            size = Image.open(io.BytesIO(shown.body())).size
            assert f"{size[0]}x{size[1]}" == icon["sizes"]
    objections = devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert {one["errorId"] for one in objections} <= {"in-incognito"}  # as every profile of a test is
