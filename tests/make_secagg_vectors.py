"""Writes tests/vectors/secagg: `python -m tests.make_secagg_vectors`. Only for a new version of the formats.

Everything is derived from the text that names it, so that a second implementation can make the same messages.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

from secagg_parties import Parties, repeatable, session_of

from federation.secagg import Stage

FOLDER = Path(__file__).parent / "vectors/secagg"
NAMES = ("advertisement", "shares", "masked-input", "survivor-signature", "opened-shares")
ASKED = ("key-list", "share-list", "survivors", "signature-list")


def known_answer() -> dict[str, object]:
    """One session of four members; the fourth leaves before its masked input. Messages of and to the first."""
    with patch("Crypto.Protocol.SecretSharing.rng", repeatable(7)):
        parties = Parties(session_of(), seed=7)
        messages: dict[str, str] = {}
        asked = dict.fromkeys(parties.session.members, b"")
        for stage in list(Stage)[:-1]:
            for member, message in asked.items():
                if stage is Stage.MASK_INPUT and member == 4:
                    continue
                answer = parties.answer(member, stage, message)
                parties.coordinator.receive(member, answer)
                if member == 1:
                    messages[NAMES[stage]] = answer.hex()
            asked = parties.coordinator.advance()
            if asked:
                messages[ASKED[stage]] = asked[1].hex()
    session = parties.session
    return {
        "session": {
            "run": session.run,
            "release": session.release,
            "agreement": session.agreement.hex(),
            "roster": [key.hex() for key in session.roster],
            "size": session.size,
            "colluders": session.colluders,
            "dropouts": session.dropouts,
            "digest": session.digest.hex(),
        },
        "secrets": {member: node._secrets.secret_bytes().hex() for member, node in parties.nodes.items()},
        "inputs": {member: vector.tolist() for member, vector in parties.inputs.items()},
        "messages": messages,
        "total": parties.coordinator.total.tolist(),
    }


def _number(value: int) -> bytes:
    return value.to_bytes(2, "little")


def damages(messages: dict[str, bytes]) -> dict[str, tuple[str, bytes]]:
    """Name of the damage: which message it is done to, and the bytes."""
    keys, shares = messages["key-list"], messages["shares"]
    survivors, opened = messages["survivors"], messages["opened-shares"]
    masked, signature = messages["masked-input"], messages["survivor-signature"]
    entry, share = 163, 126
    return {
        "empty": ("advertisement", b""),
        "header-only": ("advertisement", messages["advertisement"][:40]),
        "magic-of-another-format": ("advertisement", b"ITG1" + messages["advertisement"][4:]),
        "kind-of-another-message": ("advertisement", keys),
        "reserved-bits-set": ("survivors", survivors[:5] + b"\1" + survivors[6:]),
        "member-as-the-coordinator": ("key-list", keys[:6] + _number(1) + keys[8:]),
        "coordinator-as-a-member": ("masked-input", masked[:6] + _number(0) + masked[8:]),
        "sender-101": ("masked-input", masked[:6] + _number(101) + masked[8:]),
        "advertisement-of-another-member": (
            "advertisement",
            messages["advertisement"][:40] + _number(2) + messages["advertisement"][42:],
        ),
        "signature-empty": ("survivor-signature", signature[:40] + b"\0"),
        "signature-cut": ("survivor-signature", signature[:-1]),
        "one-byte-long": ("survivor-signature", signature + b"\0"),
        "list-of-nobody": ("survivors", survivors[:40] + _number(0)),
        "list-longer-than-announced": ("survivors", survivors[:40] + _number(2) + survivors[42:]),
        "list-shorter-than-announced": ("survivors", survivors[:40] + _number(4) + survivors[42:]),
        "list-of-101": ("survivors", survivors[:40] + _number(101) + b"".join(map(_number, range(1, 102)))),
        "member-0-in-a-list": ("survivors", survivors[:42] + _number(0) + survivors[44:]),
        "survivor-twice": ("survivors", survivors[:42] + _number(1) * 3),
        "survivors-out-of-order": ("survivors", survivors[:42] + survivors[44:46] + survivors[42:44] + survivors[46:]),
        "keys-out-of-order": ("key-list", keys[:42] + keys[42 + entry :] + keys[42 : 42 + entry]),
        "shares-for-one-member-twice": ("shares", shares[:42] + shares[42 : 42 + share] * 4),
        "shares-cut-in-the-ciphertext": ("shares", shares[:-1]),
        "vector-of-nothing": ("masked-input", masked[:40] + bytes(4)),
        "vector-too-long": ("masked-input", masked[:40] + (2**20 + 1).to_bytes(4, "little") + masked[44:]),
        "vector-longer-than-announced": ("masked-input", masked + bytes(8)),
        "vector-shorter-than-announced": ("masked-input", masked[:-8]),
        "share-of-kind-0": ("opened-shares", opened[:44] + b"\0" + opened[45:]),
        "share-of-kind-3": ("opened-shares", opened[:44] + b"\3" + opened[45:]),
        "both-shares-of-one-member": (
            "opened-shares",
            opened[:40] + _number(2) + opened[42:61] + opened[42:44] + b"\2" + opened[45:61],
        ),
    }


def main() -> None:
    """Writes everything anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    answer = known_answer()
    (FOLDER / "session.json").write_text(json.dumps(answer, indent=1) + "\n")
    (FOLDER / "damage").mkdir(exist_ok=True)
    messages = {name: bytes.fromhex(text) for name, text in answer["messages"].items()}
    for name, (message, data) in damages(messages).items():
        record = {"message": message, "bytes": data.hex()}
        (FOLDER / "damage" / f"{name}.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
