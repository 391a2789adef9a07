"""What a PKCS#11 library is asked for two keys in two tokens, call by call; and which key a file may hold for whom."""

from __future__ import annotations

from dataclasses import replace

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from federation.commandline import signing_keys, tokens
from federation.commandline.signing_keys import ed25519_key, file_of, p256_key, private_key
from federation.commandline.tokens import Library, TokenUri
from federation.errors import UsageError

SAFE = TokenUri("/lib/token.so", "safe", "0a", "log", b"\x07")
BOX = TokenUri("/lib/token.so", "box", None, "rules", None)
PRIVATE, PUBLIC = pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.ObjectClass.PUBLIC_KEY


class Module:
    """A library with two tokens. Notes what it is asked, and raises what a test lays into `answers`."""

    def __init__(self):
        self.told, self.answers, self.initialized = [], {}, False

    def note(self, *what):
        self.told.append(what)
        if what[0] in self.answers:
            raise self.answers[what[0]]

    def initialize(self):
        self.note("initialize")
        self.initialized = True

    def reinitialize(self):
        self.note("reinitialize")

    def get_tokens(self):
        return [Token(self, label) for label in ("safe", "", "box")]

    def get_token(self, *, token_label, token_serial):
        self.note("token", token_label, token_serial)
        return Token(self, token_label)


class Token:
    def __init__(self, module, label):
        self.module, self.label = module, label

    def open(self, *, rw, user_pin=None):
        self.module.note("open", self.label, rw, user_pin)
        return Session(self.module, self.label)


class Session:
    def __init__(self, module, label):
        self.module, self.label = module, label

    def get_key(self, *, object_class, label, id):  # noqa: A002 - python-pkcs11's
        self.module.note("key", self.label, object_class, label, id)
        return self.label, object_class, label


@pytest.fixture
def module(monkeypatch):
    made = Module()
    monkeypatch.setattr(pkcs11, "lib", {"/lib/token.so": made}.__getitem__)
    return made


@pytest.fixture
def pins(monkeypatch):
    """What somebody types or writes for each token, and how often it was asked for."""
    typed, asked = {"safe": "1111", "box": "2222"}, []
    monkeypatch.setattr(tokens, "_pin_of", lambda uri: asked.append(uri.token) or typed[uri.token])
    return typed, asked


def test_each_token_is_opened_once_with_its_own_pin_and_each_key_is_looked_for_once(module, pins):
    library = Library("/lib/token.so")
    other = replace(BOX, label="witness", key_id=b"\x09")
    for uri in (SAFE, BOX, SAFE, other, BOX):
        assert library.private_key(uri) == (uri.token, PRIVATE, uri.label)
    assert library.found(BOX, PUBLIC) == ("box", PUBLIC, "rules")
    assert module.told == [
        ("initialize",),
        ("token", "safe", b"0a"),
        ("open", "safe", False, "1111"),
        ("key", "safe", PRIVATE, "log", b"\x07"),
        ("token", "box", None),
        ("open", "box", False, "2222"),
        ("key", "box", PRIVATE, "rules", None),
        ("key", "box", PRIVATE, "witness", b"\x09"),
        ("key", "box", PUBLIC, "rules", None),
    ]
    assert pins[1] == ["safe", "box"]


def test_a_second_session_logs_in_no_more_and_writes_where_it_was_asked_to(module, pins):
    library = Library("/lib/token.so")
    for writes in (True, False):
        assert library.opened(BOX, writes=writes).label == "box"  # not kept: each logs in
    library.session(BOX)
    module.told.clear()
    for writes in (True, False):
        assert library.opened(BOX, writes=writes).label == "box"
    again = [[("token", "box", None), ("open", "box", writes, None)] for writes in (True, False)]
    assert module.told == again[0] + again[1]
    library.session(SAFE)  # of which nobody has logged in
    assert module.told[-1] == ("open", "safe", False, "1111")


def test_a_pin_that_was_typed_is_kept_for_the_next_beginning_and_one_of_a_file_is_read_again(module, pins, tmp_path):
    typed, asked = pins
    library = Library("/lib/token.so")
    of_file = replace(SAFE, pin_file=tmp_path / "pin")
    for _ in range(2):
        for uri in (BOX, of_file):
            library.private_key(uri)
        library.begin_again()
        typed.update(safe="3333", box="4444")
    assert asked == ["box", "safe", "safe"]
    opened = [what for what in module.told if what[0] == "open"]
    assert [(label, pin) for _, label, _, pin in opened] == [
        ("box", "2222"),
        ("safe", "1111"),
        ("box", "2222"),
        ("safe", "3333"),
    ]
    assert module.told.count(("reinitialize",)) == 2
    assert len([what for what in module.told if what[0] == "key"]) == 4


def test_a_pin_that_a_token_refused_is_shown_to_another_token_and_a_new_one_to_the_same(module, pins):
    typed, _ = pins
    library = Library("/lib/token.so")
    box = replace(BOX, pin_file="/etc/pin")
    typed.update(safe="0000", box="0000")
    module.answers["open"] = pkcs11.PinIncorrect()
    for _ in range(2):
        with pytest.raises(UsageError, match="'box' refused the PIN: put the right one into /etc/pin") as caught:
            library.session(box)
        assert "0000" not in str(caught.value)
    module.answers.clear()
    assert library.session(SAFE).label == "safe"
    typed["box"] = "2222"
    assert library.session(box).label == "box"
    shown = [(label, pin) for name, label, _, pin in (what for what in module.told if what[0] == "open")]
    assert shown == [("box", "0000"), ("safe", "0000"), ("box", "2222")]


