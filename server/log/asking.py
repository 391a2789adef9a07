"""Asks witnesses for cosignatures: what a log does with each checkpoint before it hands it out.

Theory of operation
-------------------
Every witness has a thread of its own, with one request under way and at most one checkpoint that waits behind it: the
latest. So a witness that is slow, dead or lies costs a thread and a few kilobytes, and never another one's time.

A round (`Witnesses.cosign`) gives a checkpoint to all of them and waits until enough have signed, as the log's policy
counts, but not beyond a deadline, and not for witnesses that were silent last: those are asked again and again, and
waited for again once they have answered. When nothing is left to wait for, the checkpoint goes out with the lines that
it has. What that is worth is decided by whoever reads it.

Nothing that a witness says is believed. A line counts when it is of the named key, verifies over this checkpoint, and
is dated now. A size that it claims to know only says where the next proof begins.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlsplit

import h11
import structlog

from federation.errors import IntaglioError, PeerError, ProofError, UsageError
from federation.transparency import Growth, LogPolicy, NoteSignature, SignedCheckpoint, VerifierKey
from federation.transparency.notes import SignedNote, decimal
from federation.transparency.policy import NamedWitness

WAIT_SECONDS: Final = 1.0
"""How long a batch waits for its cosignatures."""
EXCHANGE_SECONDS: Final = 5.0
"""How long one request may take, from the first address of the host to the last byte of the answer."""
REFRESH_SECONDS: Final = 60
"""A witness is asked again when its line is older."""
_AHEAD_SECONDS = 60
_MOST_BYTES: Final = 32 * 1024
"""Of an answer, headers and all."""
_ATTEMPTS = 3
"""The first, the size that the witness then says, and one more if it moved meanwhile."""
_CONFLICT = 409

log = structlog.get_logger(__name__)


class Grows(Protocol):
    """What the asking needs of a log."""

    def checkpoint(self) -> SignedCheckpoint:
        """The last signed checkpoint, by whichever front end."""

    def grow_from(self, old_size: int, to: SignedCheckpoint | None = None) -> Growth:
        """A checkpoint with the proof that it extends the tree of `old_size`."""


class _AheadError(PeerError):
    """The witness says that it cosigned a larger tree than the one that it was asked about."""


@dataclass(eq=False)
class _Asked:
    """One witness, as its thread and the rounds see it; under the lock of `Witnesses`.

    Attributes:
        witness: name, key and address.
        waiting: what to ask next.
        asking: what is being asked.
        line: the last cosignature that verified, with its time and the text that it is over.
        known: entries that the witness cosigned last, as far as is known.
        silent: why it is not waited for; empty while it is.
        is_ahead: whether it claimed to know a larger tree than it was last asked about.
    """

    witness: NamedWitness
    waiting: SignedCheckpoint | None = None
    asking: SignedCheckpoint | None = None
    line: tuple[str, int, NoteSignature] | None = None
    known: int = 0
    silent: str = ""
    is_ahead: bool = False
    thread: threading.Thread | None = field(default=None, repr=False)

    @property
    def is_waited_for(self) -> bool:
        return not self.silent and (self.waiting is not None or self.asking is not None)


class Witnesses:
    """The witnesses of one log that have an address. May be used from several threads; ends with `close`.

    Args:
        policy: of the log.
        clock: seconds since 1970.
        wait_seconds: of a round.
        exchange_seconds: of one request.
    """

    def __init__(
        self,
        policy: LogPolicy,
        *,
        clock: Callable[[], int],
        wait_seconds: float = WAIT_SECONDS,
        exchange_seconds: float = EXCHANGE_SECONDS,
    ) -> None:
        self._policy, self._clock = policy, clock
        self._wait_seconds, self._exchange_seconds = wait_seconds, exchange_seconds
        self._asked = [_Asked(witness) for witness in policy.witnesses if witness.address is not None]
        if policy.threshold > sum(asked.witness.key in policy.counted for asked in self._asked):
            raise UsageError(
                f"the log's policy waits for {policy.threshold} witnesses, and fewer have an address where they are"
                " asked; write it behind the key"
            )
        self._round = threading.Lock()
        self._changed = threading.Condition()
        self._closing = False

    @property
    def names(self) -> list[str]:
        """Of those that are asked."""
        return [asked.witness.key.name for asked in self._asked]

    def without_strangers(self, note: SignedNote) -> SignedNote:
        """The note with the lines of the log and of the witnesses that its policy names now, one of each."""
        keys = (
            self._policy.log_key,
            self._policy.log_key.as_cosigner(),
            *(witness.key for witness in self._policy.witnesses),
        )
        lines = {key: signature for key in keys for signature in note.signatures if key.has_signed(signature)}
        return SignedNote(note.text, tuple(lines.values()))

    @property
    def silent(self) -> dict[str, str]:
        """Witnesses that did not cosign when they were asked last, by name, and why."""
        with self._changed:
            return {asked.witness.key.name: asked.silent for asked in self._asked if asked.silent}

    def cosign(self, checkpoint: SignedCheckpoint, log: Grows) -> SignedCheckpoint:
        """One round.

        Args:
            checkpoint: of the log, its last one or older.
            log: gives proofs, and a newer checkpoint where a witness has seen one by another front end already.

        Returns:
            The checkpoint, or a newer one, with what lines it has in time.
        """
        ends = time.monotonic() + self._wait_seconds
        if not self._round.acquire(timeout=self._wait_seconds):
            return self._with_lines(checkpoint)
        try:
            while True:
                checkpoint, is_ahead = self._ask_all(checkpoint, log, ends)
                newest = log.checkpoint() if is_ahead and not self._is_met(checkpoint.note.text) else checkpoint
                if newest.head.size <= checkpoint.head.size or time.monotonic() >= ends:
                    return checkpoint
                checkpoint = newest  # another front end went on, and the witnesses with it
        finally:
            self._round.release()

    def close(self) -> None:
        """Lets the threads end, each once its request has."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for asked in self._asked:
            if asked.thread is not None:
                asked.thread.join(self._exchange_seconds)

    def _ask_all(self, checkpoint: SignedCheckpoint, log: Grows, ends: float) -> tuple[SignedCheckpoint, bool]:
        """Asks those that have not signed lately. Whether one claims to be ahead comes with it."""
        text = checkpoint.note.text
        with self._changed:
            missing = [asked for asked in self._asked if asked.witness.key not in self._signed(text)]
            for asked in [] if self._closing else missing:
                asked.waiting, asked.is_ahead = checkpoint, False
                if asked.thread is None:
                    thread = threading.Thread(target=self._ask, args=(asked, log), name="witness", daemon=True)
                    thread.start()  # or the next batch tries again
                    asked.thread = thread
            self._changed.notify_all()
            while not self._is_met(text) and (waited_for := [asked for asked in missing if asked.is_waited_for]):
                if time.monotonic() >= ends:
                    for asked in waited_for:
                        self._set_silent(asked, "did not answer in time")
                    break
                self._changed.wait(max(0.0, ends - time.monotonic()))
            return self._with_lines(checkpoint), any(asked.is_ahead for asked in missing)

    def _is_met(self, text: str) -> bool:
        """Whether as many have signed as devices want."""
        return len(self._signed(text) & set(self._policy.counted)) >= self._policy.threshold

    def _signed(self, text: str) -> set[VerifierKey]:
        """Who signed this text lately. Each key counts once."""
        since = self._clock() - REFRESH_SECONDS
        return {
            asked.witness.key
            for asked in self._asked
            if asked.line is not None and asked.line[0] == text and asked.line[1] >= since
        }

    def _with_lines(self, checkpoint: SignedCheckpoint) -> SignedCheckpoint:
        """The checkpoint with the lines that came and were verified here."""
        note = self.without_strangers(checkpoint.note)
        with self._changed:
            lines = [asked.line for asked in self._asked if asked.line is not None and asked.line[0] == note.text]
        for *_, signature in lines:
            note = note.with_signature(signature)
        return SignedCheckpoint(note)

    # ------------------------------------------------------------------ in a witness's thread

    def _ask(self, asked: _Asked, log: Grows) -> None:
        wire = _Wire(asked.witness.address or "", self._exchange_seconds)
        while True:
            with self._changed:
                asked.asking = None
                self._changed.notify_all()
                while asked.waiting is None and not self._closing:
                    self._changed.wait()
                if self._closing:
                    break
                checkpoint, asked.waiting = asked.waiting, None
                asked.asking = checkpoint
            if checkpoint is not None:
                self._ask_about(asked, checkpoint, log, wire)
        wire.close()

    def _ask_about(self, asked: _Asked, checkpoint: SignedCheckpoint, log: Grows, wire: _Wire) -> None:
        line: tuple[str, int, NoteSignature] | None = None
        reason, is_ahead = "", False
        try:
            try:
                line = self._exchange(asked, checkpoint, log, wire)
            except _AheadError as error:
                # Another front end may have been there first; if not, this log was put back, or the witness lies.
                newest = log.checkpoint().head.size > checkpoint.head.size
                reason, is_ahead = "" if newest else str(error), True
        except IntaglioError as error:
            reason = str(error)
        except ssl.SSLCertVerificationError as error:
            reason = f"shows a certificate that is not trusted here: {error.verify_message}"
        except (OSError, h11.ProtocolError, ValueError) as error:
            reason = f"cannot be reached: {type(error).__name__}"
        except BaseException as error:  # noqa: BLE001 - whatever it was, the thread must go on
            reason = f"failed: {type(error).__name__}"
        with self._changed:
            asked.is_ahead = is_ahead
            if line is not None:
                asked.line, asked.known = line, checkpoint.head.size
            self._set_silent(asked, reason)

    def _exchange(
        self, asked: _Asked, checkpoint: SignedCheckpoint, log: Grows, wire: _Wire
    ) -> tuple[str, int, NoteSignature]:
        """Asks until the witness signs, from the size on that it says.

        Raises:
            PeerError, ProofError: its answer is none, or its signature is not one.
            OSError, h11.ProtocolError: it cannot be reached, or takes too long.
        """
        size = checkpoint.head.size
        old = min(asked.known, size)
        for _ in range(_ATTEMPTS):
            status, body = wire.post(log.grow_from(old, checkpoint).to_bytes())
            if status == 200:  # noqa: PLR2004 - HTTP's OK
                return self._verified(asked.witness.key, checkpoint, body)
            if status != _CONFLICT:
                raise PeerError(f"answers with status {status}")
            known = decimal(body.decode(errors="replace").removesuffix("\n"))
            if known > size:
                raise _AheadError(f"says that it has seen {known} entries, and was asked about {size}")
            if known == old:
                break
            old = known
        raise PeerError("contradicts itself about the entries that it has seen")

    def _verified(self, key: VerifierKey, checkpoint: SignedCheckpoint, body: bytes) -> tuple[str, int, NoteSignature]:
        """The witness's line in an answer; lines of other keys are ignored."""
        lines = body.decode(errors="replace").removesuffix("\n").split("\n")
        own = next((one for one in map(NoteSignature.from_line, lines) if key.has_signed(one)), None)
        if own is None:
            raise PeerError("answers without a cosignature of its key")
        text, now = checkpoint.note.text, self._clock()
        stated = key.verify(text, own)
        if stated is None or not now - REFRESH_SECONDS <= stated <= now + _AHEAD_SECONDS:
            raise ProofError("dates its cosignature otherwise than now; check both clocks")
        return text, stated, own

    def _set_silent(self, asked: _Asked, reason: str) -> None:
        if bool(reason) != bool(asked.silent):
            said = log.warning if reason else log.info
            said("witness silent" if reason else "witness cosigns", witness=asked.witness.key.name, reason=reason)
        asked.silent = reason


