"""What a person does with the page, and what they read then."""

from tests.web.site import picture

ME, ANOTHER = 2, 5
_READ = """() => {
  const shown = [...document.querySelector('.card').children]
  const from = shown.findIndex(({ tagName }) => tagName === 'H1')
  return shown.slice(from).map(({ textContent }) => textContent).join('\\n')
}"""


def with_passkeys(page):
    """Lets the page have passkeys of an authenticator in the browser, which verifies its owner without asking."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2", "ctap2Version": "ctap2_1", "transport": "internal", "hasResidentKey": True, "hasPrf": True,
        "hasUserVerification": True, "isUserVerified": True, "automaticPresenceSimulation": True,
    }  # fmt: skip
    added = devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    page.passkeys = devtools, added["authenticatorId"]


def opened(context, path="/"):
    page = context.new_page()
    page.passphrase = getattr(context, "passphrase", None)
    if page.passphrase is None:
        with_passkeys(page)
    page.requested, page.complaints, page.ticket = [], [], getattr(context, "ticket", None)
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    return loaded(page, path)


def loaded(page, path="/"):
    """The page anew, as after the browser was closed: what it knows is on disk, or in the authenticator."""
    page.goto("about:blank")
    page.goto(path)
    page.wait_for_selector("body[data-screen]:not([data-screen=loading])")
    return page


def lock(page, passphrase=None):
    """Locks the keys that the page is about to make, if it makes any; opens them, if it has a passphrase."""
    page.wait_for_selector("#keeping[open], body:not([data-screen=look], [data-screen=working])", state="attached")
    if not (page.is_visible("#keeping") or screen(page) == "lock"):
        return
    passphrase = passphrase or page.passphrase
    if passphrase is None:
        page.click("#passkey-button")
        return
    if page.locator("#other-way").count():
        page.click("#other-way > summary")
    page.fill("#passphrase", passphrase)
    if page.is_visible("#passphrase-again"):
        page.fill("#passphrase-again", passphrase)
    page.click("#passphrase-button")


def screen(page):
    """Which screen is shown."""
    return page.get_attribute("body", "data-screen")


def press(page, name):
    """Presses the button with that name."""
    page.click(f".card button:text-is('{name}')")


def to_start(page):
    """Leaves what is shown for where one begins."""
    for name in ("Done", "Back", "Cancel"):
        if page.locator(f".card button:text-is('{name}')").count():
            press(page, name)
            return


def agree(page):
    """Goes from the first screen to the camera."""
    page.click("body[data-screen=welcome] .card .main")
    if page.locator("#ticket").count():
        page.fill("#ticket", page.ticket())
    page.check("#agree")
    press(page, "Continue")


def choose(page, *pictures):
    """Brings files instead of a look into the camera."""
    page.click(".card button:text-is('Use picture files instead')")
    page.set_input_files("#files", list(pictures))


def enrol(page, *pictures):
    """Enrols with some images of ME, the last of which checks the others."""
    to_start(page)
    agree(page)
    choose(page, *(picture(*one) for one in pictures or ((ME, 1), (ME, 2), (ME, 3))))
    page.click(".files .main:enabled")
    lock(page)
    return outcome(page)


def verify(page, person=ME, numbers=(6,)):
    to_start(page)
    page.click(":is([data-screen=home], [data-screen=asked]) .card .main")
    choose(page, *(picture(person, number) for number in numbers))
    page.click(".files .main:enabled")
    lock(page)
    return outcome(page)


def outcome(page):
    """What the page says once it has stopped working, with what it says to whoever looks closer."""
    page.wait_for_selector("body:not([data-screen=working]):not(:has(#keeping[open])) .card")
    return page.evaluate(_READ)


def choice(page, name):
    """Presses one of the buttons of what is the person's own."""
    to_start(page)
    page.locator("#yours").evaluate("fold => { fold.open = true }")
    page.click(f"#{name}-button")


def device_name(page):
    return page.text_content("#device")