def test_what_is_no_answer_to_a_pin_is_raised_as_it_is_and_the_pin_is_shown_again(module, pins):
    library = Library("/lib/token.so")
    module.answers["open"] = pkcs11.DeviceError()
    for _ in range(2):
        with pytest.raises(pkcs11.DeviceError, match=r"^$"):
            library.session(BOX)
    assert [what for what in module.told if what[0] == "open"] == [("open", "box", False, "2222")] * 2
    module.answers.clear()
    assert library.session(BOX).label == "box"


@pytest.mark.parametrize(
    ("step", "answer", "said"),
    [
        (
            "token",
            pkcs11.NoSuchToken(),
            "the token 'safe' is not there: put it in, or name another. /lib/token.so sees box, safe",
        ),
        ("token", pkcs11.MultipleTokensReturned(), "several tokens are called 'safe': name one by serial="),
        ("key", pkcs11.NoSuchKey(), "the token 'safe' has no private key for the key 'log'"),
        (
            "key",
            pkcs11.MultipleObjectsReturned(),
            "the token 'safe' has more than one private key for the key 'log': name one by id=",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_is_not_there_is_said_and_looked_for_again(module, pins, step, answer, said):
    library = Library("/lib/token.so")
    module.answers[step] = answer
    with pytest.raises(UsageError, match=f"^{said}$") as caught:
        library.private_key(SAFE)
    assert caught.value.__suppress_context__
    module.answers.clear()
    assert library.private_key(SAFE) == ("safe", PRIVATE, "log")


def test_a_token_and_a_key_are_named_for_people_by_what_the_uri_names_them_by():
    assert [uri.where for uri in (SAFE, replace(SAFE, token=None))] == ["the token 'safe'", "the token '0a'"]
    assert [uri.what for uri in (SAFE, replace(SAFE, label=None))] == ["the key 'log'", "the key with id 07"]
    assert SAFE.its_token == ("safe", "0a")


# ---------------------------------------------------------------- files

EDWARDS, ON_CURVE = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
NO_PEM = "holds no unencrypted private key"
ANOTHER, NO_EDWARDS = "holds another kind of key than Ed25519 or P-256", "holds another kind of key than Ed25519"
NO_CURVE = "holds another kind of key than one on NIST P-256"
LOCKED = EDWARDS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hush"))
DER = EDWARDS.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
PUBLIC_HALF = EDWARDS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
HELD = {
    "Ed25519": (file_of(EDWARDS), (None, None, NO_CURVE)),
    "P-256": (file_of(ON_CURVE), (None, NO_EDWARDS, None)),
    "P-384": (file_of(ec.generate_private_key(ec.SECP384R1())), (None, NO_EDWARDS, NO_CURVE)),
    "X25519": (file_of(x25519.X25519PrivateKey.generate()), (ANOTHER,) * 3),
    "with a passphrase": (LOCKED, (NO_PEM,) * 3),
    "DER": (DER, (NO_PEM,) * 3),
    "a public key": (PUBLIC_HALF, (NO_PEM,) * 3),
    "nothing": (b"", (NO_PEM,) * 3),
    "no text": (b"\xff\xfe", (NO_PEM,) * 3),
}
"""Of what a file holds, what is said to who takes any key, an Ed25519 one, and one on P-256."""


@pytest.mark.parametrize(("content", "said"), HELD.values(), ids=HELD)
def test_a_file_holds_the_kind_of_key_that_is_wanted_or_another_one(tmp_path, content, said):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    for read, words in zip((private_key, ed25519_key, p256_key), said, strict=True):
        for named in (path, str(path)):
            if words is None:
                assert file_of(read(named)) == content
            else:
                with pytest.raises(UsageError, match=f"^{path} {words}$") as caught:
                    read(named)
                assert caught.value.__cause__ is None


# ---------------------------------------------------------------------- what a key that is made there may not do


class Making:
    """A session that writes, of a token that lets a key do whatever it is not told otherwise."""

    def __init__(self, told):
        self.told = told

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.told.append("closed")

    def create_domain_parameters(self, kind, attributes, *, local):
        self.told.append((kind, attributes, local))
        return self

    def generate_keypair(self, **options):
        self.told.append(options)


@pytest.mark.parametrize(
    ("curve", "kind", "mechanism"),
    [
        (signing_keys._ED25519, pkcs11.KeyType.EC_EDWARDS, pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN),
        (signing_keys._P256, pkcs11.KeyType.EC, pkcs11.Mechanism.EC_KEY_PAIR_GEN),
    ],
)
def test_a_token_is_told_all_that_a_key_may_not_do_and_nothing_is_left_to_what_it_would_do_by_itself(
    monkeypatch, curve, kind, mechanism
):
    told = []

    class Empty:
        def get_objects(self, query):
            told.append(query)
            return iter(())

    monkeypatch.setattr(Library, "session", lambda _self, uri: told.append(uri.its_token) or Empty())
    monkeypatch.setattr(
        Library, "opened", lambda _self, uri, *, writes: told.append((uri.its_token, writes)) or Making(told)
    )
    text = "pkcs11:token=safe;object=log;id=%07?module-path=/lib/of-nobody.so&pin-source=/nowhere/pin"
    signing_keys._make_in_token(text, curve)
    named = {pkcs11.Attribute.LABEL: "log", pkcs11.Attribute.ID: b"\x07"}
    assert told == [
        ("safe", None),
        {pkcs11.Attribute.CLASS: PRIVATE} | named,
        (("safe", None), True),
        (kind, {pkcs11.Attribute.EC_PARAMS: curve}, True),
        {
            "mechanism": mechanism,
            "store": True,
            "id": b"\x07",
            "label": "log",
            "capabilities": pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            "private_template": {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
        },
        "closed",
    ]
