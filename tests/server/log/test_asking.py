"""The log asks its witnesses: in time, all at once, and it believes nothing that does not verify."""

from __future__ import annotations

import datetime as dt
import itertools
import re
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import h11
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.log.watching import LogTrust
from federation.errors import ProofError, UsageError
from federation.transparency import KeyKind, LogPolicy, NoteSigner, SignedCheckpoint
from federation.transparency.policy import NamedWitness
from server.issuing import issue_server, make_authority
from server.log import asking
from server.log.asking import Witnesses
from server.log.sequencer import Sequencer
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from tests.asked_witness import AskedWitness, honest, response, swallowing
from tests.transparency_log import NOW, SIGNER, WITNESSES, an_addition

pytestmark = pytest.mark.integration
KEYS = [witness.key for witness in WITNESSES]
UNDATED = NoteSigner(KEYS[0].name, KeyKind.NOTE, WITNESSES[0].secret_bytes())
LONG = 30.0


@pytest.fixture
def site(tmp_path):
    """Makes witnesses and logs that ask them; what a test needs of both, and their end."""
    with ExitStack() as closing:
        yield Site(tmp_path, closing)


class Site:
    def __init__(self, folder, closing):
        self.folder, self.closing, self.now = folder, closing, NOW
        self.storage = open_log_storage(folder / "log.db")
        closing.callback(self.storage.close)

    def clock(self):
        return self.now

    def honest(self, number=0):
        return honest(WITNESSES[number], [SIGNER.key], self.folder / f"seen{number}", clock=self.clock)

    def witness(self, script):
        return self.closing.enter_context(AskedWitness(script))

    def log(self, *witnesses, threshold=None, wait_seconds=LONG, exchange_seconds=LONG):
        """A front end; its witnesses are listeners or addresses, or None for one without."""
        addresses = [getattr(one, "address", one) for one in witnesses]
        named = tuple(NamedWitness(*one) for one in zip(KEYS, addresses, strict=False))
        counted = tuple(one.key for one in named)
        policy = LogPolicy(SIGNER.key, named, counted, len(named) if threshold is None else threshold)
        asked = Witnesses(policy, clock=self.clock, wait_seconds=wait_seconds, exchange_seconds=exchange_seconds)
        self.closing.callback(asked.close)
        return TransparencyLog(
            self.storage, SIGNER, clock=self.clock, published=self.folder / "checkpoint", witnesses=asked
        )


def signers(checkpoint):
    return set(checkpoint.note.verified(KEYS))


def appended(log, number=1):
    return log.witnessed(log.append_and_sign([an_addition(number)])[1])


# ---------------------------------------------------------------------- honest witnesses
def test_each_checkpoint_is_cosigned_by_all_from_where_they_stopped(site):
    listeners = [site.witness(site.honest(number)) for number in (0, 1)]
    log = site.log(*listeners)
    for size in (1, 2, 3):
        cosigned = appended(log, size)
        assert cosigned.head.size == size
        assert signers(cosigned) == set(KEYS[:2])
        LogTrust(SIGNER.key, tuple(KEYS[:2]), threshold=2).check(cosigned, now=NOW)
    for listener in listeners:
        assert [body.partition(b"\n")[0] for body in listener.bodies] == [b"old 0", b"old 1", b"old 2"]
        assert listener.connections == 1
    assert log.silent_witnesses == {}


def test_what_was_cosigned_is_stored_and_published_for_monitors_until_the_log_grows(site):
    log = site.log(site.witness(site.honest()))
    cosigned = appended(log)
    log.keep(cosigned)
    assert log.checkpoint() == cosigned == SignedCheckpoint.from_bytes((site.folder / "checkpoint").read_bytes())
    log.append([an_addition(2)])
    before = log.checkpoint()
    log.keep(cosigned)
    assert log.checkpoint() == before
    log.ping()
    assert signers(log.checkpoint()) == {KEYS[0]}
    assert log.checkpoint().head.size == 2


