"""One session of the one-bit match as two state machines without input or output.

Theory of operation
-------------------
Both parties start from the same `SessionTerms`: who, why, for whom, under which release, what a match would change,
and the server's fresh session id and nonce. Then four values travel, in this order, and `run_session` is the whole
protocol::

    device                                   server
    send_probe        -- probe, signature ------->   receive_probe
                                                     (compare: the homomorphic work, in a worker process)
    receive_reply     <-- reply ------------------   send_reply
                      -- token ------------------>   receive_token  = Decision

Each method runs once and in its turn; a machine that is called out of turn raises, and a machine that raised is over.
The device says the same for every failure: 16 zero bytes. What it sends depends on the one bit and on nothing else.
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

from federation.errors import PeerError, ProofError
from federation.onebit.matcher import Challenge
from federation.onebit.transcript import NO_CHANGE, Decision, Operation, Transcript
from federation.onebit.wire import NO_MATCH, digest


@dataclass(frozen=True)
class SessionTerms:
    """What both parties agree on before the probe. Fields as in `Transcript`."""

    parameters: str
    operation: Operation
    session_id: bytes
    nonce: bytes
    purpose: str
    audience: str
    key_id: bytes
    template_digest: bytes
    release_digest: bytes
    audience_nonce: bytes = b""
    change_digest: bytes = NO_CHANGE
    log_size: int = 0
    presentation_checked: bool = False

    def transcript(self, probe: bytes) -> bytes:
        """Bytes of the transcript once the probe is known."""
        return Transcript(**vars(self), probe_digest=digest(probe)).to_bytes()


class ProbeCipher(Protocol):
    """What a session needs of the device's key: `SessionKey`, or a double in tests."""

    def encrypt(self, padded_code: NDArray[np.uint8]) -> bytes:
        """Encrypts a padded code (m,)."""

    def open_reply(self, reply: bytes, transcript: bytes) -> bytes | None:
        """The session's token, or None."""


class _Turn(Enum):
    PROBE = auto()
    REPLY = auto()
    TOKEN = auto()
    OVER = auto()


class _Machine:
    """Lets each step run once and in its turn."""

    def __init__(self) -> None:
        self._turn = _Turn.PROBE

    def _begin(self, turn: _Turn) -> None:
        due, self._turn = self._turn, _Turn.OVER
        if due is not turn:
            raise PeerError(f"this session is not waiting for a {turn.name.lower()}; start a new one")


class DeviceSession(_Machine):
    """The device's half.

    Args:
        terms: of the session.
        key: fresh, for this session alone.
        signing_key: Ed25519 key of the device.
    """

    def __init__(self, terms: SessionTerms, key: ProbeCipher, signing_key: Ed25519PrivateKey) -> None:
        super().__init__()
        self._terms = terms
        self._key = key
        self._signing_key = signing_key
        self._transcript = b""

    def send_probe(self, padded_code: NDArray[np.uint8]) -> tuple[bytes, bytes]:
        """Encrypts the padded code and signs the transcript. Returns (probe, signature)."""
        self._begin(_Turn.PROBE)
        probe = self._key.encrypt(padded_code)
        self._transcript = self._terms.transcript(probe)
        signature = self._signing_key.sign(self._transcript)
        self._turn = _Turn.REPLY
        return probe, signature

    def receive_reply(self, reply: bytes) -> bytes:
        """Opens the reply. Returns the token, or `NO_MATCH`: all that may leave the device.

        Raises:
            PeerError: out of turn.
        """
        self._begin(_Turn.REPLY)
        return self._key.open_reply(reply, self._transcript) or NO_MATCH


class ServerSession(_Machine):
    """The server's half. Holds no secret key; learns the decision."""

    def __init__(self, terms: SessionTerms, device_public_key: bytes) -> None:
        super().__init__()
        self._terms = terms
        self._device_public_key = Ed25519PublicKey.from_public_bytes(device_public_key)
        self._token = b""

    def receive_probe(self, probe: bytes, signature: bytes) -> bytes:
        """Checks the signature. Returns the transcript: what the comparison is to be bound to.

        Raises:
            ProofError: the signature is not of this device, or not over this session and probe.
            PeerError: out of turn.
        """
        self._begin(_Turn.PROBE)
        transcript = self._terms.transcript(probe)
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
    padded_code: NDArray[np.uint8],
    compare: Callable[[bytes, bytes], Challenge],
) -> Decision:
    """The whole protocol, with both parties in one place. For tests, benchmarks and readers.

    Args:
        device: the owner's half.
        server: the matching server's half.
        padded_code: (m,) code of the live face under the template's pad.
        compare: from (probe, transcript) to a challenge: `match` with its other arguments.
    """
    probe, signature = device.send_probe(padded_code)
    transcript = server.receive_probe(probe, signature)
    reply = server.send_reply(compare(probe, transcript))
    return server.receive_token(device.receive_reply(reply))
