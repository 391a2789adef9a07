"""One session of the one-bit match as two state machines without input or output.

Theory of operation
-------------------
Both parties start from the same `SessionTerms`: who, why, for whom, under which release, and the server's fresh
session id and nonce. Then four values travel, in this order, and `run_session` is the whole protocol::

    device                                   server
    send_ciphertext   -- ciphertext, signature -->   receive_ciphertext
                                                     (compare: the homomorphic work, in a worker process)
    receive_reply     <-- reply ------------------   send_reply
                      -- token ------------------>   receive_token  = Decision

Each method runs once and in its turn; a machine that is called out of turn raises, and a machine that raised is over.
The device says the same for every failure: 32 zero bytes. What it sends depends on the one bit and on nothing else.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from federation.errors import PeerError, ProofError, UsageError
from federation.onebit.matcher import Challenge
from federation.onebit.transcript import Decision, Operation, Transcript
from federation.onebit.wire import TOKEN_BYTES, digest

NO_MATCH = bytes(TOKEN_BYTES)
"""What the device answers when no entry of the table opens."""


@dataclass(frozen=True)
class SessionTerms:
    """What both parties agree on before the first ciphertext. Fields as in `Transcript`."""

    operation: Operation
    session_id: bytes
    nonce: bytes
    purpose: str
    audience: str
    key_id: bytes
    release_digest: bytes

    def transcript(self, ciphertext: bytes) -> bytes:
        """Bytes of the transcript once the ciphertext is known."""
        return Transcript(**vars(self), ciphertext_digest=digest(ciphertext)).to_bytes()


class CodeCipher(Protocol):
    """What a session needs of the device's key: `DeviceSecret`, or a double in tests."""

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the public key message."""

    def encrypt(self, code: NDArray[np.uint8]) -> bytes:
        """Encrypts a binary code (m,)."""

    def open_reply(self, reply: bytes, transcript: bytes) -> bytes | None:
        """The session's token, or None."""


class _Turn(Enum):
    CIPHERTEXT = auto()
    REPLY = auto()
    TOKEN = auto()
    OVER = auto()


class _Machine:
    """Lets each step run once and in its turn."""

    def __init__(self) -> None:
        self._turn = _Turn.CIPHERTEXT

    def _begin(self, turn: _Turn) -> None:
        due, self._turn = self._turn, _Turn.OVER
        if due is not turn:
            raise PeerError(f"this session is not waiting for a {turn.name.lower()}; start a new one")


class DeviceSession(_Machine):
    """The device's half. Holds the only secret key."""

    def __init__(self, terms: SessionTerms, secret: CodeCipher, signing_key: Ed25519PrivateKey) -> None:
        super().__init__()
        if terms.key_id != secret.key_id:
            raise UsageError("these terms name another device's key")
        self._terms = terms
        self._secret = secret
        self._signing_key = signing_key
        self._transcript = b""

    def send_ciphertext(self, code: NDArray[np.uint8]) -> tuple[bytes, bytes]:
        """Encrypts the code and signs the transcript. Returns (ciphertext, signature)."""
        self._begin(_Turn.CIPHERTEXT)
        ciphertext = self._secret.encrypt(code)
        self._transcript = self._terms.transcript(ciphertext)
        self._turn = _Turn.REPLY
        return ciphertext, self._signing_key.sign(self._transcript)

    def receive_reply(self, reply: bytes) -> bytes:
        """Opens the reply. Returns the token, or `NO_MATCH`: all that may leave the device.

        Raises:
            MalformedMessageError: the server sent no reply message. Nothing is to be answered then.
            PeerError: out of turn.
        """
        self._begin(_Turn.REPLY)
        token = self._secret.open_reply(reply, self._transcript)
        return NO_MATCH if token is None else token


class ServerSession(_Machine):
    """The server's half. Holds no secret key; learns the decision."""

    def __init__(self, terms: SessionTerms, device_public_key: bytes) -> None:
        super().__init__()
        self._terms = terms
        self._device_public_key = Ed25519PublicKey.from_public_bytes(device_public_key)
        self._token = b""

    def receive_ciphertext(self, ciphertext: bytes, signature: bytes) -> bytes:
        """Checks the signature. Returns the transcript: what the comparison is to be bound to.

        Raises:
            ProofError: the signature is not of this device, or not over this session and ciphertext.
            PeerError: out of turn.
        """
        self._begin(_Turn.CIPHERTEXT)
        transcript = self._terms.transcript(ciphertext)
        try:
            self._device_public_key.verify(signature, transcript)
        except InvalidSignature as error:
            raise ProofError("the signature does not fit this device and session") from error
        self._turn = _Turn.REPLY
        return transcript

    def send_reply(self, challenge: Challenge) -> bytes:
        """Keeps the token, gives the reply to send."""
        self._begin(_Turn.REPLY)
        self._token = challenge.token
        self._turn = _Turn.TOKEN
        return challenge.reply

    def receive_token(self, token: bytes) -> Decision:
        """The decision, by comparing in constant time.

        Raises:
            PeerError: out of turn.
        """
        self._begin(_Turn.TOKEN)
        return Decision.MATCH if hmac.compare_digest(token, self._token) else Decision.NON_MATCH


def run_session(
    device: DeviceSession,
    server: ServerSession,
    code: NDArray[np.uint8],
    compare: Callable[[bytes, bytes], Challenge],
) -> Decision:
    """The whole protocol, with both parties in one place. For tests, benchmarks and readers.

    Args:
        device: the owner's half.
        server: the matching server's half.
        code: (m,) binary code of the live face.
        compare: from (ciphertext, transcript) to a challenge: `match` or `check_template` with its other arguments.
    """
    ciphertext, signature = device.send_ciphertext(code)
    transcript = server.receive_ciphertext(ciphertext, signature)
    reply = server.send_reply(compare(ciphertext, transcript))
    return server.receive_token(device.receive_reply(reply))
