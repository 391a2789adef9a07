"""What a device knows at the end of a session, and how long it took."""

from __future__ import annotations

import time
from dataclasses import dataclass

from federation.onebit import Decision


@dataclass(frozen=True)
class VerificationOutcome:
    """What the device knows at the end. The score is not part of it: nobody knows it.

    Attributes:
        decision: as the server recorded it.
        device_ms: time that the device computed while a face was there, milliseconds, waiting for the server excluded.
        upload_bytes: size of the message with the probe, and with what a match was to put in force.
        reply_bytes: size of the reply that came down.
        log_position: in the transparency log, of what a match put in force, else of the attempt.
        assertion: for the audience, checked, when it gave a nonce and the claim was accepted.
    """

    decision: Decision
    device_ms: float
    upload_bytes: int
    reply_bytes: int
    log_position: int
    assertion: str | None = None


class Stopwatch:
    """Adds up the time spent inside `with` blocks."""

    def __init__(self) -> None:
        self.milliseconds = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.milliseconds += (time.perf_counter() - self._begun) * 1e3
