"""Private keys that sign, from a file or a token, and new ones into either. For the commands of both programs.

Where a command takes a key, it takes the path of a PEM file, or the URI of a key in a token; and a key file may hold
such a URI in place of the key. See `federation.commandline.tokens`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from federation.commandline.extras import require_extra
from federation.commandline.tokens import OPERATOR_SECONDS, SCHEME, Library, TokenUri, asked, while_running
from federation.errors import UnavailableError, UsageError
from federation.secrecy import Guarded

WHERE_HELP: Final = (
    "A key in a PKCS#11 token signs: pkcs11:token=NAME;object=KEY?module-path=LIBRARY&pin-source=FILE. It is made there"
    " where there is none. [default: a new key in a file]"
)
KEY_METAVAR: Final = "FILE|URI"
PrivateKey: TypeAlias = Ed25519PrivateKey | ec.EllipticCurvePrivateKey

_ED25519: Final = bytes.fromhex("06032b6570")  # 1.3.101.112, RFC 8410
_ED25519_NAMED: Final = b"\x13\x0cedwards25519"  # PKCS#11 3.1, section 6.3.5: either form
_P256: Final = bytes.fromhex("06082a8648ce3d030107")  # 1.2.840.10045.3.1.7
_COORDINATE_BYTES: Final = 32
_KINDS: Final = {Ed25519PrivateKey: "Ed25519", ec.EllipticCurvePrivateKey: "on NIST P-256"}


class TokenKey(Guarded):
    """What the keys in tokens have in common.

    Args:
        text: the URI, as it was named.
        uri: the same, read.
    """

    def __init__(self, text: str, uri: TokenUri) -> None:
        self.text = text
        self._uri = uri

    def require_there(self) -> None:
        """See `require_there`."""
        from pkcs11 import Attribute  # noqa: PLC0415 - an extra

        with while_running(self._uri):
            asked(self._uri, lambda library: library.private_key(self._uri)[Attribute.KEY_TYPE])

    def _signed(self, data: bytes, mechanism: str, verify: Callable[[bytes], None]) -> bytes:
        """A signature of the token's, in the token's form.

        Raises:
            UnavailableError: the token is away, or what it gave does not verify.
        """
        from pkcs11 import Mechanism  # noqa: PLC0415 - an extra

        with while_running(self._uri):
            signature: bytes = asked(
                self._uri, lambda library: library.private_key(self._uri).sign(data, mechanism=Mechanism[mechanism])
            )
        try:
            verify(signature)
        except (InvalidSignature, ValueError):
            raise UnavailableError(
                f"{self._uri.where} gave a signature of {self._uri.what} that does not verify, and it goes no further:"
                " its operator must look at the token",
                retry_after_seconds=OPERATOR_SECONDS,
            ) from None
        return signature

    def _stays(self) -> NoReturn:
        raise UsageError(f"{self._uri.what} stays in {self._uri.where}")

    def __copy__(self) -> Any:  # noqa: ANN401 - itself
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:  # noqa: ANN401 - itself
        return self


class TokenEd25519Key(TokenKey, Ed25519PrivateKey):
    """An Ed25519 key in a token (CKM_EDDSA). See `TokenKey`; `public` is its other half, 32 bytes."""

    def __init__(self, text: str, uri: TokenUri, public: bytes) -> None:
        super().__init__(text, uri)
        self._public = Ed25519PublicKey.from_public_bytes(public)

    def public_key(self) -> Ed25519PublicKey:
        """The other half."""
        return self._public

    def sign(self, data: Any) -> bytes:  # noqa: ANN401 - cryptography's Buffer
        """64 bytes.

        Raises:
            UnavailableError: the token is away.
        """
        return self._signed(bytes(data), "EDDSA", lambda signature: self._public.verify(signature, data))

    def private_bytes(self, *_: Any) -> NoReturn:  # noqa: ANN401 - cryptography's
        """Nobody gets them."""
        self._stays()

    def private_bytes_raw(self) -> NoReturn:
        """Nobody gets them."""
        self._stays()


class TokenP256Key(TokenKey, ec.EllipticCurvePrivateKey):
    """A key on NIST P-256 in a token (CKM_ECDSA). See `TokenKey`; `public` is its point, uncompressed."""

    def __init__(self, text: str, uri: TokenUri, public: bytes) -> None:
        super().__init__(text, uri)
        self._public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The other half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """NIST P-256."""
        return ec.SECP256R1()

    @property
    def key_size(self) -> int:
        """In bits."""
        return self.curve.key_size

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm, *_: Any) -> bytes:  # noqa: ANN401 - cryptography's
        """DER.

        Raises:
            UnavailableError: the token is away.
        """
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.HashAlgorithm):
            raise UsageError("a key in a token signs data, and not what somebody else hashed")
        digest = hashes.Hash(algorithm)
        digest.update(data)

        def verify(signature: bytes) -> None:
            self._public.verify(_as_der(signature), data, ec.ECDSA(algorithm))

        return _as_der(self._signed(digest.finalize(), "ECDSA", verify))

    def exchange(self, *_: Any) -> NoReturn:  # noqa: ANN401 - cryptography's
        """Not with a signing key."""
        self._stays()

    def private_bytes(self, *_: Any) -> NoReturn:  # noqa: ANN401 - cryptography's
        """Nobody gets them."""
        self._stays()

    def private_numbers(self) -> NoReturn:
        """Nobody gets them."""
        self._stays()


def is_token(named: str) -> bool:
    """Whether that names a key in a token, and not a file. A scheme is written in either case (RFC 3986, 3.1)."""
    return named[: len(SCHEME)].lower() == SCHEME


def ed25519_key(named: str | Path) -> Ed25519PrivateKey:
    """The Ed25519 key that a path or a URI names.

    Raises:
        UsageError: it cannot be read, or is another kind of key.
        UnavailableError: its token does not answer.
    """
    key = private_key(named)
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{_shown(named)} holds another kind of key than Ed25519")
    return key


def p256_key(named: str | Path) -> ec.EllipticCurvePrivateKey:
    """The key on NIST P-256 that a path or a URI names. Raises what `ed25519_key` does."""
    key = private_key(named)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(f"{_shown(named)} holds another kind of key than one on NIST P-256")
    return key


def private_key(named: str | Path) -> PrivateKey:
    """The key that a path or a URI names, of either kind. Raises what `ed25519_key` does."""
    if is_token(str(named)):
        return _in_token(str(named))
    try:
        content = Path(named).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {named}: {error.strerror}") from error
    if is_token(held := content.decode(errors="replace").strip()):
        return _in_token(held)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise UsageError(f"{named} holds no unencrypted private key") from None  # the cause may quote it
    if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise UsageError(f"{named} holds another kind of key than Ed25519 or P-256")
    return key


def require_there(key: object) -> None:
    """Returns when a key can sign, as far as that shows without signing. One of a file always can.

    For health: opens again what was closed when a token was taken away and put back.

    Raises:
        UnavailableError: its token is away. Says which.
    """
    if isinstance(key, TokenKey):
        key.require_there()


def file_of(key: PrivateKey) -> bytes:
    """What stands in a key file: the key as PEM, or where it is. As `private_key` reads it."""
    if isinstance(key, TokenKey):
        return key.text.encode() + b"\n"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def new_ed25519_key(named: str | None = None) -> Ed25519PrivateKey:
    """A new Ed25519 key; with a URI the one that is in the token, which is made where there is none.

    Raises:
        UsageError: what is named is no URI, or another kind of key, or the token cannot make one.
    """
    if named is None:
        return Ed25519PrivateKey.generate()
    _make_in_token(named, _ED25519)
    return ed25519_key(named)


def new_p256_key(named: str | None = None) -> ec.EllipticCurvePrivateKey:
    """As `new_ed25519_key`, on NIST P-256."""
    if named is None:
        return ec.generate_private_key(ec.SECP256R1())
    _make_in_token(named, _P256)
    return p256_key(named)


def _in_token(text: str) -> TokenEd25519Key | TokenP256Key:
    uri = _uri_of(text)
    from pkcs11 import Attribute, KeyType, ObjectClass  # noqa: PLC0415 - an extra

    def look(library: Library) -> tuple[bytes, bytes]:
        library.private_key(uri)
        public = library.found(uri, ObjectClass.PUBLIC_KEY)
        if public.key_type not in {KeyType.EC, KeyType.EC_EDWARDS}:
            return b"", b""
        return public[Attribute.EC_PARAMS], public[Attribute.EC_POINT]

    curve, point = asked(uri, look)
    try:
        # The point comes as it is, or as an OCTET STRING: what is before it is left away.
        if curve in {_ED25519, _ED25519_NAMED}:
            return TokenEd25519Key(text, uri, point[-_COORDINATE_BYTES:])
        if curve == _P256:
            return TokenP256Key(text, uri, point[-2 * _COORDINATE_BYTES - 1 :])
    except ValueError:
        raise UsageError(f"{uri.where} shows no public key that fits {uri.what}") from None
    raise UsageError(f"{uri.what} in {uri.where} is neither {' nor '.join(_KINDS.values())}: make another one")


def _make_in_token(text: str, curve: bytes) -> None:
    uri = _uri_of(text)
    import pkcs11  # noqa: PLC0415 - an extra
    from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass  # noqa: PLC0415 - the same

    kind, how = (
        (KeyType.EC_EDWARDS, Mechanism.EC_EDWARDS_KEY_PAIR_GEN)
        if curve == _ED25519
        else (KeyType.EC, Mechanism.EC_KEY_PAIR_GEN)
    )

    def make(library: Library) -> None:
        query = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: uri.label, Attribute.ID: uri.key_id}
        if any(library.session(uri).get_objects({name: value for name, value in query.items() if value is not None})):
            return
        with library.opened(uri, writes=True) as session:
            parameters = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: curve}, local=True)
            try:
                parameters.generate_keypair(
                    mechanism=how,
                    store=True,
                    id=uri.key_id,
                    label=uri.label,
                    capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                    private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
                )
            except (pkcs11.MechanismInvalid, pkcs11.FunctionNotSupported):
                raise UsageError(f"{uri.where} makes no keys of this kind: {kind.name}") from None

    asked(uri, make)


def _uri_of(text: str) -> TokenUri:
    if not is_token(text):  # and it is not quoted, since what was meant for one may hold a PIN
        raise UsageError(f"a URI of a key in a token begins with {SCHEME}")
    uri = TokenUri.from_text(text)
    require_extra("pkcs11")
    return uri


def _shown(named: str | Path) -> str:
    if not is_token(str(named)):
        return str(named)
    uri = TokenUri.from_text(str(named))
    return f"{uri.where} under the name of {uri.what}"


def _as_der(signature: bytes) -> bytes:
    """An ECDSA signature as everybody else writes it: a token gives two numbers of equal length."""
    middle = len(signature) // 2
    return encode_dss_signature(int.from_bytes(signature[:middle], "big"), int.from_bytes(signature[middle:], "big"))