def test_lines_of_witnesses_that_the_policy_names_no_more_go_when_new_ones_are_stored(site):
    log = site.log(site.witness(site.honest()))
    note = appended(log).note
    former = NoteSigner("former.example/w", KeyKind.COSIGNATURE, b"\77" * 32)
    site.storage.replace_checkpoint(lambda *_: note.with_signature(former.sign(note.text, time=NOW)).to_bytes())
    log.keep(log.witnessed())
    assert {line.name for line in log.checkpoint().note.signatures} == {SIGNER.key.name, KEYS[0].name}


def test_a_witness_is_asked_again_for_the_same_tree_when_its_line_is_a_minute_old(site):
    listener = site.witness(site.honest())
    log = site.log(listener)
    appended(log)
    for waited, asked in [(60, 1), (1, 2)]:
        site.now += waited
        cosigned = log.witnessed()
        assert len(listener.bodies) == asked
    assert cosigned.note.verified(KEYS) == {KEYS[0]: NOW + 61}


def test_a_witness_that_knows_more_or_less_than_thought_says_so_and_is_asked_from_there(site):
    listener = site.witness(site.honest())
    log = site.log(listener)
    for number in range(5):
        appended(log, number)
    again = site.log(listener)  # a server that was started anew knows nothing
    assert signers(appended(again, 5)) == {KEYS[0]}
    assert [body.partition(b"\n")[0] for body in listener.bodies[-2:]] == [b"old 0", b"old 5"]
    for file in (site.folder / "seen0").glob("*.checkpoint"):
        file.unlink()
    assert signers(appended(again, 6)) == {KEYS[0]}
    assert [body.partition(b"\n")[0] for body in listener.bodies[-2:]] == [b"old 6", b"old 0"]


def test_another_front_end_that_went_on_first_takes_the_witness_along(site):
    listener = site.witness(site.honest())
    one, two = site.log(listener), site.log(listener)
    _, behind = one.append_and_sign([an_addition(1)])
    ahead = appended(two, 2)
    cosigned = one.witnessed(behind)
    assert (cosigned.head, signers(cosigned)) == (ahead.head, {KEYS[0]})
    assert one.silent_witnesses == {}


def test_an_idle_connection_that_the_witness_closed_costs_nothing(site):
    listener = site.witness(site.honest())
    log = site.log(listener)
    appended(log, 1)
    listener.hang_up()
    assert signers(appended(log, 2)) == {KEYS[0]}
    assert listener.connections == 2


def test_a_witness_that_ends_the_connection_with_its_answer_is_asked_on_another(site):
    answer = site.honest()

    def once(body):
        status, _, rest = answer(body).partition(b"\r\n")
        return status + b"\r\nconnection: close\r\n" + rest

    listener = site.witness(once)
    log = site.log(listener)
    for size in (1, 2, 3):
        assert signers(appended(log, size)) == {KEYS[0]}
    assert listener.connections == 3


def test_news_before_an_answer_are_skipped(site):
    answer = site.honest()
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    log = site.log(site.witness(lambda body: early + answer(body)))
    assert signers(appended(log)) == {KEYS[0]}


def test_with_no_quorum_nobody_waits(site):
    gate = threading.Event()
    answer = site.honest()
    listener = site.witness(lambda body: (gate.wait(10 * LONG), answer(body))[1])
    log = site.log(listener, threshold=0)
    assert signers(appended(log)) == set()
    assert log.silent_witnesses == {}  # whom a round had waited for in vain would be there
    gate.set()


# ---------------------------------------------------------------------- k of n
def test_enough_of_them_are_enough_and_the_late_line_is_there_next_time(site):
    gate = threading.Event()
    late = site.honest(2)
    listeners = [site.witness(site.honest(0)), site.witness(site.honest(1))]
    listeners.append(site.witness(lambda body: (gate.wait(10 * LONG), late(body))[1]))
    log = site.log(*listeners, threshold=2)
    assert signers(appended(log)) == set(KEYS[:2])
    assert log.silent_witnesses == {}  # as above
    gate.set()
    deadline = time.monotonic() + LONG
    while signers(log.witnessed()) != set(KEYS) and time.monotonic() < deadline:
        pass
    assert signers(log.witnessed()) == set(KEYS)


