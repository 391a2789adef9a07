"""Known answers of consent, in `tests/vectors/consent`: one good receipt, one withdrawal, and one file for each damage.

`python -m tests.federation.consent.make_vectors` writes them again, after a deliberate change of the format.
"""

from __future__ import annotations

import json
from pathlib import Path

from federation.consent.receipts import SignedReceipt
from tests.agreeing import BINDING, DAY, DEVICE, NOW, STRANGER, a_receipt, public, sha256

DIRECTORY = Path(__file__).parents[2] / "vectors" / "consent"


def _edited(change) -> bytes:
    """The good receipt with an edit of its JSON that nobody signed again."""
    value = json.loads(a_receipt().to_bytes())
    change(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _without(name):
    return lambda value: value["receipt"].pop(name)


def _with(name, content):
    return lambda value: value["receipt"].update({name: content})


def good() -> dict[str, bytes]:
    receipt = a_receipt()
    return {"receipt.json": receipt.to_bytes(), "withdrawal.json": receipt.withdraw(DEVICE, now=NOW + DAY).to_bytes()}


def malformed() -> dict[str, bytes]:
    """No receipts at all, whoever signed them."""
    data = a_receipt().to_bytes()
    return {
        "alternative-empty": _edited(_with("intaglio:alternative", "")),
        "alternative-missing": _edited(_without("intaglio:alternative")),
        "alternative-says-none": _edited(_with("intaglio:alternative", "none")),
        "contest-address-missing": _edited(_without("intaglio:contest")),
        "expiry-before-issue": _edited(_with("dct:valid", "2030-01-02T00:00:00Z/2030-01-01T00:00:00Z")),
        "field-unknown": _edited(_with("intaglio:note", "hello")),
        "key-repeated": data.replace(b'"dct:language":"en"', b'"dct:language":"en","dct:language":"en"'),
        "language-escaped": data.replace(b'"en"', b'"\\u0065n"'),
        "no-status": _edited(_without("dpv:hasConsentStatus")),
        "purpose-red-line": data.replace(b'"door-access"', b'"face-search"'),
        "purposes-none": _edited(_with("dpv:hasPurpose", [])),
        "signature-short": _edited(lambda value: value.update(signature=value["signature"][:-2])),
        "space-added": data.replace(b":", b": ", 1),
        "status-withdrawn": data.replace(b"dpv:ConsentGiven", b"dpv:ConsentWithdrawn"),
        "text-decomposed": data.replace("ß".encode(), "u\u0308".encode()),
        "time-with-fraction": data.replace(b"T00:00:00Z/", b"T00:00:00.0Z/"),
        "trailing-newline": data + b"\n",
        "truncated": data[:-1],
        "withdrawal-channel-missing": _edited(_without("dpv:hasConsentControl")),
    }


def unproven() -> dict[str, bytes]:
    """Receipts that the enrolled device did not sign."""
    good_receipt = a_receipt()
    return {
        "controller-altered": good_receipt.to_bytes().replace(b"Beispiel GmbH", b"Baispiel GmbH"),
        "expiry-altered": good_receipt.to_bytes().replace(b"/2030-04-01", b"/2031-04-01"),
        "signature-altered": _edited(
            lambda value: value.update(
                signature=("0" if value["signature"][0] != "0" else "1") + value["signature"][1:]
            )
        ),
        "signature-of-another-receipt": SignedReceipt(
            good_receipt.receipt, a_receipt(receipt_id=bytes(16)).signature
        ).to_bytes(),
        "signed-by-a-stranger": a_receipt(STRANGER).to_bytes(),
        "signed-by-a-stranger-in-the-name-of-the-device": SignedReceipt(
            good_receipt.receipt, a_receipt(STRANGER).signature
        ).to_bytes(),
    }


def refused() -> dict[str, bytes]:
    """Receipts of the enrolled device that do not carry the use."""
    receipts = {
        "audience-of-another": a_receipt(audience="elsewhere.org"),
        "expired": a_receipt(issued_at=NOW - 2 * DAY, expires_at=NOW),
        "from-the-future": a_receipt(issued_at=NOW + DAY, expires_at=NOW + 2 * DAY),
        "key-of-another": a_receipt(key_id=sha256("another key")),
        "purpose-of-another": a_receipt(purposes=("payment",)),
        "release-of-another": a_receipt(release_digest=sha256("another release")),
        "renewal-of-nothing": a_receipt(renews=bytes(16)),
        "template-of-another": a_receipt(template_digest=sha256("another template")),
    }
    return {name: receipt.to_bytes() for name, receipt in receipts.items()}


def every_file() -> dict[str, bytes]:
    files = good()
    for folder, content in (("malformed", malformed()), ("unproven", unproven()), ("refused", refused())):
        files |= {f"{folder}/{name}.json": data for name, data in content.items()}
    return files


if __name__ == "__main__":
    assert public(DEVICE) == BINDING.device_public_key
    for name, data in every_file().items():
        path = DIRECTORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