class _Wire:
    """One connection to a witness, kept open between requests. Of one thread.

    Args:
        address: of the witness.
        seconds: for each request.
    """

    def __init__(self, address: str, seconds: float) -> None:
        parts = urlsplit(address)
        self._host, self._is_secure = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if self._is_secure else 80)
        self._target, self._named = f"{parts.path}/add-checkpoint", parts.netloc
        self._seconds = seconds
        self._socket: socket.socket | None = None
        self._http = h11.Connection(h11.CLIENT)

    def post(self, data: bytes) -> tuple[int, bytes]:
        """Sends a request.

        Returns:
            Status and body.

        Raises:
            OSError, h11.ProtocolError: it failed, took too long, or the answer is too long.
        """
        ends = time.monotonic() + self._seconds
        was_open = self._socket is not None
        try:
            return self._exchange(data, ends)
        except (OSError, h11.RemoteProtocolError):
            self.close()
            if not was_open:
                raise
        try:
            return self._exchange(data, ends)  # the witness had closed a connection that was idle
        except (OSError, h11.RemoteProtocolError):
            self.close()
            raise

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, data: bytes, ends: float) -> tuple[int, bytes]:
        connection = self._opened(ends)
        headers = [
            ("host", self._named),
            ("content-length", str(len(data))),
            ("content-type", "text/plain; charset=utf-8"),
        ]
        request = h11.Request(method="POST", target=self._target, headers=headers)
        sent = [self._http.send(event) for event in (request, h11.Data(data=data), h11.EndOfMessage())]
        connection.settimeout(_left(ends))
        connection.sendall(b"".join(filter(None, sent)))
        status, body, received = 0, bytearray(), 0
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.settimeout(_left(ends))
                read = connection.recv(4096)
                received += len(read)
                if received > _MOST_BYTES:
                    self.close()
                    raise PeerError(f"answers with more than {_MOST_BYTES} bytes")
                self._http.receive_data(read)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionError("the witness closed the connection")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.close()
        return status, bytes(body)

    def _opened(self, ends: float) -> socket.socket:
        if self._socket is None:
            self._http = h11.Connection(h11.CLIENT)
            made = _connected(self._host, self._port, ends)
            try:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._is_secure:
                    made.settimeout(_left(ends))
                    made = ssl.create_default_context().wrap_socket(made, server_hostname=self._host)
            except BaseException:
                made.close()
                raise
            self._socket = made
        return self._socket


def _connected(host: str, port: int, ends: float) -> socket.socket:
    """A connection to one of the host's addresses, however many of them swallow what they are sent."""
    error = OSError("a name without an address")
    for family, kind, protocol, _, to in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(_left(ends))
            made.connect(to)
        except OSError as failed:
            made.close()
            error = failed
        else:
            return made
    raise error


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("the witness takes too long")
    return left
