"""Signing keys in a PKCS#11 token: a hardware security module, a smart card, or SoftHSM. They never leave it.

A key is named by a URI (RFC 7512), which stands where the path of a key file would, or in the file itself::

    pkcs11:token=intaglio;object=log?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/etc/intaglio/pin

and is an `Ed25519PrivateKey` or `EllipticCurvePrivateKey` of `cryptography` as those of files are. So whoever signs
with one need not know which it is.

Theory of operation
-------------------
A PKCS#11 library keeps one state for the whole process: which tokens there are, who has logged in, what is open. So
there is one `Library` for each, and one call in it at a time. When a call fails, everything of it is closed, the
library is initialised again, which is how it finds a token that was put back, and the call is made once more. If that
fails too, the token is away: `UnavailableError`, and the next call begins from the start.

A PIN that a token refused is not shown to it again in this process, because a token locks itself after some of them. A
signature that does not verify is not handed on: of a key like Ed25519's a wrong one gives the key away.

Source: PKCS#11 3.1 (OASIS); RFC 7512.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import unquote, unquote_to_bytes

import typer

from federation.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from pkcs11 import Session

SCHEME: Final = "pkcs11:"
OPERATOR_SECONDS: Final = 30.0
"""A device waits for no operator; see `server.faults`."""
_PATH: Final = {"token": "token", "serial": "serial", "object": "label", "id": "key_id"}
_QUERY: Final = {"module-path": "library", "pin-source": "pin_file"}
_FORM: Final = "pkcs11:token=NAME;object=KEY?module-path=LIBRARY&pin-source=FILE"
_REFUSED_PINS: Final = {
    "PinIncorrect": "refused the PIN: put the right one into {where}. This one is not tried again, because a token"
    " locks itself after a few",
    "PinInvalid": "refused the PIN: put the right one into {where}",
    "PinLenRange": "refused the PIN, whose length is not one that it has: put the right one into {where}",
    "PinLocked": "has locked its PIN after wrong ones: its security officer must set a new one",
    "PinExpired": "says that its PIN has expired: set a new one with the token's own tool",
    "UserPinNotInitialized": "has no PIN yet: set one with the token's own tool",
}
"""Of each answer to a PIN after which the same one is not shown again."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class TokenUri:
    """Names one key in one token.

    Attributes:
        library: absolute path of the PKCS#11 library of its maker.
        token: label of the token, or None.
        serial: serial number of the token, or None; one of the two is there.
        label: of the key, or None.
        key_id: identifier of the key, or None; one of the two is there.
        pin_file: whose first line is the PIN; None asks in the terminal.
    """

    library: str
    token: str | None = None
    serial: str | None = None
    label: str | None = None
    key_id: bytes | None = None
    pin_file: Path | None = None

    @classmethod
    def from_text(cls, text: str) -> TokenUri:
        """Reads the URI.

        Raises:
            UsageError: it is none, has an attribute that is not known here, or lacks one. A PIN in it is not quoted.
        """
        scheme, (path, _, query) = text[: len(SCHEME)], text[len(SCHEME) :].partition("?")
        found: dict[str, Any] = {}
        for parts, known in ((path.split(";"), _PATH), (query.split("&"), _QUERY)):
            for part in filter(None, parts):
                name, equals, value = part.partition("=")
                if name == "pin-value":
                    raise UsageError("a PIN does not stand in a name: put it into a file, and name that as pin-source")
                if name == "type" and value == "private":
                    continue
                if name not in known or not value or known[name] in found:
                    named = repr(name[:20]) if equals else "a part without a name"  # which may be a PIN
                    raise UsageError(f"{named} is unknown, empty or twice in the token's URI; write {_FORM}")
                found[known[name]] = unquote_to_bytes(value) if name == "id" else unquote(value)
        if scheme.lower() != SCHEME or "library" not in found:
            raise UsageError(f"a key in a token is written {_FORM}")
        if not found.keys() & {"token", "serial"} or not found.keys() & {"label", "key_id"}:
            raise UsageError(f"the token's URI names no token, or no key in it; write {_FORM}")
        if source := found.get("pin_file"):
            found["pin_file"] = Path(source.removeprefix("file://").removeprefix("file:"))
        if not all(Path(found[name]).is_absolute() for name in ("library", "pin_file") if name in found):
            raise UsageError("module-path and pin-source of a token's URI are absolute paths")
        return cls(**found)

    @property
    def where(self) -> str:
        """The token, for people."""
        return f"the token {self.serial if self.token is None else self.token!r}"

    @property
    def what(self) -> str:
        """The key, for people."""
        return f"the key {self.label!r}" if self.label else f"the key with id {(self.key_id or b'').hex()}"

    @property
    def its_token(self) -> tuple[str | None, str | None]:
        """What tells tokens apart."""
        return self.token, self.serial


