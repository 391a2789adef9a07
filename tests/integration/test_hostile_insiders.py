"""S11: whoever has the server, its memory, its disk and everything that reaches it, has no face, no code and no key.

It has padded templates, and no device gets one back. Images never come this far: what a device is given is an
embedding, and `client.device.verification` has no other input. Bytes on the wire are a TLS encryption of the messages
that are looked through here, so these are the harder test.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from client.device.new_template import NewTemplate
from federation.onebit import Decision, parameters_for
from federation.onebit.code import binary_code
from federation.onebit.seal import _save
from federation.onebit.slots import from_bits
from tests.integration.killing import Ambush, KillableServer
from tests.integration.scanning import (
    Needles,
    a_session_key,
    add_face,
    add_template,
    add_wallet,
    family_of,
    files_under,
    memory_of,
)
from tests.running import LOG_TRUST, TERMS, a_face, a_release, a_rules_file, a_wallet, conditions

PARAMETERS = parameters_for(a_release().code_length)
PEOPLE, CAPTURES = 2, 6


@pytest.fixture(scope="module")
def secrets():
    """What somebody has, in every form, by name; and needles for it."""
    needles, face = Needles(), a_face(1)
    new = NewTemplate.draw(a_wallet(a_release()), a_face(1, 1), PARAMETERS, terms=TERMS, days=1, now=int(time.time()))
    key = a_session_key(needles, "session key", PARAMETERS)
    add_wallet(needles, "somebody", new.wallet)
    add_face(needles, "a face", new.wallet, face)
    add_template(needles, "template", new.change.template)
    return forms_of(new, face, key), needles


def forms_of(new, face, key):
    wallet, secret, template = new.wallet, new.wallet.template_secret, new.change.template
    code, padded = binary_code(face, secret.seed, PARAMETERS.slots), secret.padded_code(face)
    seed, device_key = secret.seed.secret_bytes(), wallet.signing_key.private_bytes_raw()
    ring = _save(key._key, secret=True)
    return {
        **{f"embedding as {kind}": face.astype(kind).tobytes() for kind in ("<f8", ">f8", "<f4", ">f4", "<f2", ">f2")},
        "eight numbers of it": face[40:48].tobytes(),
        "code packed little": np.packbits(code, bitorder="little").tobytes(),
        "code packed big": np.packbits(code, bitorder="big").tobytes(),
        "code in bytes": code.tobytes(),
        "code in the ring": from_bits(code, PARAMETERS).tobytes(),
        "padded code of a probe, packed": np.packbits(padded, bitorder="little").tobytes(),
        "padded code of a probe, in bytes": padded.tobytes(),
        "padded code of a probe, in the ring": from_bits(padded, PARAMETERS).tobytes(),
        "code seed": seed,
        "code seed in hex": seed.hex().encode(),
        "pad": secret.pad,
        "a part of the pad": secret.pad[21:40],
        "pad in hex": secret.pad.hex().encode(),
        "pad in bytes": np.unpackbits(np.frombuffer(secret.pad, np.uint8), bitorder="little").tobytes(),
        "device key": device_key,
        "device key in hex": device_key.hex().encode(),
        "padded template": template[-PARAMETERS.slots // 8 :],
        "salt of the template": template[8:40],
        "template in hex": template.hex().encode(),
        "session key": ring,
        "a part of the session key": ring[-(1 << 13) :][:128],
    }


def test_the_scan_finds_every_form_of_a_secret_at_any_offset(secrets):
    forms, needles = secrets
    noise = np.random.default_rng(1).bytes(5_000)
    assert needles.find(noise) == set()
    for number, (form, planted) in enumerate(forms.items()):
        assert needles.find(noise[: 100 + number] + planted + noise), form


@pytest.mark.integration
def test_the_scan_finds_an_embedding_in_the_memory_of_another_process(secrets):
    forms, needles = secrets
    face = forms["embedding as <f8"]
    program = "import sys; kept = [sys.stdin.buffer.read(1024)]; print(flush=True); sys.stdin.buffer.read()"
    command = [sys.executable, "-c", program]
    for planted, is_found in [(face, True), (bytes(reversed(face)), False)]:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
            process.stdin.write(planted)
            process.stdout.readline()
            found = needles.find_in(memory_of(process.pid))
            process.stdin.close()
        assert bool(found) == is_found


def test_the_scan_finds_an_embedding_on_disk(secrets, tmp_path):
    forms, needles = secrets
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "database").write_bytes(bytes(4_097) + forms["embedding as <f4"])
    assert needles.find_in(files_under(tmp_path)) == {"a face embedded as <f4"}


class Watched:
    """People whose devices use a server that is looked through while it serves them.

    Attributes:
        secrets: what no server may have.
        templates: what a server has, and gives to nobody.
        sent, received: all messages, as the devices see them.
        found: secrets that the server had.
    """

    def __init__(self, server, directory):
        self.server, self.directory = server, directory
        self.secrets, self.templates = Needles(), Needles()
        self.sent, self.received, self.found = [], [], set()
        self.captures = [[a_face(person, capture) for capture in range(CAPTURES)] for person in range(PEOPLE)]
        self.wallets = [a_wallet(a_release()) for _ in range(PEOPLE)]

    def look(self):
        """Memory and disk, at a moment when a comparison was made and its decision is not known yet."""
        processes = family_of(self.server.pid)
        assert len(processes) > 1, "the match workers are looked at too"
        for pid in processes:
            self.found |= self.secrets.find_in(memory_of(pid))
        self.found |= self.secrets.find_in(files_under(self.directory))

    def know(self, n, wallet, reference):
        """Makes the scan know everything of a template that was just drawn, before it leaves."""
        add_wallet(self.secrets, f"person {n}", wallet)
        for number, face in enumerate(self.captures[n]):
            if number != reference:  # its padded code is the template, which the server has
                add_face(self.secrets, f"capture {number} of person {n}", wallet, face)

    def use(self, n, deed, *, draws=None, **changes):
        """One session of a person's device.

        Args:
            draws: number of the capture that becomes a template's reference in it.
        """
        kept, renewed = [self.wallets[n]], []

        def watch(request, answer):
            is_probe = type(request).__name__ == "SubmitProbeRequest"
            if answer is None:
                self.sent.append(request.SerializeToString())
                if is_probe and draws is not None:
                    self.know(n, (renewed or kept)[-1], draws)
                    add_template(self.templates, f"template of person {n}", request.change.template)
            else:
                self.received.append(answer.SerializeToString())
                if is_probe:
                    self.look()

        with self.server.device(self.wallets[n], keep=kept.append, conditions=conditions(**changes)) as device:
            device._session_key = a_session_key(self.secrets, f"a session key of person {n}", PARAMETERS)
            Ambush(self.server, -1, 0, {}, watch).lay(device._connection)
            outcome = deed(device, renewed.append)
            self.wallets[n] = (renewed or [device.wallet])[-1]
        return outcome.decision

    def ask(self, n, deed):
        """A call of an owner, without a face."""
        with self.server.owner(self.wallets[n]) as owner:
            watch = lambda _, answer: answer and self.received.append(answer.SerializeToString())  # noqa: E731 - one use
            Ambush(self.server, -1, 0, {}, watch).lay(owner._connection)
            return deed(owner)


@pytest.mark.integration
@pytest.mark.parametrize(
    "verifications", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids=["2", "50"]
)
def test_s11_memory_disk_and_messages_of_a_serving_process_hold_no_face_no_code_and_no_key(verifications, tmp_path):
    with KillableServer(tmp_path) as server:
        server.start()
        people = Watched(server, tmp_path)
        for n, (reference, second, *_) in enumerate(people.captures):
            enrol = lambda device, _, one=reference, two=second: device.enrol(one, two)  # noqa: E731 - one use
            assert people.use(n, enrol, draws=0) is Decision.MATCH
        for count in range(verifications):
            n = count % PEOPLE
            shown = people.captures[n if count % 4 != 1 else 1 - n][1 + count % (CAPTURES - 1)]
            decision = people.use(n, lambda device, _, shown=shown: device.verify(shown))
            assert decision is (Decision.MATCH if count % 4 != 1 else Decision.NON_MATCH)
        agree = lambda device, _: device.renew_consent(people.captures[0][2])  # noqa: E731 - one use
        assert people.use(0, agree, days=100) is Decision.MATCH
        into = a_wallet(a_release())
        renew = lambda device, keep: device.renew_template(*people.captures[1][3:5], into=into, keep=keep)  # noqa: E731
        assert people.use(1, renew, draws=3) is Decision.MATCH
        for n in range(PEOPLE):
            assert people.ask(n, lambda owner: owner.receipts() and owner.export()).openings
        public = Needles()
        public.add("the rules, which it serves by", a_rules_file()[:64], window=64, step=1)
        assert public.find_in(memory_of(server.pid)), "the scan sees what is there"
        people.look()
        assert people.templates.find_in(people.sent)
        assert people.templates.find_in(path.read_bytes() for path in tmp_path.glob("matching.db*"))
        people.ask(0, lambda owner: owner.erase(LOG_TRUST))
    elsewhere = (path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("matching.db"))
    assert people.templates.find_in(path.read_bytes() for path in elsewhere) == set()
    assert people.templates.find_in(people.received) == set()
    people.found |= people.secrets.find_in(people.sent) | people.secrets.find_in(people.received)
    people.found |= people.secrets.find_in(files_under(tmp_path))
    assert people.found == set()
