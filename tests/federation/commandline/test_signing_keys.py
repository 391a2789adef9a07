"""Keys that sign, from files and from tokens: what they give, what each mistake says, and a token that goes away."""

import copy
import pickle
import traceback

import pkcs11
import pytest
from Crypto.Hash import SHA256
from Crypto.PublicKey import ECC
from Crypto.Signature import DSS, eddsa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from federation.commandline import signing_keys, tokens
from federation.commandline.signing_keys import (
    ed25519_key,
    file_of,
    new_ed25519_key,
    new_p256_key,
    p256_key,
    private_key,
    require_there,
)
from federation.commandline.tokens import TokenUri
from federation.errors import UnavailableError, UsageError
from tests.tokens import PIN

SHA = ec.ECDSA(hashes.SHA256())
AWAY = "was taken away or does not sign any more"


@pytest.fixture
def session(token):
    """A session of the test's own with the token, as another program has one."""
    new_ed25519_key(token.key("somebody's"))  # the process logs in
    library = pkcs11.lib(str(token.library))
    return library.get_token(token_label=token.label).open(rw=True)


def a_pair(session, *, kind=pkcs11.KeyType.RSA, bits=1024, **options):
    return session.generate_keypair(kind, bits, store=True, **options)


# ---------------------------------------------------------------- what a token signs


def test_another_library_verifies_what_a_token_signed(token):
    key, other = new_ed25519_key(token.key("one")), new_ed25519_key(token.key("two"))
    shown = eddsa.import_public_key(key.public_key().public_bytes_raw())
    eddsa.new(shown, "rfc8032").verify(b"a text", key.sign(b"a text"))
    with pytest.raises(ValueError, match="not authentic"):
        eddsa.new(shown, "rfc8032").verify(b"a text", other.sign(b"a text"))


def test_another_library_verifies_what_a_token_signed_on_p256(token):
    key = new_p256_key(token.key("one"))
    shown = ECC.import_key(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    DSS.new(shown, "fips-186-3", encoding="der").verify(SHA256.new(b"a text"), key.sign(b"a text", SHA))
    assert (key.curve.name, key.key_size) == ("secp256r1", 256)


def test_a_key_is_the_same_one_whoever_names_it_next_and_in_a_file_as_well(token, tmp_path):
    uri = token.key("one")
    key = new_ed25519_key(uri)
    (tmp_path / "key").write_bytes(file_of(key))
    assert file_of(key).decode() == uri + "\n"
    public = {each.public_key().public_bytes_raw() for each in (key, new_ed25519_key(uri), ed25519_key(uri))}
    assert public == {ed25519_key(tmp_path / "key").public_key().public_bytes_raw()}
    assert new_ed25519_key(token.key("two")).public_key().public_bytes_raw() not in public


def test_a_key_of_a_file_comes_back_from_it(tmp_path):
    for make, read in ((new_ed25519_key, ed25519_key), (new_p256_key, p256_key)):
        key = make()
        (tmp_path / "key.pem").write_bytes(file_of(key))
        assert read(str(tmp_path / "key.pem")).public_key() == key.public_key()
        require_there(key)


def test_the_secret_half_stays_in_the_token_and_shows_nowhere(token, session):
    key, on_curve = new_ed25519_key(token.key("one")), new_p256_key(token.key("two"))
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for take in (
        key.private_bytes_raw,
        lambda: key.private_bytes(*form),
        lambda: on_curve.private_bytes(*form),
        on_curve.private_numbers,
        lambda: on_curve.exchange(ec.ECDH(), on_curve.public_key()),
    ):
        with pytest.raises(UsageError, match="stays in the token"):
            take()
    for each in (key, on_curve):
        assert repr(each) == f"{type(each).__name__}(<redacted>)"
        assert copy.copy(each) is copy.deepcopy(each) is each
        with pytest.raises(TypeError, match="refuses pickling"):
            pickle.dumps(each)
    for name in ("one", "two"):
        held = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=name)
        assert (held[pkcs11.Attribute.SENSITIVE], held[pkcs11.Attribute.EXTRACTABLE]) == (True, False)
        with pytest.raises(pkcs11.AttributeSensitive, match=r"^$"):
            held[pkcs11.Attribute.VALUE]