@dataclass
class Library:
    """One PKCS#11 library in this process. Whoever uses it holds its lock.

    Attributes:
        path: of the library.
    """

    path: str
    lock: threading.RLock = field(default_factory=threading.RLock)
    _loaded: Any = None
    _sessions: dict[tuple[str | None, str | None], Session] = field(default_factory=dict)
    _keys: dict[TokenUri, Any] = field(default_factory=dict)
    _pins: dict[tuple[str | None, str | None], str] = field(default_factory=dict, repr=False)
    _refused: dict[tuple[str | None, str | None, str], str] = field(default_factory=dict, repr=False)

    def begin_again(self) -> None:
        """Closes everything, and looks anew for tokens."""
        self._sessions.clear()
        self._keys.clear()
        self._module().reinitialize()

    def private_key(self, uri: TokenUri) -> Any:  # noqa: ANN401 - the stub of its class cannot sign
        """The handle of a key."""
        from pkcs11 import ObjectClass  # noqa: PLC0415 - an extra

        if uri not in self._keys:
            self._keys[uri] = self.found(uri, ObjectClass.PRIVATE_KEY)
        return self._keys[uri]

    def found(self, uri: TokenUri, kind: Any) -> Any:  # noqa: ANN401 - a key of that class
        """The one object of that class and name."""
        import pkcs11  # noqa: PLC0415 - an extra

        session, half = self.session(uri), kind.name.lower().replace("_", " ")
        try:
            return session.get_key(object_class=kind, label=uri.label, id=uri.key_id)
        except pkcs11.NoSuchKey:
            raise UsageError(f"{uri.where} has no {half} for {uri.what}") from None
        except pkcs11.MultipleObjectsReturned:
            raise UsageError(f"{uri.where} has more than one {half} for {uri.what}: name one by id=") from None

    def session(self, uri: TokenUri) -> Session:
        """A session with the token, logged in."""
        if uri.its_token not in self._sessions:
            self._sessions[uri.its_token] = self.opened(uri)
        return self._sessions[uri.its_token]

    def opened(self, uri: TokenUri, *, writes: bool = False) -> Session:
        """Another session with the token."""
        import pkcs11  # noqa: PLC0415 - an extra

        token, whose = self._token(uri), uri.its_token
        if whose in self._sessions:  # the process has logged in
            return cast("Session", token.open(rw=writes))
        if uri.pin_file or whose not in self._pins:
            self._pins[whose] = _pin_of(uri)
        pin = self._pins[whose]
        if why := self._refused.get((*whose, pin)):
            raise UsageError(why)
        try:
            return cast("Session", token.open(rw=writes, user_pin=pin))
        except pkcs11.PKCS11Error as error:
            if (told := _REFUSED_PINS.get(type(error).__name__)) is None:
                raise
            why = f"{uri.where} {told.format(where=uri.pin_file or 'the prompt')}"
            self._refused[*whose, pin] = why
            raise UsageError(why) from None

    def _token(self, uri: TokenUri) -> Any:  # noqa: ANN401 - as `_module`
        import pkcs11  # noqa: PLC0415 - an extra

        serial = uri.serial.encode() if uri.serial else None
        try:
            return self._module().get_token(token_label=uri.token, token_serial=serial)
        except pkcs11.NoSuchToken:
            there = ", ".join(sorted(token.label for token in self._module().get_tokens() if token.label))
            raise UsageError(
                f"{uri.where} is not there: put it in, or name another. {self.path} sees {there or 'none'}"
            ) from None
        except pkcs11.MultipleTokensReturned:
            raise UsageError(f"several tokens are called {uri.token!r}: name one by serial=") from None

    def _module(self) -> Any:  # noqa: ANN401 - its stub and its class differ
        import pkcs11  # noqa: PLC0415 - an extra

        if self._loaded is None:
            try:
                self._loaded = pkcs11.lib(self.path)
            except (pkcs11.PKCS11Error, OSError, RuntimeError) as error:
                raise UsageError(
                    f"{self.path} cannot be used as a PKCS#11 library ({type(error).__name__}): install the token's"
                    " software, set it up, let the user that this runs as read its folders (SoftHSM on Debian: group"
                    " softhsm), and name its library as module-path"
                ) from None
        if not self._loaded.initialized:
            self._loaded.initialize()
        return self._loaded


_LIBRARIES: Final[dict[str, Library]] = {}
_OPENING: Final = threading.Lock()


def library_of(uri: TokenUri) -> Library:
    """The one library of that path."""
    with _OPENING:
        return _LIBRARIES.setdefault(uri.library, Library(uri.library))


def asked(uri: TokenUri, ask: Callable[[Library], _T]) -> _T:
    """What a library answers, after a second try from the start where the first one failed.

    Raises:
        UsageError: the name or the PIN is wrong.
        UnavailableError: the token does not answer.
    """
    import pkcs11  # noqa: PLC0415 - an extra

    library = library_of(uri)
    with library.lock:
        for again in (False, True):
            try:
                if again:
                    library.begin_again()
                return ask(library)
            except UsageError:
                if again:
                    raise
            except pkcs11.PKCS11Error as error:
                if again:
                    raise _away(uri) from UsageError(f"{uri.where} answers with {type(error).__name__}")
    raise AssertionError("the second try ends it")


@contextmanager
def while_running(uri: TokenUri) -> Iterator[None]:
    """What would be a wrong option at the start is a part that fails later: the same call may succeed again.

    The error is for anybody, its cause for the operator.
    """
    try:
        yield
    except UsageError as error:
        raise _away(uri) from error


def _away(uri: TokenUri) -> UnavailableError:
    return UnavailableError(
        f"{uri.where} with {uri.what} was taken away or does not sign any more: nothing is done without it, and its"
        " operator must put it back",
        retry_after_seconds=OPERATOR_SECONDS,
    )


def _pin_of(uri: TokenUri) -> str:
    if uri.pin_file is None:
        if not sys.stdin.isatty():
            raise UsageError(
                f"{uri.where} wants its PIN, and there is no terminal to ask: put it into a file, and name that as"
                " pin-source= in the URI"
            )
        return str(typer.prompt(f"PIN of {uri.where}", hide_input=True, err=True))
    try:
        pin = uri.pin_file.read_bytes().decode().partition("\n")[0].rstrip("\r")
    except OSError as error:
        raise UsageError(f"cannot read the PIN of {uri.where} in {uri.pin_file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{uri.pin_file} is not text in UTF-8") from None  # the cause quotes the bytes
    if not pin:
        raise UsageError(f"the first line of {uri.pin_file} is empty: it shall be the PIN of {uri.where}")
    return pin
