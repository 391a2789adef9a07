"""A device that loses power at any step of a command: the same command, given again, goes on."""

from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
import pytest
from typer.testing import CliRunner

from client import cli
from client.connection import Connection
from client.device import pictures
from client.wallet import sealed
from client.wallet.opening import PASSPHRASE_VARIABLE
from client.wallet.wallet import EnrolmentState, read_wallet
from federation.errors import RefusedError
from federation.sealing import ScryptCost
from federation.wire.v1 import verification_pb2 as pb
from server.storage.sqlstorage import open_storage
from tests.bundles import a_bundle
from tests.bundles import signed as audited
from tests.running import (
    PURPOSE,
    RunningServer,
    a_face,
    a_pki,
    a_release,
    a_service,
    a_ticket,
    an_issuer,
    public_rules,
    write_release,
    write_rules,
)

pytestmark = pytest.mark.integration

PASSPHRASE = "correct horse battery"  # noqa: S105 - made up for the tests
_HEADER_BYTES = 8 + 32  # of a template message: preamble and salt; x follows


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


class Power:
    """Counts what a command does outside its own memory, and cuts the power before or after one such step."""

    def __init__(self, monkeypatch):
        self.steps, self.cut_at, self.templates = 0, None, {}
        write, call = sealed.replace_file, Connection._call_once

        def cut_write(path, data):
            self._step()
            write(path, data)
            self._step()

        def cut_call(connection, method, request):
            self._step()
            answer = call(connection, method, request)
            if isinstance(request, pb.SubmitProbeRequest) and request.change.template:
                self.templates[request.change.template] = request.change.device_public_key
            self._step()
            return answer

        monkeypatch.setattr(sealed, "replace_file", cut_write)
        monkeypatch.setattr(Connection, "_call_once", cut_call)

    def _step(self):
        self.steps += 1
        if self.steps == self.cut_at:
            raise PowerCut


@pytest.fixture(scope="module")
def operator(tmp_path_factory, workers):
    directory = tmp_path_factory.mktemp("operator")
    a_pki(directory / "tls")
    write_release(directory)
    write_rules(directory)
    rules = public_rules((directory / "rules.jsonl").read_bytes())
    with open_storage(directory / "matching.db") as storage:
        service = a_service(a_release(), storage, workers, rules, directory, issuer=an_issuer())
        with RunningServer(service, directory / "tls") as server:
            yield directory, server, storage


NEW = a_release(301)


@pytest.fixture(scope="module")
def newer(operator, workers):
    """The same operator's service of another release, to which people come over."""
    directory, _, storage = operator
    (directory / "new.zip").write_bytes(audited(a_bundle(NEW)).to_bytes())
    rules, former = public_rules((directory / "rules.jsonl").read_bytes()), (audited(a_bundle()),)
    service = a_service(NEW, storage, workers, rules, directory, former=former, issuer=an_issuer(a_bundle(NEW)))
    with RunningServer(service, directory / "tls") as server:
        yield server


@pytest.fixture
def power(monkeypatch):
    monkeypatch.setattr(
        ScryptCost, "derive_key", lambda _, text, salt: hashlib.sha256(salt + text.encode()).digest()
    )  # each step is a run of its own, and the work of scrypt is shown elsewhere

    def embed(named, *, left=None, **_):
        faces = [a_face(*map(int, file.name.split("-"))) for file in named.files]
        return faces if left is None else [*faces, faces[-1]]

    monkeypatch.setattr(pictures, "embed", embed)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    return Power(monkeypatch)