def test_a_token_hashes_itself(token):
    with pytest.raises(UsageError, match="and not what somebody else hashed"):
        new_p256_key(token.key("one")).sign(bytes(32), ec.ECDSA(Prehashed(hashes.SHA256())))


def test_a_key_is_found_by_its_id_where_labels_are_the_same(token):
    first, second = (new_ed25519_key(token.key("one").replace("?", f";id=%0{number}?")) for number in (1, 2))
    assert first.public_key() != second.public_key()
    with pytest.raises(UsageError, match="more than one private key for the key 'one': name one by id="):
        ed25519_key(token.key("one"))
    found = ed25519_key(token.key("one").replace("object=one", "id=%02"))
    assert found.public_key() == second.public_key()


@pytest.mark.parametrize("point", ["as it is", "in an octet string"])
def test_a_public_point_is_read_in_both_forms_that_tokens_have(token, monkeypatch, point):
    key = new_ed25519_key(token.key("one"))
    raw = key.public_key().public_bytes_raw()
    monkeypatch.setattr(
        signing_keys, "asked", lambda *_: (signing_keys._ED25519, raw if point == "as it is" else b"\x04\x20" + raw)
    )
    assert ed25519_key(token.key("one")).public_key() == key.public_key()


# ---------------------------------------------------------------- what is wrong is said


def said(read, *, kind=UsageError):
    """The words of the refusal, which never hold the PIN."""
    with pytest.raises(kind, match=r"[a-z]") as caught:
        read()
    shown = "".join(traceback.format_exception(caught.value))
    assert PIN not in shown
    return str(caught.value)


WRONG_URIS = {
    "pkcs11:token=a;object=b?module-path=/l.so&pin-value=20261129": "a PIN does not stand in a name",
    "pkcs11:token=a;object=b": "a key in a token is written",
    "pkcs11:object=b?module-path=/l.so": "names no token, or no key",
    "pkcs11:token=a?module-path=/l.so": "names no token, or no key",
    "pkcs11:token=a;object=b?module-path=l.so": "absolute paths",
    "pkcs11:token=a;object=b?module-path=/l.so&pin-source=pin": "absolute paths",
    "pkcs11:token=a;object=b;type=public?module-path=/l.so": "'type' is unknown, empty or twice",
    "pkcs11:token=a;object=b;object=c?module-path=/l.so": "'object' is unknown, empty or twice",
    "pkcs11:token=;object=b?module-path=/l.so": "'token' is unknown, empty or twice",
    "pkcs11:token=a;object=b;slot-id=3?module-path=/l.so": "'slot-id' is unknown, empty or twice",
    "pkcs11:token=a;object=b;pin-source=/pin?module-path=/l.so": "'pin-source' is unknown, empty or twice",
    "token=a;object=b?module-path=/l.so": "a key in a token is written",
    "PKCS11:token=a;object=b?module-path=/l.so&pin-value=20261129": "a PIN does not stand in a name",
    "pkcs11:token=a;object=b?module-path=/l.so&20261129": "a part without a name is unknown",
}


@pytest.mark.parametrize("text", WRONG_URIS)
def test_a_uri_that_is_wrong_says_in_what(text):
    assert WRONG_URIS[text] in said(lambda: TokenUri.from_text(text))


def test_a_uri_is_read_as_its_standard_says():
    text = (
        "pkcs11:token=My%20token;serial=0a;object=a%3Bb;id=%00%ff;type=private?module-path=/l.so&pin-source=file:///p"
    )
    uri = TokenUri.from_text(text)
    assert (uri.token, uri.serial, uri.label, uri.key_id) == ("My token", "0a", "a;b", b"\x00\xff")
    assert (uri.library, str(uri.pin_file)) == ("/l.so", "/p")
    for source in ("/p", "file:/p"):
        again = TokenUri.from_text(text.replace("file:///p", source))
        assert again == uri
    assert TokenUri.from_text("pkcs11:token=a;object=b?module-path=/l.so").pin_file is None
    assert TokenUri.from_text("PKCS11:token=a;object=b?module-path=/l.so").label == "b"


