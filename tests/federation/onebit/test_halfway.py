"""What is left when a step of the match fails half-way: nothing that serves twice, no secret on a disk or in a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from federation.errors import UsageError
from federation.onebit import Material, SessionKey, TemplateSecret, match, seal
from federation.onebit.code import CodeSeed
from federation.onebit.matcher import Masks
from federation.onebit.seal import _MemoryFile, engine


class BrokenError(Exception):
    """Something failed."""


def broken(*_args, **_kwargs):
    raise BrokenError("as planned")


@pytest.fixture
def closed(monkeypatch):
    """Every descriptor that was closed."""
    found, close = [], os.close
    monkeypatch.setattr(os, "close", lambda descriptor: (found.append(descriptor), close(descriptor)))
    return found


def test_a_secret_whose_template_failed_half_way_makes_no_other(owner, parameters):
    """Its padded code may have been in memory that somebody saw: a second one under the same pad would show both."""
    for fails in ({"random_bytes": broken}, {"vector": np.zeros(128)}):
        secret = TemplateSecret.generate(parameters)
        with pytest.raises((BrokenError, UsageError), match=r"as planned|zero or not finite"):
            secret.template(**{"vector": owner.face} | fails)
        with pytest.raises(UsageError, match="serve one template; draw both anew"):
            secret.template(owner.face)


def test_a_key_whose_encryption_failed_encrypts_nothing_else(owner, parameters, monkeypatch):
    key = SessionKey.generate(parameters)
    with monkeypatch.context() as patch:
        patch.setattr(engine(parameters), "encrypt", broken)
        with pytest.raises(BrokenError, match="as planned"):
            key.encrypt(owner.padded)
    with pytest.raises(UsageError, match="encrypts one probe; make another"):
        key.encrypt(owner.padded)


def test_a_key_whose_opening_failed_opens_nothing_else(owner, parameters, monkeypatch):
    key = SessionKey.generate(parameters)
    challenge = match(owner.template, key.encrypt(owner.padded), b"transcript", 0)
    with monkeypatch.context() as patch:
        patch.setattr(key, "_decrypt", broken)
        with pytest.raises(BrokenError, match="as planned"):
            key.open_reply(challenge.reply, b"transcript")
    with pytest.raises(UsageError, match="opens one reply"):
        key.open_reply(challenge.reply, b"transcript")


def test_a_code_that_its_owner_wipes_after_encrypting_still_opens_the_reply(owner, parameters):
    key, code = SessionKey.generate(parameters), owner.padded.copy()
    challenge = match(owner.template, key.encrypt(code), b"transcript", 0)
    code[:] = 0
    assert key.open_reply(challenge.reply, b"transcript") == challenge.token


# ---------------------------------------------------------------------- files in memory


@pytest.fixture
def _no_memory_files(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")


@pytest.mark.usefixtures("_no_memory_files")
def test_without_files_in_memory_no_secret_is_written_anywhere(owner, parameters, monkeypatch):
    """Neither key nor plaintext of a device; and each by itself, since either one gives the code away."""
    made = engine(parameters)
    secret = made.secret_key.__func__
    monkeypatch.setattr(tempfile, "TemporaryDirectory", broken)  # would be a disk
    for step in (
        lambda: secret(made, np.zeros(parameters.ring_dimension, np.int64)),
        lambda: made._plaintext(np.zeros(parameters.ring_dimension, np.uint64)),
        lambda: seal._save(None, secret=True),
        lambda: seal._load(None, b"", secret=True),
    ):
        with pytest.raises(UsageError, match="a secret key must never touch a disk"):
            step()


def test_every_object_of_a_device_is_read_and_written_as_a_secret(owner, parameters, monkeypatch):
    asked = []

    class Watched(_MemoryFile):
        def __init__(self, *, secret):
            asked.append(secret)
            super().__init__(secret=secret)

    engine(parameters)  # which is made once for all, of what is public
    monkeypatch.setattr(seal, "_MemoryFile", Watched)
    key = SessionKey.generate(parameters)
    assert asked == [True] * 3  # a plaintext in, the same in another form out, and in again as a key
    asked.clear()
    key.encrypt(owner.padded)
    assert asked == [True, False]  # the code in, and out what everybody may see


@pytest.mark.usefixtures("_no_memory_files")
def test_what_is_public_may_lie_in_a_folder_of_ours_alone_that_is_gone_afterwards(closed):
    with _MemoryFile(secret=False) as file:
        file.write(b"public")
        assert file.read() == b"public"
        path = Path(file.path)
        assert [one.stat().st_mode & 0o777 for one in (path, path.parent)] == [0o600, 0o700]
    assert not path.parent.exists()
    assert file._descriptor in closed


def test_a_file_in_memory_is_closed_whatever_happens_and_no_child_inherits_it(closed):
    for fails in (False, True):
        try:
            with _MemoryFile(secret=True) as file:
                file.write(b"secret")
                assert file.read() == b"secret"
                assert not os.get_inheritable(file._descriptor)
                assert file._descriptor not in closed
                if fails:
                    broken()
        except BrokenError:
            assert fails
        assert file._descriptor in closed
        closed.clear()


def test_what_is_written_in_parts_is_written_whole_and_what_was_cut_is_not_read(monkeypatch):
    write = os.write
    with _MemoryFile(secret=True) as file:
        monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
        file.write(b"in three parts")
        assert file.read() == b"in three parts"
        monkeypatch.setattr(os, "pread", lambda *_: b"in three")
        with pytest.raises(UsageError, match="cut short"):
            file.read()


def test_a_seed_has_its_length_and_a_fresh_one_is_of_the_source_that_was_named():
    asked = []
    seed = CodeSeed.generate(lambda count: asked.append(count) or bytes(range(count)))
    assert (seed.secret_bytes(), asked) == (bytes(range(32)), [32])


# ---------------------------------------------------------------------- where randomness comes from


def test_every_draw_is_of_the_source_that_was_named_and_of_no_other(owner, parameters):
    """A source that is not handed on is the system's: nobody could repeat what a report says."""

    def made():
        source = np.random.default_rng(5).bytes
        secret = TemplateSecret.generate(parameters, source)
        template = secret.template(owner.face, source)
        coefficients = SessionKey.generate(parameters, source)._values
        return secret.secret_bytes(), template, coefficients.tobytes(), source(8)

    assert made() == made()
    probe = SessionKey.generate(parameters).encrypt(owner.padded)
    first, second, other = (
        match(owner.template, probe, b"transcript", 9, np.random.default_rng(seed).bytes) for seed in (5, 5, 6)
    )
    assert first == second
    assert first.token != other.token
    masks = Masks.draw(parameters, np.random.default_rng(5).bytes)
    assert masks.token == first.token
    material = Material.draw(parameters, np.random.default_rng(5).bytes)
    asked = list[int]()
    challenge = material.answer(owner.template, probe, b"transcript", 9, lambda n: asked.append(n) or bytes(n))
    assert (challenge.token, asked) == (first.token, [80])