def test_two_lines_of_one_witness_count_once(site):
    answer = site.honest()

    def twice(body):
        line = answer(body).partition(b"\r\n\r\n")[2]
        return response(200, line + line)

    log = site.log(site.witness(twice), site.witness(lambda _: response(503)), threshold=2)
    cosigned = appended(log)
    assert signers(cosigned) == {KEYS[0]}
    with pytest.raises(ProofError, match="1 witnesses signed"):
        LogTrust(SIGNER.key, tuple(KEYS[:2]), threshold=2).check(cosigned, now=NOW)


def test_lines_of_keys_that_nobody_named_are_ignored_wherever_they_stand(site):
    answer = site.honest()

    def among_strangers(body):
        line = answer(body).partition(b"\r\n\r\n")[2]
        stranger = a_line(WITNESSES[2], "something else\n")
        return response(200, stranger + line + stranger)

    cosigned = appended(site.log(site.witness(among_strangers)))
    assert {line.name for line in cosigned.note.signatures} == {SIGNER.key.name, KEYS[0].name}
    assert signers(cosigned) == {KEYS[0]}


def test_a_log_that_cannot_ask_as_many_as_its_devices_wait_for_does_not_start(site):
    with pytest.raises(UsageError, match="fewer have an address"):
        site.log("http://127.0.0.1:1", None, threshold=2)


# ---------------------------------------------------------------------- dead, slow and lying ones
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def a_line(signer, text, *, time=NOW):
    return f"{signer.sign(text, time=time).to_line()}\n".encode()


def over(change):
    """A script: what `change` makes of the text that was to be signed."""
    return lambda body: change(body.partition(b"\n\n")[2].decode().rpartition("\n\n")[0] + "\n")


LIES = {
    "nothing": lambda _: None,
    "no HTTP": lambda _: b"hello\r\n\r\n",
    "no line": lambda _: response(200),
    "nonsense": lambda _: response(200, b"\xff\x00nonsense\n"),
    "an error": lambda _: response(500, b"sorry"),
    "somewhere else": lambda _: response(302, headers=("location: http://127.0.0.1:1/",)),
    "another key": over(lambda text: response(200, a_line(WITNESSES[1], text))),
    "another tree": over(lambda text: response(200, a_line(WITNESSES[0], text.replace("faces\n", "faces\n9")))),
    "another origin": over(lambda text: response(200, a_line(WITNESSES[0], text.replace("faces", "others")))),
    "of 1970": over(lambda text: response(200, a_line(WITNESSES[0], text, time=0))),
    "of an hour ago": over(lambda text: response(200, a_line(WITNESSES[0], text, time=NOW - 3600))),
    "of the future": over(lambda text: response(200, a_line(WITNESSES[0], text, time=NOW + 3600))),
    "no date": over(lambda text: response(200, f"{UNDATED.sign(text).to_line()}\n".encode())),
    "its size is the one that was named": lambda body: response(409, body[4:].partition(b"\n")[0] + b"\n"),
    "a size that is none": lambda _: response(409, b"-1\n"),
    "a size beyond numbers": lambda _: response(409, b"9" * 5000),
    "a size beyond the log": lambda _: response(409, b"%d\n" % (1 << 62)),
    "endless": lambda _: (b"HTTP/1.1 200 OK\r\n\r\n", *itertools.repeat(bytes(4096), 1000)),
    "endless headers": lambda _: (b"HTTP/1.1 200 OK\r\n", *itertools.repeat(b"x: " + b"y" * 4000 + b"\r\n", 1000)),
    "endless news": lambda _: itertools.repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n", 100_000),
    "too long": lambda _: response(200, bytes(40_000)),
}


SAID = {
    "nothing": "cannot be reached: ",
    "no HTTP": "cannot be reached: RemoteProtocolError",
    "no line": "a signature line has a dash, a name and a signature",
    "an error": "answers with status 500",
    "somewhere else": "answers with status 302",
    "another key": "answers without a cosignature of its key",
    "of an hour ago": "dates its cosignature otherwise than now; check both clocks",
    "of the future": "dates its cosignature otherwise than now; check both clocks",
    "its size is the one that was named": "contradicts itself about the entries that it has seen",
    "a size beyond the log": f"says that it has seen {1 << 62} entries, and was asked about 1",
    "endless": "answers with more than 32768 bytes",
    "endless headers": "cannot be reached: RemoteProtocolError|answers with more than 32768 bytes",
    "too long": "answers with more than 32768 bytes",
}