def test_a_pin_in_a_uri_is_shown_by_nobody_who_takes_a_key_whatever_the_uri_s_case(tmp_path):
    text = f"Pkcs11:token=a;object=b?module-path=/l.so&pin-value={PIN}"
    (tmp_path / "key").write_text(text)
    for named in (text, tmp_path / "key"):
        assert "a PIN does not stand in a name" in said(lambda named=named: private_key(named))
    assert "a PIN does not stand in a name" in said(lambda: new_ed25519_key(text))
    assert "begins with pkcs11:" in said(lambda: new_ed25519_key(f"pkcs:token=a;object=b?pin-value={PIN}"))


def test_each_mistake_says_what_to_do(token, tmp_path):
    new_ed25519_key(token.key("one"))
    (tmp_path / "none.so").write_text("no library")
    changes = {
        "cannot be used as a PKCS#11 library": {"module-path": "/nowhere.so"},
        "install the token's software": {"module-path": str(tmp_path / "none.so")},
    }
    for words, change in changes.items():
        assert words in said(lambda change=change: ed25519_key(token.key("one", **change)))
    elsewhere = token.key("one").replace("token=token", "token=other")
    assert f"put it in, or name another. {token.library} sees {token.label}" in said(lambda: ed25519_key(elsewhere))
    assert "has no private key for the key 'two'" in said(lambda: ed25519_key(token.key("two")))
    assert "another kind of key than one on NIST P-256" in said(lambda: p256_key(token.key("one")))
    new_p256_key(token.key("three"))
    assert "another kind of key than Ed25519" in said(lambda: ed25519_key(token.key("three")))
    assert "a URI of a key in a token begins with" in said(lambda: new_ed25519_key("log.pem"))


def test_other_kinds_of_keys_in_a_token_are_refused(token, session):
    a_pair(session, label="rsa")
    assert "neither Ed25519 nor on NIST P-256" in said(lambda: ed25519_key(token.key("rsa")))
    parameters = {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("secp384r1")}
    session.create_domain_parameters(pkcs11.KeyType.EC, parameters, local=True).generate_keypair(store=True, label="ec")
    assert "neither Ed25519 nor on NIST P-256" in said(lambda: p256_key(token.key("ec")))


def test_a_key_without_its_public_half_is_refused(token, session):
    new_ed25519_key(token.key("one"))
    session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, label="one").destroy()
    assert "has no public key for the key 'one'" in said(lambda: ed25519_key(token.key("one")))


def test_a_wrong_pin_is_said_and_shown_once(token, monkeypatch):
    token.pin_file.write_text("0000\n")
    shown = []
    monkeypatch.setattr(tokens, "_pin_of", lambda uri: shown.append(uri) or uri.pin_file.read_text().strip())
    logins = counted_logins(monkeypatch, token)
    for _ in range(3):
        words = said(lambda: ed25519_key(token.key("one")))
        assert "refused the PIN" in words
        assert str(token.pin_file) in words
        assert "0000" not in words
    assert logins == ["0000"]
    assert len(shown) > 1  # the file was read, and what stood in it was known
    token.pin_file.write_text(PIN)
    assert new_ed25519_key(token.key("one")).sign(b"a text")
    assert logins == ["0000", PIN]


def counted_logins(monkeypatch, token, answer=None):
    """PINs that a token was shown; with an answer, that is what it says to them."""
    shown, found = [], tokens.Library._token

    class Counting:
        def __init__(self, inner):
            self.inner = inner

        def open(self, *, user_pin=None, **options):
            if user_pin is not None:
                shown.append(user_pin)
                if answer is not None:
                    raise answer
            return self.inner.open(user_pin=user_pin, **options)

    monkeypatch.setattr(tokens.Library, "_token", lambda library, uri: Counting(found(library, uri)))
    return shown


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (pkcs11.PinLocked, "its security officer must set a new one"),
        (pkcs11.PinExpired, "its PIN has expired"),
        (pkcs11.PinInvalid, "refused the PIN"),
        (pkcs11.PinLenRange, "whose length is not one that it has"),
        (pkcs11.UserPinNotInitialized, "has no PIN yet"),
    ],
)
def test_what_a_token_answers_to_a_pin_is_said_and_it_is_not_asked_again(token, monkeypatch, answer, words):
    """SoftHSM locks no PIN, so the answers are made up."""
    logins = counted_logins(monkeypatch, token, answer())
    for _ in range(2):
        assert words in said(lambda: ed25519_key(token.key("one")))
    assert logins == [PIN]