class Person:
    """One wallet, and the commands about it."""

    def __init__(self, operator, directory, power):
        self.files, self.server, self.storage = operator
        self.directory, self.power = directory, power
        directory.mkdir()

    def run(self, *arguments, wallet="w"):
        result = CliRunner().invoke(cli.app, [*map(str, arguments), "--wallet", str(self.directory / wallet)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def run_with_a_cut(self, step, *arguments):
        self.power.steps, self.power.cut_at = 0, step
        with pytest.raises(PowerCut):
            self.run(*arguments)
        self.power.cut_at = None

    @property
    def there(self):
        return ["--server", self.server.target, "--tls", self.files / "tls"]

    @property
    def with_a_face(self):
        files = {"release": "release.zip", "release-trust": "trust.json", "rules": "rules.jsonl"}
        options = [part for name, file in files.items() for part in (f"--{name}", self.files / file)]
        return [
            *self.there,
            *options,
            "--log-policy",
            self.files / "transparency" / "policy",
            "--model",
            "made-up.onnx",
        ]

    def enrol(self):
        """With a ticket, which is good for one enrolment whatever happened before it."""
        ticket = ["--ticket", a_ticket(self.storage).reveal()]
        return ["enrol", "1-0", "1-1", *self.with_a_face, "--terms", self.files / "terms.json", "--agree", *ticket]

    def renew(self):
        return ["renew", "1-2", "1-3", "--into", self.directory / "second", *self.with_a_face, "--agree"]

    def come_over(self, *pictures):
        """At the service of the other release, where the wallet of before enrolled at this one's."""
        moved = ["--into", self.directory / "second", "--release", self.files / "new.zip"]
        former = ["--former-release", self.files / "release.zip"]
        return ["renew", *(pictures or ("1-2", "1-3")), *self.with_a_face, *moved, *former, "--agree"]

    def renew_consent(self):
        return ["receipts", "renew", "1-2", *self.with_a_face, "--days", "30", "--agree"]

    def wallet(self, name="w"):
        return read_wallet(self.directory / name, PASSPHRASE)

    def verifies(self, name="w", release="release.zip"):
        options = [*self.with_a_face, "--release", self.files / release]
        return self.run("verify", "1-4", *options, wallet=name).exit_code == 0


@pytest.fixture
def people(operator, tmp_path, power):
    return lambda number: Person(operator, tmp_path / str(number), power)


def steps_of(power, person, *arguments):
    """How many steps a command has when nothing happens."""
    power.steps = 0
    assert person.run(*arguments).exit_code == 0
    return power.steps


def require_fresh_secrets(power):
    """No two templates that ever left share seed and pad: under one of both, one picture would give one string."""
    strings = [np.unpackbits(np.frombuffer(t, np.uint8, offset=_HEADER_BYTES)) for t in power.templates]
    assert len(strings) > 2
    for left, right in combinations(strings, 2):
        assert 0.4 < np.mean(left != right) < 0.6


def test_an_enrolment_goes_on_after_a_power_cut_at_any_step(people, power):
    person = people(0)
    person.run("wallet", "create")
    steps = steps_of(power, person, *person.enrol())
    assert steps == 2 * (3 + 3)  # calls, and writes of the wallet, each with a cut before it and after it
    for step in range(1, steps + 1):
        person = people(step)
        person.run("wallet", "create")
        typed = person.enrol()
        person.run_with_a_cut(step, *typed)
        if person.wallet().enrolment is None or person.wallet().enrolment.state is EnrolmentState.STARTED:
            again = person.run(*typed)
            assert again.exit_code == 0, (step, again.output)
        assert person.wallet().enrolment.state is EnrolmentState.ENROLLED
        assert person.verifies(), step
        assert person.storage.tickets(now=0) == []
    require_fresh_secrets(power)


def test_a_renewal_goes_on_after_a_power_cut_at_any_step(people, power):
    person = people(0)
    person.run("wallet", "create")
    person.run(*person.enrol())
    steps = steps_of(power, person, *person.renew())
    assert steps == 2 * (3 + 6)
    for step in range(1, steps + 1):
        person = people(step)
        person.run("wallet", "create")
        person.run(*person.enrol())
        old = person.wallet().key_id
        person.run_with_a_cut(step, *person.renew())
        if person.wallet().enrolment.state is not EnrolmentState.REVOKED:
            assert person.wallet().template_secret is not None
            again = person.run(*person.renew())
            assert again.exit_code == 0, (step, again.output)
        assert person.wallet().enrolment.state is EnrolmentState.REVOKED
        assert person.wallet().template_secret is None
        assert person.storage.template(old) is None
        with pytest.raises(RefusedError, match=r"this key is enrolled already"):
            person.storage.require_new(old)
        assert person.wallet("second").enrolment.state is EnrolmentState.ENROLLED
        assert person.verifies("second"), step
    require_fresh_secrets(power)


def come_over_with_a_cut(people, power, newer, step):
    """Enrols at the one service, comes over at the other, loses power, and types the same again."""
    person = people(step)
    person.run("wallet", "create")
    person.run(*person.enrol())
    old, person.server = person.wallet().key_id, newer
    account = person.storage.template(old).account
    person.run_with_a_cut(step, *person.come_over())
    if person.wallet().enrolment.state is not EnrolmentState.REVOKED:
        assert person.wallet().template_secret is not None
        again = person.run(*person.come_over())
        assert again.exit_code == 0, (step, again.output)
    assert (person.wallet().enrolment.state, person.wallet().template_secret) == (EnrolmentState.REVOKED, None)
    (stored,) = person.storage.devices(account)
    assert (stored.key_id, stored.release_digest.hex()) == (person.wallet("second").key_id, NEW.digest)
    assert person.wallet("second").enrolment.state is EnrolmentState.ENROLLED
    assert person.verifies("second", "new.zip"), step


@pytest.mark.parametrize("step", [3, 13])
def test_coming_over_goes_on_after_a_power_cut(people, power, newer, step):
    """After the new wallet was kept, and when the last answer is lost."""
    come_over_with_a_cut(people, power, newer, step)


@pytest.mark.slow
def test_coming_over_goes_on_after_a_power_cut_at_any_step(people, power, newer):
    for step in range(1, 2 * (3 + 6) + 1):
        come_over_with_a_cut(people, power, newer, step)
    require_fresh_secrets(power)


def test_what_the_command_says_to_whom_it_does_not_let_over(people, newer):
    person = people(0)
    person.run("wallet", "create")
    person.run(*person.enrol())
    before, person.server = person.storage.template(person.wallet().key_id), newer
    unnamed = person.run(*person.come_over()[:-3], "--agree")
    assert (unnamed.exit_code, "name that one with --former-release" in unnamed.stderr) == (2, True)
    assert "comes over with `intaglio renew" in person.run("verify", "1-4", *person.with_a_face).stderr
    for faces, code, words in ((("2-2", "2-3"), 1, "not renewed"), (("1-2", "2-3"), 2, "does not match the others")):
        refused = person.run(*person.come_over(*faces))
        assert (refused.exit_code, words in refused.output) == (code, True), refused.output
    assert person.storage.template(before.key_id) == before
    assert person.wallet().enrolment.state is EnrolmentState.ENROLLED
    assert person.run(*person.come_over()).exit_code == 0
    assert person.storage.template(person.wallet("second").key_id).account == before.account


def test_a_renewed_consent_goes_on_after_a_power_cut_at_any_step(people, power):
    person = people(0)
    person.run("wallet", "create")
    person.run(*person.enrol())
    steps = steps_of(power, person, *person.renew_consent())
    assert steps == 2 * (4 + 4)
    for step in range(1, steps + 1):
        person = people(step)
        person.run("wallet", "create")
        person.run(*person.enrol())
        person.run_with_a_cut(step, *person.renew_consent())
        again = person.run(*person.renew_consent())
        assert again.exit_code == 0, (step, again.output)
        wallet = person.wallet()
        assert wallet.enrolment.receipt == person.storage.template(wallet.key_id).receipts
        assert len(wallet.enrolment.receipt.splitlines()) in {2, 3}  # 3: the first run had renewed
        assert person.verifies(), step
    assert PURPOSE in person.wallet().enrolment.require_consent().current.terms.purposes


def test_a_wallet_that_is_enrolled_beside_the_old_one_is_no_renewal_of_it(people):
    """Else one typing error would revoke a template that nobody renewed."""
    person = people(0)
    for name in ("w", "second"):
        person.run("wallet", "create", wallet=name)
        assert person.run(*person.enrol(), wallet=name).exit_code == 0
    refused = person.run(*person.renew())
    assert (refused.exit_code, "enrolled beside" in refused.stderr) == (2, True)
    assert [person.wallet(name).enrolment.state for name in ("w", "second")] == [EnrolmentState.ENROLLED] * 2
    assert person.verifies()
