"""S11: whoever has the server, its memory, its disk and everything that reaches it, has no face, no code and no key.

Images never come this far: what a device is given is an embedding, and `client.verification` has no other input. Bytes
on the wire are a TLS encryption of the messages that are looked through here, so these are the harder test.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from killing import Ambush, KillableServer
from running import a_face, a_release, a_rules_file, a_wallet
from scanning import Needles, add_person, add_session_key, family_of, files_under, memory_of

from federation.onebit import Decision, SessionKey, TemplateSecret, binary_code
from federation.onebit.parameters import ONEBIT_1024
from federation.onebit.sampling import ternary

PEOPLE, CAPTURES = 2, 6


@pytest.fixture(scope="module")
def secrets():
    """A wallet, an embedding, its code, a session's key, and needles for all of them."""
    wallet, face = a_wallet(a_release()).with_template_secret(TemplateSecret.generate(ONEBIT_1024)), a_face(1)
    code = binary_code(face, wallet.template_secret.seed, ONEBIT_1024.slots)
    needles, drawn = Needles(), ternary(ONEBIT_1024.ring_dimension, os.urandom)
    add_person(needles, "somebody", wallet, [face])
    add_session_key(needles, "a session's key", SessionKey(ONEBIT_1024, drawn), drawn)
    return wallet, face, code, drawn, needles


def forms_of(wallet, face, code, drawn):
    return {
        **{f"embedding as {kind}": face.astype(kind).tobytes() for kind in ("<f8", ">f8", "<f4", ">f4", "<f2", ">f2")},
        "eight numbers of it": face[40:48].tobytes(),
        "code packed little": np.packbits(code, bitorder="little").tobytes(),
        "code packed big": np.packbits(code, bitorder="big").tobytes(),
        "code in bytes": code.tobytes(),
        "code seed": wallet.template_secret.seed.secret_bytes(),
        "pad": wallet.template_secret.pad,
        "device key": wallet.signing_key.private_bytes_raw(),
        "device key in hex": wallet.signing_key.private_bytes_raw().hex().encode(),
        "session key in bytes": drawn.astype(np.int8).tobytes(),
    }


def test_the_scan_finds_every_form_of_a_secret_at_any_offset(secrets):
    *known, needles = secrets
    noise = np.random.default_rng(1).bytes(5_000)
    assert needles.find(noise) == set()
    for number, (form, planted) in enumerate(forms_of(*known).items()):
        assert needles.find(noise[: 100 + number] + planted + noise), form


@pytest.mark.integration
def test_the_scan_finds_an_embedding_in_the_memory_of_another_process(secrets):
    _, face, *_, needles = secrets
    program = "import sys; kept = [sys.stdin.buffer.read(1024)]; print(flush=True); sys.stdin.buffer.read()"
    command = [sys.executable, "-c", program]
    for planted, is_found in [(face.tobytes(), True), (bytes(reversed(face.tobytes())), False)]:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
            process.stdin.write(planted)
            process.stdout.readline()
            found = needles.find_in(memory_of(process.pid))
            process.stdin.close()
        assert bool(found) == is_found


def test_the_scan_finds_an_embedding_on_disk(secrets, tmp_path):
    _, face, *_, needles = secrets
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "database").write_bytes(bytes(4_097) + face.astype("f4").tobytes())
    assert needles.find_in(files_under(tmp_path)) == {"somebody's embedding 0 as <f4"}


@pytest.mark.integration
@pytest.mark.parametrize(
    "verifications", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids=["2", "50"]
)
def test_s11_memory_disk_and_messages_of_a_serving_process_hold_no_face_no_code_and_no_key(
    verifications, tmp_path, monkeypatch
):
    wallets = [a_wallet(a_release()) for _ in range(PEOPLE)]
    received, found, usual, needles = [], set(), {}, Needles()
    generate = SessionKey.generate

    def known(parameters):
        key = generate(parameters, lambda count: drawn.append(os.urandom(count)) or drawn[-1])
        again = iter(drawn)
        coefficients = ternary(parameters.ring_dimension, lambda _: next(again))
        add_session_key(needles, "a session's key", key, coefficients)
        drawn.clear()
        return key

    drawn = []
    monkeypatch.setattr(SessionKey, "generate", known)
    with KillableServer(tmp_path) as server:
        server.start()

        def look():
            """At a moment when a comparison was made and its decision is not known yet."""
            processes = family_of(server.pid)
            assert len(processes) > 1, "the match workers are looked at too"
            for pid in processes:
                found.update(needles.find_in(memory_of(pid)))
            found.update(needles.find_in(files_under(tmp_path)))

        def use(number, deed, watch):
            with server.device(wallets[number]) as device:
                Ambush(server, -1, 0, usual, watch).lay(device._connection)
                outcome = deed(device)
            wallets[number] = device.wallet
            return outcome.decision

        def record(request, answer):
            received.append((request if answer is None else answer).SerializeToString())

        def record_and_look(request, answer):
            record(request, answer)
            if answer is not None and type(request).__name__ == "SubmitProbeRequest":
                look()

        captures = [[a_face(person, capture) for capture in range(CAPTURES)] for person in range(PEOPLE)]
        for n in range(PEOPLE):
            enrolled = use(n, lambda device, n=n: device.enrol(captures[n][0], captures[n][1]), record)
            assert enrolled is Decision.MATCH
            add_person(needles, f"person {n}", wallets[n], captures[n])
        for count in range(verifications):
            n = count % PEOPLE
            shown = captures[n if count % 4 != 1 else 1 - n][count % CAPTURES]
            decision = use(n, lambda device, shown=shown: device.verify(shown), record_and_look)
            assert decision is (Decision.MATCH if count % 4 != 1 else Decision.NON_MATCH)
        public = Needles()
        public.add("the rules, which it serves by", a_rules_file()[:64], window=64, step=1)
        assert public.find_in(memory_of(server.pid)), "the scan sees what is there"
    found.update(needles.find_in(received))
    found.update(needles.find_in(files_under(tmp_path)))
    assert found == set()