def test_a_pin_comes_from_a_file_or_from_a_terminal(token, tmp_path, monkeypatch):
    words = said(lambda: ed25519_key(token.key("one", **{"pin-source": ""})))
    assert "there is no terminal to ask" in words
    for content, words in ((None, "cannot read the PIN"), (b"\nx", "first line"), (b"\xff", "is not text in UTF-8")):
        token.pin_file.unlink(missing_ok=True)
        if content is not None:
            token.pin_file.write_bytes(content)
        assert words in said(lambda: ed25519_key(token.key("one")))
    asked = []
    monkeypatch.setattr(tokens.sys, "stdin", type("Terminal", (), {"isatty": lambda _: True})())
    monkeypatch.setattr(tokens.typer, "prompt", lambda *words, **how: asked.append((words, how)) or PIN)
    assert new_ed25519_key(token.key("one", **{"pin-source": ""})).sign(b"a text")
    assert asked == [((f"PIN of the token {token.label!r}",), {"hide_input": True, "err": True})]


def test_a_key_file_that_holds_no_key_is_not_quoted(tmp_path):
    (tmp_path / "key").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    words = said(lambda: private_key(tmp_path / "key"))
    assert "holds no unencrypted private key" in words
    other = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key").write_bytes(other)
    assert "another kind of key" in said(lambda: private_key(tmp_path / "key"))
    assert "cannot read" in said(lambda: private_key(tmp_path / "nowhere"))
    (tmp_path / "key").write_bytes(file_of(ec.generate_private_key(ec.SECP384R1())))
    assert "one on NIST P-256" in said(lambda: p256_key(tmp_path / "key"))


# ---------------------------------------------------------------- a token that is taken away


def test_a_token_that_was_taken_away_signs_again_once_it_is_back_and_others_go_on(token, another_token):
    key = new_ed25519_key(token.key("one"))
    other = new_ed25519_key(another_token.key("one"))
    before = key.sign(b"a text")
    token.take_away()
    for _ in range(2):
        for use in (lambda: key.sign(b"a text"), lambda: require_there(key)):
            assert AWAY in said(use, kind=UnavailableError)
            other.public_key().verify(other.sign(b"a text"), b"a text")
            require_there(other)
    token.put_back()
    require_there(key)
    assert key.sign(b"a text") == before
    token.take_away()
    said(lambda: key.sign(b"a text"), kind=UnavailableError)
    token.put_back()
    assert key.sign(b"a text") == before


def test_a_device_is_told_to_come_back_later_and_nothing_of_files_or_other_tokens(token):
    key = new_ed25519_key(token.key("one"))
    token.take_away()
    with pytest.raises(UnavailableError, match=AWAY) as caught:
        key.sign(b"a text")
    token.put_back()
    assert caught.value.retry_after_seconds >= 30
    assert "/" not in str(caught.value)
    assert "is not there: put it in" in str(caught.value.__cause__)


def test_a_session_that_the_token_ended_is_opened_again(token):
    key = new_ed25519_key(token.key("one"))
    key.sign(b"a text")
    pkcs11.lib(str(token.library)).reinitialize()  # which ends all of them
    assert key.sign(b"a text")


def test_a_token_that_comes_back_with_another_pin_or_without_the_key_is_away(token, session):
    key = new_ed25519_key(token.key("one"))
    token.pin_file.write_text("0000\n")
    pkcs11.lib(str(token.library)).reinitialize()
    assert AWAY in said(lambda: key.sign(b"a text"), kind=UnavailableError)
    token.pin_file.write_text(PIN)
    assert key.sign(b"a text")
    library = pkcs11.lib(str(token.library))
    mine = library.get_token(token_label=token.label).open(rw=True)
    mine.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="one").destroy()
    assert AWAY in said(lambda: require_there(key), kind=UnavailableError)


def test_a_signature_that_does_not_verify_goes_no_further(token, monkeypatch):
    """Two of Ed25519 over one text, one of them wrong, would give the key away."""
    key, on_curve = new_ed25519_key(token.key("one")), new_p256_key(token.key("two"))
    monkeypatch.setattr(signing_keys, "asked", lambda *_: bytes(64))
    for sign in (lambda: key.sign(b"a text"), lambda: on_curve.sign(b"a text", SHA)):
        assert "that does not verify, and it goes no further" in said(sign, kind=UnavailableError)
