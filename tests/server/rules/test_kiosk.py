"""`rules kiosk`: who is named, for how long, and that a bridge that is named does not serve."""

import datetime as dt
import hashlib
import ssl
import time

import pytest
from cryptography import x509

from federation.errors import UsageError
from federation.presentation.levels import PadLevel
from federation.rules.kiosks import Kiosk
from federation.rules.rulebook import Rulebook
from server.certificates import write_pki
from server.web.bridge import bridge_app
from server.web.cli import require_no_kiosk, rules_of_a_bridge
from tests.server.rules.test_registering import folder, run  # noqa: F401 - a fixture
from tests.server.web.test_bridge import SITE, Upstream, browsers, post

DAY = 86_400
KEYS = "signer-1.pem", "signer-2.pem"


@pytest.fixture
def rules(folder):  # noqa: F811 - the fixture above
    """Rules of a trial, with certificates for two kiosks and a bridge."""
    write_pki(folder / "tls", hosts=["localhost"], clients=["hall", "gate", "bridge"], now=dt.datetime.now(dt.UTC))
    return folder / "rules" / "rules.jsonl"


def name(rules, certificate, *options, identifier="hall-1", keys=KEYS, **told):
    signers = [part for key in keys for part in ("--key", rules.parent / key)]
    where = ["--certificate", certificate, "--place", "entrance hall, the porter looks after it"]
    return run("kiosk", rules, identifier, *where, *signers, *options, **told)


def digest_of(certificate):
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).digest()


def test_a_kiosk_is_named_by_its_certificate_and_nothing_else_is(rules):
    tls, now = rules.parents[1] / "tls", int(time.time())
    assert "added kiosk hall-1" in name(rules, tls / "hall.pem", "--days", 3).stdout
    book = Rulebook.from_file(rules.read_bytes(), read_at=now)
    (kiosk,) = (rule for rule in book.rules.values() if isinstance(rule, Kiosk))
    assert (kiosk.deployment, kiosk.place) == ("trial", "entrance hall, the porter looks after it")
    assert kiosk.ends_at - kiosk.begins_at == 3 * DAY
    levels = {
        shown: book.pad_level("trial", checked=True, certificate=digest_of(tls / f"{shown}.pem"), now=now + 1)
        for shown in ("hall", "gate")
    }
    assert levels == {"hall": PadLevel.SUPERVISED, "gate": PadLevel.ON_DEVICE}


def test_a_kiosk_is_believed_no_longer_than_its_certificate(folder, rules):  # noqa: F811 - the fixture above
    before = dt.datetime.now(dt.UTC) - dt.timedelta(days=360)
    write_pki(folder / "old", hosts=["localhost"], clients=["hall"], now=before)
    name(rules, folder / "old" / "hall.pem")
    book = Rulebook.from_file(rules.read_bytes(), read_at=int(time.time()))
    (kiosk,) = (rule for rule in book.rules.values() if isinstance(rule, Kiosk))
    shown = x509.load_pem_x509_certificate((folder / "old" / "hall.pem").read_bytes())
    assert kiosk.ends_at == int(shown.not_valid_after_utc.timestamp())
    assert 0 <= time.time() - kiosk.begins_at < 60


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ({"keys": KEYS[:1], "expected": 4}, (), ""),
        ({"expected": 2}, ("--deployment", "elsewhere"), "no deployment 'elsewhere' stands in"),
        ({"expected": 2, "certificate": "hall-key.pem"}, (), "holds no certificate in PEM"),
        ({"expected": 2}, ("--days", 91), ""),
    ],
    ids=["one signer", "no such deployment", "a key for a certificate", "for too long"],
)
def test_what_names_no_kiosk_leaves_the_rules_as_they_were(rules, arguments, options, says):
    before, told = rules.read_bytes(), dict(arguments)
    certificate = rules.parents[1] / "tls" / told.pop("certificate", "hall.pem")
    assert says in name(rules, certificate, *options, **told).output
    assert rules.read_bytes() == before


def test_a_certificate_that_has_ended_is_no_kiosk_s(folder, rules):  # noqa: F811 - the fixture above
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=4000)
    write_pki(folder / "old", hosts=["localhost"], clients=["hall"], now=long_ago)
    assert "has ended" in name(rules, folder / "old" / "hall.pem", expected=2).output


def test_a_bridge_that_the_rules_name_a_kiosk_hands_out_no_rules_and_another_one_does(rules):
    """Behind its certificate stand all browsers, and each would count as supervised."""
    tls = rules.parents[1] / "tls"
    bridge, gate = (rules_of_a_bridge(rules, tls / f"{client}.pem") for client in ("bridge", "gate"))
    name(rules, tls / "hall.pem")
    assert bridge() == gate() == rules.read_bytes()
    name(rules, tls / "bridge.pem", identifier="hall-2")
    with pytest.raises(UsageError, match="a kiosk's, and behind it stand all browsers"):
        bridge()
    assert gate() == rules.read_bytes()


async def test_a_bridge_that_is_named_while_it_runs_passes_no_call_on_either(rules):
    """Whoever has a page of their own reads no rules, and each call would count as supervised."""
    tls, upstream = rules.parents[1] / "tls", Upstream()
    shown = x509.load_pem_x509_certificate((tls / "bridge.pem").read_bytes())
    bridge = bridge_app(upstream, SITE, require_passing=lambda: require_no_kiosk(rules.read_bytes(), shown))
    async with browsers(bridge, "203.0.113.1") as client:
        name(rules, tls / "hall.pem")
        assert (await post(client)).status_code == 200
        name(rules, tls / "bridge.pem", identifier="hall-2")
        refused = await post(client)
        assert (refused.status_code, len(upstream.seen)) == (503, 1)
        assert "its operator has to set it right" in refused.text
        assert "kiosk" not in refused.text


@pytest.mark.parametrize(("shown", "says"), [("missing.pem", "cannot read"), ("hall-key.pem", "no certificate in PEM")])
def test_a_bridge_without_a_certificate_hands_out_no_rules(rules, shown, says):
    with pytest.raises(UsageError, match=says):
        rules_of_a_bridge(rules, rules.parents[1] / "tls" / shown)()
