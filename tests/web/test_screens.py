"""The page as a newcomer uses it: on a phone, with a camera, by keyboard, and when things go slowly."""

import threading

import pytest

from tests.web.hands import (
    ANOTHER,
    ME,
    agree,
    choose,
    enrol,
    lock,
    opened,
    outcome,
    press,
    screen,
    verify,
)
from tests.web.site import picture

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
PHONE = {"width": 375, "height": 667}
IN_VIEW = """selector => {
  const { top, bottom, left, right } = document.querySelector(selector).getBoundingClientRect()
  return top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth
}"""
DARK = "document.querySelector('video').srcObject === null"


@pytest.fixture
def held(page, site):
    """Holds back what a comparison is answered: an event when there is something to hold, and one to let it go."""
    there, let_go = threading.Event(), threading.Event()

    def alter(name, answer):
        if name == "SubmitProbe":
            there.set()
            let_go.wait(60)
        return answer

    site.between.calls.clear()
    site.between.alter = alter
    yield there, let_go
    let_go.set()


def test_on_a_phone_somebody_enrols_and_verifies_with_the_camera_and_always_sees_what_to_do(page):
    page.set_viewport_size(PHONE)
    assert page.evaluate(IN_VIEW, "h1")
    agree(page)
    page.wait_for_selector("[data-screen=look] video")
    for seen in (".hint", ".frame"):
        assert page.evaluate(IN_VIEW, seen), seen
    page.click("button:text-is('I am ready')")  # after three pictures that took themselves
    page.click("#passkey-button")
    page.wait_for_selector("[data-screen=working]")
    for seen in ("h1", "progress", ".progress p", ".card button"):
        assert page.evaluate(IN_VIEW, seen), seen
    lock(page)
    assert outcome(page).startswith("You are enrolled")
    assert page.evaluate(IN_VIEW, ".card .main")
    press(page, "Done")
    assert page.evaluate(IN_VIEW, ".card .main")
    press(page, "Verify")
    page.wait_for_selector("[data-screen=working]")
    assert page.evaluate(IN_VIEW, "progress")
    assert outcome(page).startswith("Accepted")
    assert page.evaluate(IN_VIEW, "h1")
    assert page.evaluate("document.activeElement.tagName") == "H1"  # so a screen reader reads it


def test_without_a_camera_somebody_is_told_and_brings_files(chromium, site):
    site.between.alter = lambda _name, answer: answer
    with chromium.new_context(base_url=site.url) as context:
        context.add_init_script("navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('denied'))")
        context.ticket = site.ticket
        page = opened(context)
        agree(page)
        page.wait_for_selector(".files")
        page.wait_for_selector(".problem[role=alert]:not(:empty)")
        assert "The camera cannot be used." in outcome(page)
        page.set_input_files("#files", [picture(ME, number) for number in (1, 2, 3)])
        page.click(".files .main:enabled")
        lock(page)
        assert outcome(page).startswith("You are enrolled")


def test_cancel_stops_what_runs_and_nothing_more_is_sent(page, site, held):
    agree(page)
    choose(page, picture(ME, 1), picture(ME, 2))
    page.click(".files .main:enabled")
    lock(page)
    there, let_go = held
    assert there.wait(60)
    calls = list(site.between.calls)
    press(page, "Cancel")
    page.wait_for_selector("[data-screen=failed]", timeout=5_000)  # at once, while the answer is still held back
    assert outcome(page).startswith("Cancelled\nThis device stays as it is.")
    let_go.set()
    page.reload()
    page.wait_for_selector("[data-screen=welcome]")
    assert "SubmitToken" not in site.between.calls
    assert calls == ["StartEnrolment", "SubmitProbe"]
    site.between.alter = lambda _name, answer: answer
    assert enrol(page).startswith("You are enrolled")


def test_a_refusal_says_what_helps_how_many_tries_are_left_and_then_the_page_counts_the_wait_down(page):
    enrol(page)
    said = verify(page, ANOTHER)
    for words in ("Light from the front", "4 more tries", "Show your badge to the porter", "contest@example.org"):
        assert words in said
    for _ in range(4):
        said = verify(page, ANOTHER)
    assert "You will have to wait before the next try." in said
    press(page, "Show how long")
    assert screen(page) == "waiting"  # the page knows how long, and nobody looks into the camera to hear it
    assert outcome(page).startswith("Please wait\n5 attempts in a row were not accepted")
    first = page.text_content(".clock")
    page.wait_for_selector(f".clock:not(:text-is('{first}'))")
    press(page, "Back")
    press(page, "Verify")
    assert screen(page) == "waiting"  # before a picture is taken
    page.reload()
    page.wait_for_selector("[data-screen=home]")
    press(page, "Verify")
    assert screen(page) == "waiting"  # a reload does not make it forget
    assert outcome(page).startswith("Please wait\n5 attempts in a row were not accepted")


def test_while_the_service_is_out_of_reach_nothing_is_said_to_be_ready_and_later_it_goes_on(context, site):
    site.between.alter = lambda _name, answer: answer
    context.route("**/intaglio/**", lambda route: route.abort())
    page = opened(context)
    assert outcome(page).startswith("The service is out of reach")
    context.unroute("**/intaglio/**")
    press(page, "Try again")
    page.wait_for_selector("[data-screen=welcome]")


def test_the_share_that_has_come_is_shown_while_the_weights_load(context, site):
    site.between.alter = lambda _name, answer: answer
    held = []
    context.route("**/mobilefacenet*.bin", lambda route: held.append(route))  # noqa: PLW0108 - wants a Python function
    page = context.new_page()
    page.goto("/")
    page.wait_for_selector(".progress p:text-matches('^[1-9][0-9]?% loaded$')")
    assert screen(page) == "loading"
    held[0].continue_()
    page.wait_for_selector("[data-screen=welcome]")


def test_everything_is_done_with_the_keyboard_alone(page):
    def on(selector):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(selector)

    on(".card .main")
    page.keyboard.press("Enter")
    on("#ticket")
    page.keyboard.type(page.ticket())
    on("#agree")
    page.keyboard.press("Space")
    on(".card .main")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-screen=look]")
    on(".card .buttons button")
    page.keyboard.press("Enter")
    assert screen(page) == "welcome"


@pytest.mark.parametrize(
    ("tag", "words"), [("de-CH", "Anmelden"), ("es-MX", "Inscribirse"), ("fr", "Verify your face")]
)
def test_the_page_speaks_the_language_of_the_browser(chromium, site, tag, words):
    site.between.alter = lambda _name, answer: answer
    with chromium.new_context(base_url=site.url, locale=tag) as context:
        page = opened(context)
        assert words in page.text_content(".card")
        assert page.get_attribute("html", "lang") == {"de-CH": "de", "es-MX": "es"}.get(tag, "en")
        page.click("#languages [lang=en]")
        assert "Verify your face without sending it" in page.text_content(".card")
        page.reload()
        page.wait_for_selector("[data-screen=welcome]")
        assert "Verify your face without sending it" in page.text_content(".card")  # it was chosen


def test_what_is_folded_is_printed_and_buttons_are_not(page):
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.is_visible("#technical dl")
    assert not page.is_visible(".card .main")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
