"""Every option of the operator's commands reaches what it names. Defaults are in `tests.table_of_numbers`."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
import os
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import typer
from cryptography import x509
from typer.testing import CliRunner

from federation.commandline.version import versions
from federation.errors import RefusedError, UsageError
from federation.onebit import parameters_for
from federation.release.bundle import Bundle
from federation.release.manifest import ReleaseTrust
from federation.transparency import KeyKind, LogPolicy, NoteSigner
from server import cli, program
from server.dashboard import cli as dashboard_cli
from server.dashboard.log import LogSource
from server.dashboard.sources import Sources
from server.fleet.members import Coordinator
from server.login.keys import SigningKeys
from server.matching.cli import _serve
from server.restoring.reconciling import What
from server.rules.assertions import read_registration
from server.rules.cli import read_bundle
from server.storage.sessions import SessionLimits
from server.visitors.entrance import IN_ALL
from server.visitors.peers import PeerRate
from server.web.bridge import AddressLimits
from server.web.cli import site_files
from tests.bundles import TRUST_IN_TRIALS, a_bundle, a_release
from tests.bundles import signed as sealed
from tests.commands import Stand, handed, left_out, spoiled
from tests.running import TERMS, a_rules_file, public_rules, signed, write_release, write_rules

WITNESSES = [NoteSigner(f"witness.example.org/{n}", KeyKind.COSIGNATURE, bytes([n]) * 32).key for n in (1, 2)]
LOGS = [NoteSigner(f"log.example.org/{n}", KeyKind.NOTE, bytes([n]) * 32).key for n in (1, 2)]
PASSPHRASE = "correct horse battery"  # noqa: S105 - made up for the tests
PURPOSES = ("account-sign-in", "door-access")
FORMER = ("former-1.zip", "former-2.zip")
TOKEN, OTHER_TOKEN = "pkcs11:object=one", "pkcs11:object=two"
DIGESTS = [a_release(300 + number).digest for number in (1, 2)]


def intaglio_server(*words):
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that commands read, and two deployments, of which one issues assertions."""
    folder = tmp_path_factory.mktemp("place")
    intaglio_server("pki", "init", folder / "tls", "--client", "client", "--client", "bridge")
    intaglio_server("assertions", "init", folder / "assertions", "--issuer", "https://verify.example.org")
    intaglio_server("login", "init", folder / "login")
    write_release(folder)
    for number in (1, 2):
        (folder / f"former-{number}.zip").write_bytes(sealed(a_bundle(a_release(300 + number))).to_bytes())
    (folder / "trust.json").write_bytes(TRUST_IN_TRIALS.to_bytes())
    write_rules(folder, None)
    first = public_rules(a_rules_file(issuer=None))._book.deployment("trial")
    second = replace(first, identifier="trial-2", issuer=read_registration(folder / "assertions"))
    (folder / "rules.jsonl").write_bytes(a_rules_file(signed(second), issuer=None))
    (folder / "terms.json").write_bytes(
        json.dumps(json.loads((folder / "terms.json").read_bytes()) | {"purposes": PURPOSES}).encode()
    )
    (folder / "policy").write_text((folder / "transparency/policy").read_text())
    (folder / "log-1.pub").write_text(LOGS[0].to_text() + "\n")
    (folder / "page").mkdir()
    (folder / "page/index.html").write_text("the page that was built here")
    (folder / "provenance.json").write_text("provenance")
    (folder / "pass").write_text(f"{PASSPHRASE}\nsecond line\n")
    intaglio_server("database", "upgrade", folder / "matching.db")
    intaglio_server("log", "witness-init", folder / "witness", "witness.example.org/own")
    Coordinator.create(folder / "coordinator", address="fed.example.org:9443", now=dt.datetime.now(dt.UTC))
    for number in (1, 2):
        (folder / f"run-{number}.toml").write_text(f'output = "release-{number}.json"\nledger = "ledger.jsonl"\n')
    return folder


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _signals():
    """Whoever serves takes SIGTERM for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    gc.collect()  # what commands had open that were ended: here, where it is nobody's mistake


def given(place, **files):
    return tuple(part for name, file in files.items() for part in (f"--{name.replace('_', '-')}", place / file))


# --------------------------------------------------------------------------------------------------- matching start
def matching(place):
    return (
        *("matching", "start"),
        *given(place, release="release.zip", release_trust="trust.json", rules="rules.jsonl", log="transparency"),
        *given(place, tls="tls", database="matching.db", assertions="assertions", provenance="provenance.json"),
        *given(place, ready_file="ready.json", stats="stats.json"),
        *(part for name in FORMER for part in ("--former-release", place / name)),
        *("--log-database", "postgresql://log@host/log", "--deployment", "trial-2"),
        *("--host", "127.0.0.2", "--port", 7001, "--workers", 3),
        *("--peer-rate", 7.5, "--peer-sessions", 1100, "--peer-enrolments", 13, "--batch-seconds", 2.5),
        *("--metrics-port", 9001, "--metrics-host", "127.0.0.3"),
    )


def test_a_matching_server_is_set_as_its_options_say(place):
    settings = handed(cli.app, "server.matching.cli:_serve", *matching(place))["settings"]
    told = vars(settings)
    assert [one.release.digest for one in (settings.bundle, *settings.former)] == [a_release().digest, *DIGESTS]
    assert {name: told[name] for name in told.keys() - {"bundle", "former", "issuer", "rules"}} == {
        "software": b"provenance",
        "log_directory": place / "transparency",
        "log_database": "postgresql://log@host/log",
        "database": str(place / "matching.db"),
        "tls": place / "tls",
        "host": "127.0.0.2",
        "port": 7001,
        "workers": 3,
        "rate": PeerRate(7.5, burst=15),
        "enrolments": 13,
        "session_limits": SessionLimits(capacity=4400, per_peer=1100),
        "batch_seconds": 2.5,
        "metrics": ("127.0.0.3", 9001),
        "ready_file": place / "ready.json",
        "stats": place / "stats.json",
    }
    assert settings.rules.issuer == read_registration(place / "assertions")
    settings.issuer.require_registered(read_registration(place / "assertions"))


def test_a_service_has_room_for_all_although_each_device_may_have_few_sessions(place):
    words = matching(place)
    few = tuple(10 if before == "--peer-sessions" else word for before, word in zip(("", *words), words, strict=False))
    found = handed(cli.app, "server.matching.cli:_serve", *few)["settings"]
    assert found.session_limits == SessionLimits(capacity=1024, per_peer=10)


@pytest.mark.parametrize("served", ["matching", "web"])
def test_every_release_that_somebody_is_served_with_is_one_that_the_trust_takes(place, served, monkeypatch):
    """One that people come over from decides about them too."""
    words = {"matching": matching, "web": web}[served](place)
    seen = Stand(monkeypatch, f"server.{served}.cli", {"require_servable": None})
    handed(cli.app, {"matching": "server.matching.cli:_serve", "web": "server.web.cli:Site.read"}[served], *words)
    calls = seen.calls["require_servable"]
    assert [call["bundle"].release.digest for call in calls] == [a_release().digest, *DIGESTS]
    assert {call["trust"] for call in calls} == {TRUST_IN_TRIALS}
    assert all(abs(call["now"] - time.time()) < 60 for call in calls)


class Service:
    """What `_serve` ends."""

    def __init__(self):
        self.events = []

    def close(self):
        self.events.append("closed")

    async def drain(self, grace_seconds):
        self.events.append(("drained", grace_seconds))

    async def start(self):
        self.events.append("started")

    async def listening(self):
        """What `start_server` gives; the operator ends it at once."""
        self.port = 7
        signal.raise_signal(signal.SIGTERM)
        return self

    async def taken(self):
        """What `start_server` gives where its port is taken."""
        raise UsageError("the port is taken")

    @contextmanager
    def held(self, name, gives):
        yield gives
        self.events.append(f"{name} closed")

    @asynccontextmanager
    async def written(self, gives):
        yield gives
        self.events.append("journal written")


def test_a_matching_server_is_put_together_of_what_it_is_set_to(place, monkeypatch):
    settings = handed(cli.app, "server.matching.cli:_serve", *matching(place))["settings"]
    service, admission = Service(), mock.MagicMock(days_left={"ca": 6.0, "server": 5.0})
    transparency, storage, journal = mock.MagicMock(), mock.MagicMock(), mock.MagicMock()
    transparency.subjects.return_value = {b"a person"}
    transparency.witness_names, transparency.silent_witnesses = ("one", "two"), {"two": "is silent"}
    made = {"Admission": admission, "opened_log": service.held("log", transparency)}
    made |= {"open_storage": service.held("storage", storage), "Journal": service.written(journal)}
    made |= {"MatchWorkers": service, "MatchingService": service}
    seen = Stand(monkeypatch, "server.matching.cli", made | {"start_server": service.listening()})
    shown = Stand(monkeypatch, "server.matching.cli", {"Metrics.serve": lambda: service.events.append("hidden")})
    asyncio.run(_serve(settings))
    assert seen["Admission"]["directory"] == place / "tls"
    assert admission.remember.call_args.args == (storage,)
    assert seen["opened_log"] == {"directory": place / "transparency", "database": "postgresql://log@host/log"}
    assert seen["open_storage"]["database"] == str(place / "matching.db")
    assert not seen["open_storage"]["may_begin"]()  # somebody is enrolled, as the log says
    transparency.subjects.return_value = set()
    assert seen["open_storage"]["may_begin"]()
    assert seen["Journal"] == {"log": transparency, "clock": time.time, "batch_seconds": 2.5}
    workers = seen["MatchWorkers"]
    metrics = workers["metrics"]
    assert (workers["count"], workers["parameters"]) == (3, parameters_for(settings.bundle.release.code_length))
    shown_at = shown["Metrics.serve"]
    assert (shown_at.pop("self"), shown_at) == (metrics, {"host": "127.0.0.3", "port": 9001})
    told = seen["MatchingService"]
    assert (told["bundle"], told["storage"], told["workers"]) == (settings.bundle, storage, service)
    assert (told["rules"], told["journal"], told["issuer"]) == (settings.rules, journal, settings.issuer)
    assert (told["session_limits"], told["software"]) == (settings.session_limits, b"provenance")
    assert told["former"] == settings.former
    started = seen["start_server"]
    assert (started["service"], started["credentials"]) == (service, admission.credentials())
    assert (started["admission"], started["host"], started["port"]) == (admission, "127.0.0.2", 7001)
    assert (started["rate"], started["enrolments"]) == (PeerRate(7.5, burst=15), 13)
    ended = ["closed", "closed", "hidden", "journal written", "storage closed", "log closed"]
    assert service.events == ["started", ("drained", 10.0), *ended]
    days = [metrics.value("intaglio_certificate_days_left", certificate=name) for name in ("ca", "server")]
    silent = [metrics.value("intaglio_witness_silent", witness=name) for name in ("one", "two")]
    assert (days, silent) == ([6.0, 5.0], [0.0, 1.0])
    assert metrics.value("intaglio_release_ends_timestamp_seconds") == settings.bundle.manifest.ends_at
    assert json.loads(settings.stats.read_bytes()) == {}
    assert json.loads(settings.ready_file.read_bytes()) == {"port": 7, "pid": os.getpid()}


@pytest.mark.parametrize(("fails", "ended"), [("port", ["started", "closed"]), ("workers", [])])
def test_a_matching_server_that_cannot_begin_announces_nothing_and_leaves_nothing_open(
    place, monkeypatch, fails, ended
):
    settings = handed(cli.app, "server.matching.cli:_serve", *matching(place))["settings"]
    service = Service()
    for path in (settings.ready_file, settings.stats):
        path.unlink(missing_ok=True)
    made = dict.fromkeys(("opened_log", "open_storage"), nullcontext(mock.MagicMock()))
    made |= {"Admission": mock.MagicMock(days_left={}), "Journal": nullcontext(), "MatchWorkers": service}
    taken = service.taken()
    made |= {"MatchingService": service, "start_server": taken}
    if fails == "workers":
        service.start = lambda: taken
    Stand(monkeypatch, "server.matching.cli", made)
    Stand(monkeypatch, "server.matching.cli", {"Metrics.serve": lambda: service.events.append("hidden")})
    with pytest.raises(UsageError, match="the port is taken"):
        asyncio.run(_serve(settings))
    assert service.events == [*ended, "closed", "hidden"]
    assert not settings.ready_file.exists()
    assert not settings.stats.exists()


def test_the_sign_that_a_server_is_ready_goes_with_it_however_it_ends(place, monkeypatch):
    async def dies(settings, _told_to_end):
        settings.ready_file.write_text("{}")
        raise UsageError("the port is taken")

    monkeypatch.setattr("server.matching.cli._serve", dies)
    assert CliRunner().invoke(cli.app, [str(word) for word in matching(place)]).exit_code == 2
    assert not (place / "ready.json").exists()


def test_a_stale_sign_that_a_server_is_ready_goes_before_anything_else(place):
    (place / "ready.json").write_text("{}")
    handed(cli.app, "server.matching.cli:read_bundle", *matching(place))
    assert not (place / "ready.json").exists()


# -------------------------------------------------------------------------------------------------------- web start
def web(place):
    return (
        *("web", "start", "--server", "localhost:7443", "--origin", "https://verify.example.org"),
        *given(place, tls="tls", release="release.zip", release_trust="trust.json", rules="rules.jsonl"),
        *given(place, terms="terms.json", log_policy="policy", page="page", login="login"),
        *given(place, certificate="tls/server.pem", key="tls/server-key.pem", login_database="logins-elsewhere.db"),
        *("--deployment", "trial-2", "--purpose", "door-access", "--days", 30, "--client", "bridge"),
        *("--host", "127.0.0.1", "--port", a_free_port()),
        *("--peer-rate", 7.0, "--peer-sessions", 11, "--peer-enrolments", 13),
        *(part for name in FORMER for part in ("--former-release", place / name)),
        *("--metrics-port", a_free_port(), "--metrics-host", "127.0.0.1"),
    )


def of(words, option):
    return words[words.index(option) + 1]


def test_the_page_is_read_from_its_folder_with_what_it_must_know_beside_it(place):
    site = handed(cli.app, "server.web.cli:Site.read", *web(place))
    assert (site["folder"], site["origin"]) == (place / "page", "https://verify.example.org")
    assert set(site["live"]) == {"/rules.jsonl"}
    assert site["live"]["/rules.jsonl"]() == (place / "rules.jsonl").read_bytes()
    told = json.loads(site["added"]["/deployment.json"])
    assert {name: told[name] for name in ("purpose", "days", "deployment")} == {
        "purpose": "door-access",
        "days": 30,
        "deployment": "trial-2",
    }
    assert told["terms"]["notice"] == TERMS.notice
    assert told["log"]["key"] == LogPolicy.from_text((place / "policy").read_text()).log_key.to_text()
    assert ReleaseTrust.from_file(json.dumps(told["release_trust"]).encode()) == TRUST_IN_TRIALS
    assert told["log"]["witnesses"] == []
    expected = {"/deployment.json"}
    for folder, name in [("", "release.zip"), *((f"/former/{d}", n) for d, n in zip(DIGESTS, FORMER, strict=True))]:
        bundle = read_bundle(place / name)
        assert site["added"][f"{folder}/release.json"] == bundle.release.to_bytes()
        assert site["added"][f"{folder}/manifest.json"] == bundle.signed.to_bytes()
        expected |= {f"{folder}/release.json", f"{folder}/manifest.json"}
    assert site["added"].keys() == expected


class Bridge:
    """What `web start` puts together, and what becomes of it; the operator ends it at once."""

    def __init__(self):
        self.events, self.is_up = [], False
        self.certificate, self.counts = "a certificate", {"bridge": 3.0, "authority": 4.0}

    def look(self):
        self.events.append("looked")

    def days_left(self):
        return self.counts

    def serves(self):
        return self.is_up

    async def tend(self):
        self.events.append("tended")
        await self.forever("tended no more")

    async def tend_login(self):
        self.events.append("login tended")
        await self.forever("login tended no more")

    async def forever(self, ends):
        try:
            await asyncio.Event().wait()
        finally:
            self.events.append(ends)

    async def close(self):
        for _ in range(3):
            await asyncio.sleep(0)
        self.events.append("closed")

    def beside(self, app):
        return ("login beside", app)

    async def serve(self):
        for _ in range(3):
            await asyncio.sleep(0)
        self.events.append("served")

    @contextmanager
    def held(self, name, gives):
        self.events.append(f"{name} opens")
        try:
            yield gives
        finally:
            self.events.append(f"{name} closes")


@pytest.mark.parametrize("with_login", [True, False])
def test_the_page_s_server_is_put_together_of_what_it_is_set_to(place, monkeypatch, with_login):
    words, bridge = web(place), Bridge()
    if not with_login:
        words = tuple(w for at, w in enumerate(words) if "--login" not in (w, words[at - 1]))
    door = mock.MagicMock(visitors=5, turned_away={})
    made = {"opened_door": bridge.held("door", door), "MatchingUpstream": bridge, "bridge_app": "the bridge"}
    made |= {"opened_login": bridge.held("login", (bridge, "its chores")), "tend_login": bridge.tend_login()}
    made |= {"show": lambda: bridge.events.append("hidden"), "page_server": "a server", "serve_at": bridge.serve()}
    made |= {"welcome_at": "welcome"}
    seen = Stand(monkeypatch, "server.web.cli", made)
    kiosks = Stand(monkeypatch, "server.web.cli", {"require_no_kiosk": None})
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert (result.exit_code, result.stderr.startswith("serving https://verify.example.org: 0.0 MB")) == (0, True)
    begins = ["door opens", *["login opens"] * with_login, "looked", "tended", *["login tended"] * with_login]
    gone = ["tended no more", *["login tended no more"] * with_login]
    assert bridge.events == [
        *begins,
        "served",
        *gone,
        "closed",
        *["login closes"] * with_login,
        "hidden",
        "door closes",
    ]
    app = seen["bridge_app"]
    assert (app["upstream"], app["welcome"]) == (bridge, "welcome")
    assert (seen["page_server"]["app"], seen["serve_at"]) == (
        ("login beside", "the bridge") if with_login else "the bridge",
        {"door": door, "server": "a server"},
    )
    assert {call["door"] for call in seen.calls["welcome_at"]} == {door}
    if with_login:
        login = seen["opened_login"]
        assert (login["bundle"].release.digest, login["welcome"]) == (a_release().digest, "welcome")
        assert seen["tend_login"] == {"chores": "its chores"}
    else:
        assert (seen.calls["opened_login"], seen.calls["tend_login"]) == ([], [])
        made["tend_login"].close()
    kiosks.calls["require_no_kiosk"].clear()
    app["require_passing"]()
    assert kiosks["require_no_kiosk"] == {
        "rules": (place / "rules.jsonl").read_bytes(),
        "certificate": "a certificate",
    }
    app["answered"]("bridge", "OK")
    registry = seen["show"]["registry"]
    for bridge.is_up in (True, False):
        assert (seen["show"]["serves"](), registry.get_sample_value("intaglio_serving")) == (bridge.is_up, bridge.is_up)
    assert registry.get_sample_value("intaglio_bridge_connections") == 5
    assert registry.get_sample_value("intaglio_bridge_calls_total", {"by": "bridge", "status": "OK"}) == 1
    for name, days in bridge.counts.items():
        assert registry.get_sample_value("intaglio_certificate_days_left", {"certificate": name}) == days


@pytest.mark.parametrize("fails", ["beside", "page_server", "serve_at"])
def test_whatever_ends_the_page_s_server_nothing_of_it_goes_on(place, monkeypatch, fails):
    """Its connection to the service and its chores would outlive it, and its numbers would be shown without it."""
    bridge, door = Bridge(), mock.MagicMock(visitors=5, turned_away={})
    made = {"opened_door": bridge.held("door", door), "MatchingUpstream": bridge, "bridge_app": "the bridge"}
    made |= {"opened_login": bridge.held("login", (bridge, "its chores")), "tend_login": bridge.tend_login()}
    made |= {"show": lambda: bridge.events.append("hidden"), "page_server": "a server", "serve_at": None}
    Stand(monkeypatch, "server.web.cli", made)

    def fail(*_, **__):
        raise UsageError("it cannot be served")

    async def fail_later(*_):
        for _ in range(3):
            await asyncio.sleep(0)
        fail()

    if fails == "beside":
        monkeypatch.setattr(bridge, "beside", fail)
    else:
        monkeypatch.setattr(f"server.web.cli.{fails}", fail_later if fails == "serve_at" else fail)
    result = CliRunner().invoke(cli.app, [str(word) for word in web(place)])
    assert (result.exit_code, "it cannot be served" in result.output) == (2, True)
    begun = ["tended", "login tended"] if fails == "serve_at" else []
    ended = ["tended no more", "login tended no more"] if fails == "serve_at" else []
    assert bridge.events == [
        *("door opens", "login opens", "looked"),
        *begun,
        *ended,
        *("closed", "login closes", "hidden", "door closes"),
    ]
    made["tend_login"].close()


def rows_of_web(place, words):
    port, shown = of(words, "--port"), of(words, "--metrics-port")
    yield "AddressLimits", {"rate": PeerRate(7.0, burst=84), "sessions": 11, "enrolments": 13}
    yield "opened_door", {"host": "127.0.0.1", "port": port, "in_all": IN_ALL}
    yield "show", {"host": "127.0.0.1", "port": shown}
    yield (
        "opened_login",
        {
            "directory": place / "login",
            "database": str(place / "logins-elsewhere.db"),
            "origin": "https://verify.example.org",
            "rules": place / "rules.jsonl",
            "deployment": "trial-2",
            "accepts_trials": True,
        },
    )
    yield "MatchingUpstream", {"target": "localhost:7443", "directory": place / "tls", "client": "bridge"}
    yield "bridge_app", {"limits": AddressLimits(PeerRate(7.0, burst=84), sessions=11, enrolments=13)}
    yield "page_server", {"certificate": place / "tls/server.pem", "key": place / "tls/server-key.pem"}


def test_the_page_s_server_is_set_as_its_options_say(place):
    words = web(place)
    unshown = words[: words.index("--metrics-port")]  # a server of metrics takes half a second to end
    for name, expected in rows_of_web(place, words):
        found = handed(cli.app, f"server.web.cli:{name}", *(words if name == "show" else unshown))
        assert {key: found[key] for key in expected} == expected, name


def test_each_release_that_a_page_hands_out_is_one_that_may_be_served_now(place, monkeypatch):
    words, asked = web(place), []

    def require_servable(bundle, trust, *, now):
        asked.append((bundle.release.digest, trust, abs(now - time.time()) < 60))
        if bundle.release.digest in refused:
            raise RefusedError("this release may not be served")

    monkeypatch.setattr("server.web.cli.require_servable", require_servable)
    every = [Bundle.from_bytes((place / name).read_bytes()) for name in ("release.zip", *FORMER)]
    refused = set[str]()
    site = handed(cli.app, "server.web.cli:Site.read", *words)
    assert asked == [(one.release.digest, TRUST_IN_TRIALS, True) for one in every]
    assert site["added"] == site_files(every[0], site["added"]["/deployment.json"], every[1:])
    for one in every:
        refused.clear()
        refused.add(one.release.digest)
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
        assert (result.exit_code, "this release may not be served" in result.output) == (2, True)


def test_a_call_passes_by_the_rules_of_now_and_the_certificate_that_the_service_is_shown(place, monkeypatch):
    words, asked = web(place), []
    found = handed(cli.app, "server.web.cli:bridge_app", *words[: words.index("--metrics-port")])
    monkeypatch.setattr("server.web.cli.require_no_kiosk", lambda *of: asked.append(of))
    found["require_passing"]()
    own = x509.load_pem_x509_certificate((place / "tls/bridge.pem").read_bytes())
    assert asked == [((place / "rules.jsonl").read_bytes(), own)]
    assert (found["answered"].__name__, found["upstream"].certificate) == ("answered", own)


# --------------------------------------------------------------------------------------------------- everything else
def dashboard(place, *first):
    words = (
        *first,
        *given(place, release="release.zip", log="transparency", log_policy="policy", release_trust="trust.json"),
        *given(place, rules="rules.jsonl", ledger="ledger.jsonl", federation="coordinator"),
        *("--log-database", "postgresql://log@host/log", "--deployment", "trial-2"),
        *("--certificate", place / "one.pem", "--certificate", place / "two.pem"),
        *(part for key in WITNESSES for part in ("--witness", key.to_text())),
    )
    log = LogSource(place / "transparency", "postgresql://log@host/log", place / "policy", tuple(WITNESSES))
    names = ("release.zip", "trust.json", "rules.jsonl", "ledger.jsonl", "coordinator")
    release, trust, rules, ledger, federation = (place / name for name in names)
    own = (place / "one.pem", place / "two.pem")
    return words, Sources(release, log, trust, rules, ledger, federation, own, "trial-2")


def of_pages(place):
    page, sources = dashboard(place, "dashboard", place / "out.html")
    yield page, "server.dashboard.cli:DashboardReader", {"sources": sources}
    page, sources = dashboard(place, "web", "organisation")
    page += ("--host", "127.0.0.2", "--port", 8099, "--name", "a.example", "--name", "b.example", "--every", 7.0)
    yield page, "server.dashboard.cli:DashboardReader", {"sources": sources}
    yield page, "server.dashboard.cli:FreshPage", {"every_seconds": 7.0}
    names = ["localhost", "127.0.0.1", "a.example", "b.example"]
    yield page, "server.dashboard.cli:organisation_app", {"names": names}
    yield page, "server.dashboard.cli:bound_socket", {"host": "127.0.0.2", "port": 8099}


def of_federations(place):
    folder = place / "coordinator"
    federation = "federation"
    words = (federation, "init", place / "new", "--address", "new.example.org:1443")
    yield words, "server.fleet.cli:Coordinator.create", {"folder": place / "new", "address": "new.example.org:1443"}
    words = (federation, "start", folder, "--host", "127.0.0.2")
    words += ("--metrics-port", 9002, "--metrics-host", "127.0.0.3")
    metrics = ("127.0.0.3", 9002)
    yield words, "server.fleet.cli:serve", {"host": "127.0.0.2", "port": 9443, "metrics": metrics}
    words = (federation, "invite", "north", folder, "--days", 9)
    yield words, "server.fleet.cli:Coordinator.invite", {"name": "north", "days": 9}
    words = (federation, "roster", folder, "--member", "north", "--member", "south")
    yield words, "server.fleet.cli:Coordinator.roster", {"names": ["north", "south"]}
    words = (federation, "renew", folder, "--authority")
    yield words, "server.fleet.upkeep_cli:Coordinator.renew_authority", {}
    yield words[:-1], "server.fleet.upkeep_cli:Coordinator.renew", {}
    words = (federation, "move", "new.example.org:1443", folder)
    yield words, "server.fleet.upkeep_cli:Coordinator.move", {"address": "new.example.org:1443"}

    runs = (federation, "run", folder, "--application", ".", "--config", place / "run-1.toml")
    runs += ("--config", place / "run-2.toml", "--timeout-seconds", 77)
    settings = {"output": str(place / "release-1.json"), "ledger": str(place / "ledger.jsonl")}
    carried = {"application": Path(), "settings": settings, "timeout_seconds": 77.0, "say": typer.echo}
    yield runs, "server.fleet.cli:carry_through", carried


def of_logs(place):
    words = ("log", "serve-witness", place / "witness", "--key", place / "log-1.pub", "--key", LOGS[1].to_text())
    words += ("--host", "127.0.0.2", "--port", 7101, "--peer-rate", 4.5, "--ready-file", place / "witness.json")
    serving = {"host": "127.0.0.2", "port": 7101, "rate": PeerRate(4.5, burst=9), "ready_file": place / "witness.json"}
    yield words, "server.log.witness_site:serve_witness", serving
    yield words, "server.log.cli:CheckpointFiles", {"folder": place / "witness"}
    yield words, "server.log.cli:Witness", {"logs": LOGS}
    words = ("log", "tiles", place / "tiles", *given(place, log="transparency"))
    words += ("--log-database", place / "other.db", "--every", 8)
    database = {"directory": place / "transparency", "database": str(place / "other.db")}
    yield words, "server.log.cli:opened_log", database
    yield words, "server.log.cli:write_tiles", {"folder": place / "tiles"}
    yield words, "server.log.cli:time.sleep", {"arguments": (8.0,)}
    owned = ("--database", place / "owned.db", "--key", place / "transparency/key")
    for command in (("checkpoint",), ("proof", 3), ("fsck",)):
        opened = {"database": str(place / "owned.db"), "key": place / "transparency/key"}
        yield ("log", *command, *owned), "server.log.cli:opened_log_database", opened
    yield ("log", "proof", 3, *owned), "server.log.cli:TransparencyLog.prove", {"position": 3}
    for command in (("keygen", "example.org/other", place / "other.key"), ("init", place / "a", "example.org/other")):
        yield ("log", *command, "--token", TOKEN), "server.log.cli:new_ed25519_key", {"named": TOKEN}
    words = ("log", "witness-init", place / "a", "witness.example.org/other", "--token", TOKEN)
    yield words, "server.log.cli:new_ed25519_key", {"named": TOKEN}


def of_people(place):
    words = ("pki", "init", place / "pki", "--json", *("--host", "a.example", "--host", "10.0.0.1"))
    words += ("--client", "alice", "--client", "bob", "--certificate-days", 22, "--token", TOKEN)
    pki = {"directory": place / "pki", "hosts": ["a.example", "10.0.0.1"], "clients": ["alice", "bob"], "days": 22}
    pki |= {"token": TOKEN}
    yield words, "server.people.pki_cli:write_pki", pki
    words = ("pki", "renew", place / "tls", "client", "bridge", "--ending-within", 61)
    words += ("--certificate-days", 23)
    names = {"names": ("client", "bridge"), "ending_within": dt.timedelta(days=61), "days": 23}
    yield words, "server.people.pki_cli:authority.renew", {"directory": place / "tls", **names}
    words = ("pki", "issue", place / "tls", "carol", "--certificate-days", 24)
    yield words, "server.people.pki_cli:authority.issue", {"directory": place / "tls", "name": "carol", "days": 24}
    words = ("pki", "revoke", place / "tls", "carol")
    yield words, "server.people.pki_cli:authority.revoke", {"directory": place / "tls", "name": "carol"}
    words = ("pki", "person", place / "tls", "dora", "--server", "verify.example.org:7443", "--deployment", "trial-2")
    words += given(place, database="matching.db", release="release.zip", release_trust="trust.json")
    words += ("--ticket-days", 21, "--certificate-days", 25)
    words += given(place, rules="rules.jsonl", log_policy="policy", terms="terms.json", output="dora.file")
    words += ("--passphrase-file", place / "pass")
    files = {"release.zip": "release.zip", "trust.json": "trust.json", "rules.jsonl": "rules.jsonl"}
    files |= {"log-policy": "policy", "terms.json": "terms.json"}
    person = {"path": place / "dora.file", "name": "dora", "tls": place / "tls", "server": "verify.example.org:7443"}
    person |= {"public": {name: place / file for name, file in files.items()}, "deployment": "trial-2"}
    person |= {"ticket_days": 21, "certificate_days": 25}
    yield words, "server.people.pki_cli:write_person", person

    words = ("tickets", "issue", *given(place, database="matching.db"), "--count", 2, "--days", 3)
    words += ("--client", "alice", "--page", "https://verify.example.org")
    yield words, "server.people.tickets_cli:issue_ticket", {"client": "alice"}


def of_the_service(place):
    words = ("health", "--server", "verify.example.org:7443", *given(place, tls="tls"), "--client", "bridge")
    yield words, "server.cli:client_credentials", {"directory": place / "tls", "name": "bridge"}
    health = {"target": "verify.example.org:7443", "service": "federation.wire.v1.VerificationService"}
    yield words, "server.cli:health_of", health | {"timeout_seconds": 5.0}
    words = ("database", "reconcile", place / "matching.db", *given(place, log="transparency"))
    words += ("--log-database", place / "other.db")
    database = {"directory": place / "transparency", "database": str(place / "other.db")}
    yield words, "server.cli:opened_log", database
    yield words, "server.cli:open_storage", {"database": str(place / "matching.db")}
    words = ("database", "copy", place / "matching.db", place / "copy.db")
    yield words, "server.cli:copy_file", {"source": str(place / "matching.db"), "target": place / "copy.db"}
    words = ("database", "backup", place / "backups", *given(place, database="matching.db", log="transparency"))
    words += ("--log-database", place / "other.db", "--keep-days", 33)
    backup = {"database": str(place / "matching.db"), "log_directory": place / "transparency"}
    backup |= {"folder": place / "backups", "log_database": str(place / "other.db"), "keep_days": 33}
    yield words, "server.cli:back_up", backup
    words = ("assertions", "init", place / "new", "--issuer", "https://other.example.org")
    words += ("--pseudonyms-of", place / "assertions", "--token", TOKEN)
    made = {"directory": place / "new", "address": "https://other.example.org", "pseudonyms_of": place / "assertions"}
    yield words, "server.cli:create_issuer", made | {"token": TOKEN}
    words = ("login", "init", place / "new", "--replaces", place / "login", "--es256", TOKEN, "--eddsa", OTHER_TOKEN)
    signs = {"retired": SigningKeys.read(place / "login").public_halves, "es256": TOKEN, "eddsa": OTHER_TOKEN}
    yield words, "server.login.cli:SigningKeys.generate", signs


def rows(place):
    """By the words of a command: where they lead, and what is handed on there."""
    for part in (of_pages, of_federations, of_logs, of_people, of_the_service):
        yield from part(place)


def test_the_certificates_that_are_named_are_those_whose_ends_the_log_tells(place, monkeypatch):
    monkeypatch.setattr("server.dashboard.cli.certificates_in", tuple)
    words, _ = dashboard(place, "web", "organisation")
    found = handed(cli.app, "server.dashboard.cli:DailyNotices", *words, "--port", a_free_port())
    assert found["read"]() == (place / "one.pem", place / "two.pem")
    assert abs(found["clock"]() - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=60)


async def test_the_organisation_s_page_tells_what_ends_from_its_first_moment_until_it_is_ended(monkeypatch):
    told, tick = [], asyncio.Event()

    async def sleep(seconds):
        told.append(seconds)
        await tick.wait()
        tick.clear()

    async def serve(sockets):
        told.append(sockets)
        for _ in range(2):
            for _ in range(5):
                await asyncio.sleep(0)
            tick.set()
        for _ in range(5):
            await asyncio.sleep(0)
        raise OSError("torn")

    monkeypatch.setattr(dashboard_cli, "asyncio", SimpleNamespace(create_task=asyncio.create_task, sleep=sleep))
    served = Stand(monkeypatch, "server.dashboard.cli", {"page_server": SimpleNamespace(serve=serve)})
    notices = SimpleNamespace(look=lambda: told.append("looked"))
    with pytest.raises(OSError, match="torn"):
        await dashboard_cli._serve("the page", "a socket", notices)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (served["page_server"]["app"], asyncio.all_tasks()) == ("the page", {asyncio.current_task()})
    told.remove(["a socket"])
    assert told == ["looked", 3600.0] * 3


def test_everything_is_counted_that_a_restored_database_lacked(place, monkeypatch):
    lacked = {what: number for number, what in enumerate(What, start=1) if what is not What.ERASURE}
    found = SimpleNamespace(counts=lacked, head=SimpleNamespace(size=77))
    made = {"opened_log": nullcontext("the log"), "open_storage": nullcontext("the storage"), "reconcile": found}
    seen = Stand(monkeypatch, "server.cli", made)
    told = intaglio_server("database", "reconcile", "restored.db", *given(place, log="transparency")).splitlines()
    assert told == [
        *(f"{lacked.get(what, 0)} {what.value}" for what in What),
        "restored.db is level with its log of 77 entries",
    ]
    now = seen["reconcile"].pop("now")
    assert (seen["reconcile"], abs(now - time.time()) < 60) == ({"storage": "the storage", "log": "the log"}, True)


def test_every_option_reaches_what_it_names(place):
    for words, target, expected in rows(place):
        found = handed(cli.app, target, *words)
        assert {key: found[key] for key in expected} == expected, f"{' '.join(map(str, words))}: {target}"


WITHOUT = {
    "config show": "tests/federation/commandline/test_settings.py",
    "database releases": "tests/server/test_database.py",
    "federation approve": "tests/server/fleet/test_renewal.py asks whoever sits there",
    "federation rekey": "the same",
    "federation status": "tests/server/fleet/test_status.py",
    "ledger verify": "tests/federation/privacy/test_ledger.py",
    "login register": "tests/server/login/test_cli.py",
    "pki list": "tests/server/people/test_authority.py",
    "rules init": "below",
    "rules lift": "below",
    "rules prolong": "tests/server/rules/test_prolonging.py",
    "rules register": "tests/server/rules/test_registering.py",
    "rules stop": "below",
    "tickets list": "tests/server/people/test_tickets.py",
    "tickets withdraw": "the same",
}
"""Commands whose options are looked at by what they make or print, and where."""
MOST_NEW = 24
"""How many options may be newer than this file, so that two changes at once do not stand in each other's way."""


def test_no_option_of_a_command_is_left_out(place):
    told = [matching(place), web(place), *(words for words, _, _ in rows(place))]
    missing = left_out(cli.app, told)
    left = {f"{command} {option}" for command in missing.keys() - WITHOUT.keys() for option in missing[command]}
    assert len(left) <= MOST_NEW, sorted(left)
    assert missing.keys() >= WITHOUT.keys()


def test_what_a_command_reads_and_cannot_use_is_refused_in_words_and_changes_nothing(place):
    served = [(matching(place), "server.matching.cli:_serve"), (web(place), "server.web.cli:opened_door")]
    served += [(words, target) for words, target, _ in rows(place)]
    (place / "ready.json").unlink(missing_ok=True)
    found = dict(spoiled(cli.app, served, place, "missing", "junk"))
    assert {what: end for what, end in found.items() if end not in {"2", "3", "4", "reached"}} == {}
    assert sum(end == "2" for end in found.values()) > 40


def test_the_version_of_everything_is_told_where_a_role_is_missing_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["intaglio-server", "--version"])
    program.main()
    told = versions("intaglio-server")
    assert capsys.readouterr().out.splitlines() == [f"{name} {found}" for name, found in told.items()]
    assert len(told) > 3