@pytest.mark.parametrize("lie", SAID)
def test_what_is_wrong_with_a_witness_is_said(site, lie):
    log = site.log(site.witness(LIES[lie]))
    appended(log)
    assert re.match(SAID[lie], log.silent_witnesses[KEYS[0].name]), log.silent_witnesses


@pytest.mark.parametrize(("apart", "counts"), [(-61, False), (-60, True), (60, True), (61, False)])
def test_a_cosignature_is_dated_within_a_minute_of_now(site, apart, counts):
    dated = over(lambda text: response(200, a_line(WITNESSES[0], text, time=NOW + apart)))
    assert (signers(appended(site.log(site.witness(dated)))) == {KEYS[0]}) is counts


def test_a_witness_is_asked_again_once_its_line_is_older_than_a_minute(site):
    listener = site.witness(site.honest())
    log = site.log(listener)
    appended(log)
    for later, asked in ((60, 1), (61, 2), (61, 2)):
        site.now = NOW + later
        log.witnessed()
        assert len(listener.bodies) == asked


@pytest.mark.parametrize(
    ("address", "reached", "target", "named"),
    [
        ("http://w.example", ("w.example", 80), "/add-checkpoint", "w.example"),
        ("https://w.example", ("w.example", 443), "/add-checkpoint", "w.example"),
        ("http://w.example:8080/some/where", ("w.example", 8080), "/some/where/add-checkpoint", "w.example:8080"),
        ("https://w.example:8443/a", ("w.example", 8443), "/a/add-checkpoint", "w.example:8443"),
    ],
)
def test_a_witness_is_asked_at_its_own_port_and_path_by_its_own_name(monkeypatch, address, reached, target, named):
    ours, theirs = socket.socketpair()
    asked, heard = [], []

    class Plain:
        def wrap_socket(self, made, *, server_hostname):
            asked.append(server_hostname)
            return made

    def connected(host, port, ends):
        asked.append((host, port))
        return ours

    monkeypatch.setattr(asking, "_connected", connected)
    monkeypatch.setattr(asking.ssl, "create_default_context", Plain)
    monkeypatch.setattr(ours.__class__, "setsockopt", lambda *_: None, raising=False)

    def answer():
        heard.append(theirs.recv(65_536))
        theirs.sendall(response(200, b"yes"))

    thread = threading.Thread(target=answer)
    thread.start()
    assert asking._Wire(address, LONG).post(b"a question") == (200, b"yes")
    thread.join()
    for end in (ours, theirs):
        end.close()
    assert asked == [reached, *(["w.example"] if address.startswith("https") else [])]
    head, _, body = heard[0].partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == f"post {target} http/1.1"
    assert {f"host: {named}", "content-length: 10", "content-type: text/plain; charset=utf-8"} <= set(lines[1:])
    assert body == b"a question"


def test_a_witness_that_fails_again_on_another_connection_leaves_none_open(monkeypatch):
    pairs = [socket.socketpair() for _ in range(2)]
    waiting = iter(pairs)
    monkeypatch.setattr(asking, "_connected", lambda *_: next(waiting)[0])
    monkeypatch.setattr(socket.socket, "setsockopt", lambda *_: None, raising=False)
    wire = asking._Wire("http://w.example", LONG)
    (_, first), (_, second) = pairs
    first.sendall(response(200, b"yes"))
    assert wire.post(b"a question")[1] == b"yes"
    first.close()
    second.sendall(b"HTTP/1.1 nonsense\r\n\r\n")
    with pytest.raises(h11.RemoteProtocolError, match="illegal status line"):
        wire.post(b"another")
    assert [ours.fileno() for ours, _ in pairs] == [-1, -1]
    second.close()


@pytest.mark.parametrize("lie", LIES)
def test_a_witness_that_lies_gives_no_line_is_named_and_holds_nobody_up(site, lie):
    log = site.log(site.witness(LIES[lie]), site.witness(site.honest(1)), threshold=1)
    cosigned = appended(log)
    while not log.silent_witnesses:
        cosigned = log.witnessed()
    assert signers(cosigned) == {KEYS[1]}
    assert list(log.silent_witnesses) == [KEYS[0].name]
    assert signers(appended(log, 2)) == {KEYS[1]}
    LogTrust(SIGNER.key, tuple(KEYS[:2]), threshold=1).check(log.witnessed(), now=NOW)


