"""A device that is enrolled under two consents, the second of which renews the first."""

from dataclasses import replace

from client.wallet.wallet import Enrolment, EnrolmentState
from tests.agreeing import DAY, DEVICE, NOW, RECEIPT

FIRST = RECEIPT.sign(DEVICE)
SECOND = replace(RECEIPT, receipt_id=bytes(16), renews=RECEIPT.receipt_id, issued_at=NOW + DAY).sign(DEVICE)
ENROLMENT = Enrolment(
    "door-access",
    "example.org",
    bytes([0xAB]) * 32,
    EnrolmentState.ENROLLED,
    "trial",
    b"\n".join([FIRST.to_bytes(), SECOND.to_bytes()]),
    7,
)
