"""A release is what its provenance says: two builds compared, contents listed, and whatever is altered is found."""

import base64
import hashlib
import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from examples import publishing
from federation.errors import ProofError
from tests.agreeing import public

ROOT = Path(__file__).parents[2]
KEY, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
COMMIT = "ab" * 20


@pytest.fixture
def published(tmp_path):
    """Two files with their provenance."""
    for name in ("one.whl", "two.json"):
        (tmp_path / name).write_text(name)
    statement = publishing.statement_of(tmp_path.iterdir(), commit=COMMIT, version="1.2.3")
    (tmp_path / publishing.PROVENANCE).write_bytes(publishing.signed_by(statement, KEY))
    return tmp_path


def test_a_provenance_names_files_commit_and_locks_in_the_words_of_slsa(published):
    statement = publishing.statement_in((published / publishing.PROVENANCE).read_bytes(), KEY.public_key())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [
        {"name": name, "digest": {"sha256": hashlib.sha256(name.encode()).hexdigest()}}
        for name in ("one.whl", "two.json")
    ]
    build = statement["predicate"]["buildDefinition"]
    assert build["externalParameters"] == {"version": "1.2.3"}
    source, *locks = build["resolvedDependencies"]
    assert source == {"name": "source", "digest": {"gitCommit": COMMIT}}
    assert {each["name"] for each in locks} == set(publishing.LOCKS)
    assert publishing.require_published(published, KEY.public_key()) == ["one.whl", "two.json"]


def test_the_envelope_is_dsse_s():
    """The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, with this payload type."""
    envelope = json.loads(publishing.signed_by({"a": "b"}, KEY))
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    covered = b"DSSEv1 28 application/vnd.in-toto+json 9 " + b'{"a":"b"}'
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    KEY.public_key().verify(signature, covered)


@pytest.mark.parametrize(
    "alter",
    [
        lambda folder: (folder / "one.whl").write_text("another"),
        lambda folder: (folder / "two.json").unlink(),
        lambda folder: (folder / "three.txt").touch(),
        lambda folder: (folder / "one.whl").rename(folder / "four.whl"),
    ],
    ids=["altered", "gone", "more", "renamed"],
)
def test_a_file_that_is_another_is_found(published, alter):
    alter(published)
    with pytest.raises(ProofError, match="not as the provenance says: "):
        publishing.require_published(published, KEY.public_key())


@pytest.mark.parametrize(
    "alter",
    [
        lambda envelope: envelope | {"payload": envelope["payload"].replace("e", "f")},
        lambda envelope: envelope | {"payloadType": "text/plain"},
        lambda envelope: envelope | {"signatures": []},
        lambda _: [],
    ],
    ids=["payload", "type", "unsigned", "none"],
)
def test_an_envelope_that_is_another_is_refused(published, alter):
    path = published / publishing.PROVENANCE
    path.write_text(json.dumps(alter(json.loads(path.read_text()))))
    with pytest.raises(ProofError, match=r"not signed by this key|something else than a statement"):
        publishing.require_published(published, KEY.public_key())


def test_a_stranger_s_signature_is_refused(published):
    with pytest.raises(ProofError, match="not signed by this key"):
        publishing.require_published(published, STRANGER.public_key())


def test_a_byte_that_differs_between_two_builds_is_named(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "assets").mkdir(parents=True)
        (tmp_path / name / "index.html").write_text("same")
        (tmp_path / name / "assets/a.js").write_text(name)
    (tmp_path / "other/more").touch()
    assert publishing.differences(tmp_path / "one", tmp_path / "other") == ["assets/a.js", "more"]
    assert publishing.differences(tmp_path / "one", tmp_path / "one") == []


def test_what_is_inside_are_the_roles_packages_and_what_these_need():
    listed = dict(each.split("==") for each in publishing.packages_of(["service"]))
    assert {"grpcio", "tenseal", "cryptography", "anyio"} <= listed.keys()
    assert not {"torch", "pytest", "intaglio"} & listed.keys()
    assert {"torch", "flwr"} <= {each.split("==")[0] for each in publishing.packages_of(["train", "device", "service"])}


FILES = {"index.html": b"a page", "assets/a.js": b"a program"}
LISTED = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(FILES.items()))


def a_site(**changes):
    """What an address serves: the page at / too, and its own list. A change of None takes a file away."""
    served = FILES | {"": FILES["index.html"], publishing.PAGE_LIST: LISTED.encode()} | changes

    def read(path):
        if served.get(path[1:]) is None:
            raise OSError("404")
        return served[path[1:]]

    return read


def test_a_page_that_is_served_as_it_was_published_is_taken_for_it():
    assert publishing.require_served(LISTED, a_site()) == 2


@pytest.mark.parametrize("name", ["index.html", "", "assets/a.js", publishing.PAGE_LIST])
@pytest.mark.parametrize("other", [b"another", None], ids=["altered", "gone"])
def test_a_file_of_a_page_that_is_served_otherwise_is_named(name, other):
    with pytest.raises(ProofError, match=rf"not as it was published: /{name}$"):
        publishing.require_served(LISTED, a_site(**{name: other}))


class ForBrowsersAlone(BaseHTTPRequestHandler):
    """Serves another page to whoever navigates in a browser, and what was published to whoever compares."""

    def do_GET(self):
        path = self.path[1:] or "index.html"
        data = (FILES | {publishing.PAGE_LIST: LISTED.encode()})[path]
        is_visitor = self.headers["Sec-Fetch-Dest"] == "document" and "Mozilla" in self.headers["User-Agent"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"another" if is_visitor and path == "index.html" else data)

    def log_message(self, *_):
        """Not into the tests' output."""


@pytest.mark.enable_socket
@pytest.mark.integration
def test_a_page_that_only_browsers_get_is_found_by_who_asks_as_one():
    with HTTPServer(("127.0.0.1", 0), ForBrowsersAlone) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            with pytest.raises(ProofError, match=r"not as it was published: /, /index\.html$"):
                publishing.require_served(LISTED, lambda path: publishing.read_as_a_browser(address, path))
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is missing")
def test_a_release_is_built_twice_with_equal_bytes_listed_and_signed(tmp_path):
    (tmp_path / "key.pem").write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (ROOT / "dist").mkdir(exist_ok=True)
    done = CliRunner().invoke(
        publishing.app, ["build", "--key", str(tmp_path / "key.pem"), "--target", str(tmp_path / "release")]
    )
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "are equal, byte for byte" in done.output
    told = CliRunner().invoke(publishing.app, ["verify", str(tmp_path / "release"), "--key", public(KEY).hex()])
    assert told.exit_code == 0, told.output
    subprocess.run(["sha256sum", "--check", "--strict", publishing.SUMS], cwd=tmp_path / "release", check=True)
    names = {path.name.split("-")[0] + path.suffix for path in (tmp_path / "release").iterdir()}
    assert {"intaglio.whl", "intaglio.gz", "intaglio.json", "intaglio.sha256"} <= names
    for path in (tmp_path / "release").glob("*.cdx.json"):
        assert json.loads(path.read_text())["bomFormat"] == "CycloneDX"