def test_a_witness_that_is_not_there_is_not_waited_for_and_comes_back(site):
    address = closed_port()
    log = site.log(address)
    assert signers(appended(log, 1)) == set()
    assert "cannot be reached" in log.silent_witnesses[KEYS[0].name]
    site.closing.enter_context(AskedWitness(site.honest(), port=int(address.rpartition(":")[2])))
    deadline = time.monotonic() + LONG
    while log.silent_witnesses and time.monotonic() < deadline:
        log.witnessed()
    assert signers(appended(log, 2)) == {KEYS[0]}


def authority(folder):
    """An authority that this test's process trusts when it is told to, and its file."""
    made, file = make_authority(now=dt.datetime.now(dt.UTC)), folder / "authority.pem"
    file.write_bytes(made.certificate.public_bytes(Encoding.PEM))
    return made, file


def shown(issued, folder):
    """What a listener shows who calls it over https."""
    context, file = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), folder / "shown.pem"
    key = issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(key + issued.certificate.public_bytes(Encoding.PEM))
    context.load_cert_chain(file)
    return context


def test_a_witness_is_asked_over_https_on_one_connection(site, tmp_path, monkeypatch):
    trusted, file = authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    tls = shown(issue_server(trusted, ["127.0.0.1"], now=dt.datetime.now(dt.UTC)), tmp_path)
    listener = site.closing.enter_context(AskedWitness(site.honest(), tls=tls))
    log = site.log(listener)
    for size in (1, 2):
        assert signers(appended(log, size)) == {KEYS[0]}
    assert (listener.connections, len(listener.bodies), log.silent_witnesses) == (1, 2, {})


@pytest.mark.parametrize(
    ("host", "is_trusted", "years", "why"),
    [
        ("127.0.0.1", False, 0, "self-signed|unable to get local issuer"),
        ("witness.example.org", True, 0, "IP address mismatch"),
        ("127.0.0.1", True, 3, "expired"),
    ],
    ids=["of an authority that nobody here knows", "of another host", "that has ended"],
)
def test_a_witness_with_a_certificate_is_silent_and_sees_nothing(
    site, tmp_path, monkeypatch, host, is_trusted, years, why
):
    issuing, file = authority(tmp_path)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    now = dt.datetime.now(dt.UTC) - years * dt.timedelta(days=366)
    listener = site.closing.enter_context(
        AskedWitness(site.honest(), tls=shown(issue_server(issuing, [host], now=now), tmp_path))
    )
    log = site.log(listener)
    assert signers(appended(log)) == set()
    assert re.search(f"shows a certificate that is not trusted here: .*({why})", log.silent_witnesses[KEYS[0].name])
    assert listener.bodies == []


def test_a_witness_that_hangs_is_waited_for_once_and_has_one_thread_and_one_request(site):
    gate = threading.Event()
    listener = site.witness(lambda _: None if gate.wait(LONG) else response(500))
    log = site.log(listener, wait_seconds=0.2)
    site.closing.callback(gate.set)
    before = threading.active_count()
    begun = time.monotonic()
    assert signers(appended(log, 0)) == set()
    assert time.monotonic() - begun >= 0.2
    assert log.silent_witnesses == {KEYS[0].name: "did not answer in time"}
    threads = threading.active_count()
    log._witnesses._wait_seconds = 1000.0  # from now on, whoever waits is found by the test's own time limit
    for number in range(1, 200):
        assert signers(appended(log, number)) == set()
    assert threading.active_count() == threads <= before + 3
    assert len(listener.bodies) == 1
    (asked,) = log._witnesses._asked
    assert asked.waiting.head.size == 200


def test_a_round_ends_at_its_deadline(site, monkeypatch):
    gate, now = threading.Event(), [0.0]
    log = site.log(site.witness(lambda _: None if gate.wait(LONG) else response(500)), wait_seconds=1.0)
    site.closing.callback(gate.set)  # before the listener is closed, which waits for it
    changed = log._witnesses._changed
    original = changed.wait

    def wait(seconds=None):
        if seconds is None:
            return original()
        now[0] += max(seconds, 0.25)
        return False

    monkeypatch.setattr(changed, "wait", wait)
    monkeypatch.setattr("server.log.asking.time", SimpleNamespace(monotonic=lambda: now[0]))
    assert signers(appended(log)) == set()
    assert now == [1.0]
    monkeypatch.undo()


