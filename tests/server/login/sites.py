"""A provider without a matching service: sites, browsers, and an issuer of assertions that says what a test wants."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from federation.consent.assertion import Assertion, LogPosition
from federation.consent.login import LoginRequest
from federation.presentation.levels import PadLevel
from federation.rates import Audited, Basis, StatedRate
from federation.rules.clients import Client, SigningAlgorithm
from federation.verdict import Verdict
from server.login.keys import SigningKeys
from server.login.logins import open_logins
from server.login.protocol import Provider
from server.login.provider import CALL_HEADER, LoginSite
from server.rules.public import PublicRules
from tests.running import DEPLOYMENT, ISSUER, ISSUER_KEY, PURPOSE, a_rules_file, signed

ORIGIN = "https://login.example.org"
PAGE_HEADERS = {"origin": ORIGIN, CALL_HEADER: "1", "content-type": "application/json"}
SECRET, OTHER_SECRET = secrets.token_hex(32), secrets.token_hex(32)
CLIENT_KEY = generate_private_key(SECP256R1())
ACR = "urn:intaglio:face:pass:fmr-0.001"
WORTH = ACR, f"{ACR}:pad-on-device"
BEGIN = int(time.time()) - 86_400


def point(key):
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def a_client(identifier="shop.example.org", **changes):
    usual = Client(
        deployment=DEPLOYMENT,
        identifier=identifier,
        version=1,
        operator=f"{identifier} Ltd",
        purposes=(PURPOSE,),
        redirect_uris=(f"https://{identifier}/back", f"https://{identifier}/other?of=two"),
        algorithm=SigningAlgorithm.ES256,
        begins_at=BEGIN,
        ends_at=BEGIN + 365 * 86_400,
    )
    return replace(usual, **changes)


def digest(secret):
    return hashlib.sha256(secret.encode()).digest()


CLIENTS = (
    a_client(secret_digest=digest(SECRET)),
    a_client("other.example", secret_digest=digest(OTHER_SECRET), algorithm=SigningAlgorithm.EDDSA),
    a_client("app.example", redirect_uris=("http://localhost:9000/back", "https://app.example/back")),
    a_client("bank.example", key=point(CLIENT_KEY)),
    a_client("closed.example"),
    a_client("closed.example", version=2, purposes=()),
    a_client("ended.example", ends_at=BEGIN + 60),
    a_client("later.example", begins_at=BEGIN + 300 * 86_400),
    a_client("elsewhere.example", deployment="another"),
)
RULES = a_rules_file(*(signed(client) for client in CLIENTS))
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ASKED = {
    "client_id": "shop.example.org",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
    "nonce": "n-1",
    "redirect_uri": "https://shop.example.org/back",
    "response_type": "code",
    "scope": "openid",
    "state": "s-1",
}


def asking(**changes):
    return {name: value for name, value in (ASKED | changes).items() if value is not None}


@dataclass
class Place:
    """A provider.

    Attributes:
        rules: content of the rules file.
        later: seconds that its clock is ahead.
    """

    directory: object
    rules: bytes = RULES
    later: int = 0
    keys: SigningKeys = field(default_factory=SigningKeys.generate)
    accepts_trials: bool = False

    def __post_init__(self):
        now = int(time.time())
        self.public = PublicRules(lambda: self.rules, deployment=DEPLOYMENT, now=now)
        self.logins = open_logins(self.directory / "logins.db")
        self.provider = Provider(
            ORIGIN, f"{ORIGIN}/login/token", self.public, self.logins, self.keys,
            accepts_trials=self.accepts_trials, clock=self.clock,
        )  # fmt: skip

    def clock(self):
        return time.time() + self.later

    def app(self, **options):
        return LoginSite(self.provider, acr=WORTH, **options).app

    @asynccontextmanager
    async def browser(self, address="203.0.113.1", app=None):
        transport = httpx.ASGITransport(app or self.app(), client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            yield client

    def rows(self):
        """All that is under way."""
        with self.logins._database._engine.connect() as connection:
            return connection.exec_driver_sql("SELECT * FROM logins_1").all()


def assertion(request: LoginRequest, *, key=ISSUER_KEY, trial=False, **changes):
    """What the matching service says after a match for `request`."""
    now = int(time.time())
    usual = Assertion(
        issuer=ISSUER.address,
        audience=request.client,
        subject=hashlib.sha256(request.client.encode()).hexdigest(),
        purpose=request.purpose,
        nonce=request.audience_nonce,
        issued_at=now,
        expires_at=now + 300,
        release_digest=bytes(32),
        rate=StatedRate(0.001, 0.0005, 0.002, Basis.CHECKED, 24),
        audited=Audited(Verdict.PASS, 812, 0.001, 0.05, trial),
        log=LogPosition("example.org/log", 41, 42, bytes(32)),
        contest="mailto:contest@example.org",
        pad=PadLevel.ON_DEVICE,
    )
    return replace(usual, **changes).sign(key)


def handle_of(response):
    """What names the login that began."""
    assert response.status_code == 303, response.text
    found = re.fullmatch(re.escape(ORIGIN) + r"/\?login=([A-Za-z0-9_-]{43})", response.headers["location"])
    return found.group(1)


async def begun(browser, **changes):
    return handle_of(await browser.get("/login/authorize", params=asking(**changes)))


async def asked(browser, handle):
    answer = await browser.post("/login/asked", json={"login": handle}, headers=PAGE_HEADERS)
    assert answer.status_code == 200, answer.text
    return LoginRequest.from_bytes(answer.json()["request"].encode())


async def answered(browser, handle, token):
    return await browser.post("/login/answer", json={"login": handle, "assertion": token}, headers=PAGE_HEADERS)


async def coded(browser, **changes):
    """A code, after a match."""
    handle = await begun(browser, **changes)
    request = await asked(browser, handle)
    assert (await answered(browser, handle, assertion(request))).status_code == 204
    return told(await browser.get("/login/finish", params={"login": handle}))["code"]


def told(response):
    """What a site is told by the address to which a browser is sent."""
    assert response.status_code == 303, response.text
    return dict(parse_qsl(urlsplit(response.headers["location"]).query, strict_parsing=True))


def exchanging(code, **changes):
    usual = {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": VERIFIER,
        "redirect_uri": "https://shop.example.org/back",
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


async def exchanged(browser, code, auth=("shop.example.org", SECRET), **changes):
    """What the token endpoint says to a site."""
    return await browser.post("/login/token", data=exchanging(code, **changes), auth=auth)