def test_a_byte_now_and_then_does_not_keep_a_request_open(site):
    gate = threading.Event()

    def drip(_):
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
        while not gate.wait(0.02):
            yield b"x"

    log = site.log(site.witness(drip), exchange_seconds=0.3)
    site.closing.callback(gate.set)
    assert signers(appended(log)) == set()
    assert log.silent_witnesses == {KEYS[0].name: "cannot be reached: TimeoutError"}


def test_a_name_with_many_addresses_that_swallow_what_they_are_sent_takes_the_time_of_one(site, monkeypatch):
    with swallowing() as address:
        many = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address)] * 9
        original, tried = socket.socket.connect, []
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: many)
        monkeypatch.setattr(socket.socket, "connect", lambda *a: (tried.append(a[1]), original(*a))[1])
        log = site.log(f"http://many.example:{address[1]}", exchange_seconds=0.3)
        assert signers(appended(log)) == set()
        assert log.silent_witnesses == {KEYS[0].name: "cannot be reached: TimeoutError"}
        assert tried == [address]


def test_an_address_where_nobody_listens_is_followed_by_the_next(site, monkeypatch):
    listener = site.witness(site.honest())
    addresses = [("127.0.0.1", int(one.rpartition(":")[2])) for one in (closed_port(), listener.address)]
    both = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert signers(appended(site.log(f"http://two.example:{addresses[1][1]}"))) == {KEYS[0]}


def test_a_witness_that_claims_to_have_seen_more_than_there_is_is_said_to(site):
    log = site.log(site.witness(LIES["a size beyond the log"]))
    appended(log)
    assert f"says that it has seen {1 << 62} entries" in log.silent_witnesses[KEYS[0].name]


def test_an_honest_witness_does_not_cosign_a_log_that_was_put_back(site, tmp_path):
    listener = site.witness(site.honest())
    log = site.log(listener)
    for number in range(3):
        appended(log, number)
    site.storage = open_log_storage(tmp_path / "other.db")
    site.closing.callback(site.storage.close)
    site.folder = tmp_path / "other"
    site.folder.mkdir()
    forked = site.log(listener)
    for number in range(10, 15):
        assert signers(appended(forked, number)) == set()
    deadline = time.monotonic() + LONG  # who is silent is asked, and not waited for
    while "status 422" not in forked.silent_witnesses[KEYS[0].name] and time.monotonic() < deadline:
        assert signers(forked.witnessed()) == set()
    assert "status 422" in forked.silent_witnesses[KEYS[0].name]


def test_closing_ends_the_threads_and_a_round_after_it_waits_for_nothing(site):
    before = threading.active_count()
    listener = site.witness(site.honest())
    log = site.log(listener)
    appended(log)
    log._witnesses.close()
    assert signers(appended(log, 2)) == set()
    listener.close()
    assert threading.active_count() == before


# ---------------------------------------------------------------------- in the sequencer
async def test_everybody_of_a_batch_gets_a_proof_under_the_cosigned_checkpoint(site):
    log = site.log(site.witness(site.honest()))
    async with Sequencer(log) as sequencer:
        logged = await sequencer.add_and_read([an_addition(1)], lambda at, under: log.prove(at.start, under))
    logged.check_inclusion()
    assert signers(logged.checkpoint) == {KEYS[0]}
    assert signers(log.checkpoint()) == {KEYS[0]}


async def test_a_batch_begins_no_earlier_than_asked_for_and_closing_waits_for_no_timer(site):
    log = site.log(threshold=0)
    begun = time.monotonic()
    async with Sequencer(log, batch_seconds=0.2) as sequencer:
        for number in range(3):
            await sequencer.add(an_addition(number))
        assert time.monotonic() - begun >= 0.4
        slow = Sequencer(log, batch_seconds=1000.0)
        async with slow:
            await slow.add(an_addition(7))
    assert time.monotonic() - begun < 100
