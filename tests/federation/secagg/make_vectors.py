"""Writes tests/vectors/secagg: `python -m tests.federation.secagg.make_vectors`. Only for a new version of the formats.

Everything is derived from the text that names it, so that a second implementation can make the same messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

from federation.identity import IdentityKey
from federation.secagg import Stage, masking
from federation.secagg.graph import shape
from federation.secagg.ranges import _BitProof
from tests.federation.secagg.parties import Parties, identity, session_of
from tests.federation.secagg.range_reading import ROWS, N, weights
from tests.federation.secagg.test_ranges import Case

FOLDER = Path(__file__).parents[2] / "vectors/secagg"
NAMES = ("advertisement", "shares", "masked-input", "survivor-signature", "opened-shares")
ASKED = ("key-list", "share-list", "survivors", "signature-list")


def _replayed(
    known: dict[str, Any] | None,
) -> tuple[Callable[[bytes], tuple[bytes, bytes]], Callable[..., bytes], dict[str, Any]]:
    """What libraries draw themselves, encapsulations and ML-DSA signatures: fresh ones, or those of a known answer."""
    kept: dict[str, Any] = {"encapsulations": [], "signatures": {}}
    encapsulations = iter(known["encapsulations"] if known else ())
    real_encapsulate, real_sign = masking.encapsulate, IdentityKey.sign

    def encapsulate(theirs: bytes) -> tuple[bytes, bytes]:
        pair = tuple(map(bytes.fromhex, next(encapsulations))) if known else real_encapsulate(theirs)
        kept["encapsulations"].append([part.hex() for part in pair])
        return pair  # type: ignore[return-value]

    def sign(key: IdentityKey, message: bytes) -> bytes:
        name = f"{sha256(key.public).hexdigest()[:16]} {sha256(message).hexdigest()}"
        made = bytes.fromhex(known["signatures"][name]) if known else real_sign(key, message)
        kept["signatures"][name] = made.hex()
        return made

    return encapsulate, sign, kept


def known_answer(known: dict[str, Any] | None = None) -> dict[str, Any]:
    """One session of three members; the third leaves before its masked input. Messages of and to the first.

    Args:
        known: an answer from before, to make again with its encapsulations and signatures.
    """
    encapsulate, sign, kept = _replayed(known)
    check = "federation.secagg.masking.require_usable"  # it encapsulates for nobody
    with patch.object(masking, "encapsulate", encapsulate), patch.object(IdentityKey, "sign", sign), patch(check):
        parties = Parties(session_of(3, colluders=0), seed=7)
        messages: dict[str, str] = {}
        asked: Mapping[int, bytes] = dict.fromkeys(parties.session.members, b"")
        for stage in list(Stage)[:-1]:
            for member, message in asked.items():
                if stage is Stage.MASK_INPUT and member == 3:
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
        "identities": {member: identity(member).secret_bytes().hex() for member in session.members},
        "secrets": {member: node._secrets.secret_bytes().hex() for member, node in parties.nodes.items()},
        "inputs": {member: vector.tolist() for member, vector in parties.inputs.items()},
        **kept,
        "messages": messages,
        "total": parties.coordinator.total.tolist(),
    }


def graph_answer() -> dict[str, object]:
    """Shapes of some plans, and who holds whose shares in one session of 130 members whose choices are known."""
    plans = [(4, 1, 1), (100, 25, 5), (101, 25, 5), (200, 50, 10), (500, 125, 25), (1000, 250, 50), (1000, 330, 100)]
    session = session_of(130, colluders=30, dropouts=6)
    choices = {member: bytes([member]) * 16 for member in session.members}
    graph, context = session.graph(choices), bytes(range(32))
    return {
        "shapes": [{"plan": plan, **asdict(shape(*plan))} for plan in plans],
        "session": session.digest.hex(),
        "choices": {member: choice.hex() for member, choice in choices.items()},
        "holders": {member: graph.holders_of(member) for member in session.members[:10]},
        "dealers": {member: graph.dealers_to(member) for member in session.members[:3]},
        "context": context.hex(),
        "committee": session.committee(context),
    }


def _number(value: int) -> bytes:
    return value.to_bytes(2, "little")


def damages(messages: dict[str, bytes]) -> dict[str, tuple[str, bytes]]:
    """Name of the damage: which message it is done to, and the bytes."""
    keys, shares, advertisement = messages["key-list"], messages["shares"], messages["advertisement"]
    survivors, opened, share_list = messages["survivors"], messages["opened-shares"], messages["share-list"]
    masked, signature = messages["masked-input"], messages["survivor-signature"]
    line, share, dealt = 50, 35, 2434
    past = (2**255 - 19).to_bytes(32, "little")
    return {
        "empty": ("advertisement", b""),
        "header-only": ("advertisement", advertisement[:40]),
        "magic-of-another-format": ("survivors", b"ITG1" + survivors[4:]),
        "version-before-this-one": ("survivors", b"ITS1" + survivors[4:]),
        "kind-of-another-message": ("opened-shares", survivors),
        "reserved-bits-set": ("survivors", survivors[:5] + b"\1" + survivors[6:]),
        "member-as-the-coordinator": ("survivors", survivors[:6] + _number(1) + survivors[8:]),
        "coordinator-as-a-member": ("masked-input", masked[:6] + _number(0) + masked[8:]),
        "sender-1025": ("masked-input", masked[:6] + _number(1025) + masked[8:]),
        "advertisement-of-another-member": ("advertisement", advertisement[:40] + _number(2) + advertisement[42:]),
        "advertisement-without-its-ml-dsa-signature": ("advertisement", advertisement[:-2420]),
        "advertisement-without-its-ed25519-signature": ("advertisement", advertisement[:-2484] + advertisement[-2420:]),
        "advertisement-without-ml-kem": ("advertisement", advertisement[:90] + advertisement[90 + 1184 :]),
        "signature-of-ed25519-alone": ("survivor-signature", signature[:104]),
        "signature-of-ml-dsa-alone": ("survivor-signature", signature[:40] + signature[104:]),
        "signature-cut": ("survivor-signature", signature[:-1]),
        "one-byte-long": ("survivor-signature", signature + b"\0"),
        "list-of-nobody": ("survivors", survivors[:40] + _number(0)),
        "list-longer-than-announced": ("survivors", survivors[:40] + _number(1) + survivors[42:]),
        "list-shorter-than-announced": ("survivors", survivors[:40] + _number(3) + survivors[42:]),
        "list-of-1025": ("survivors", survivors[:40] + _number(1025) + b"".join(map(_number, range(1, 1026)))),
        "member-0-in-a-list": ("survivors", survivors[:42] + _number(0) + survivors[44:]),
        "survivor-twice": ("survivors", survivors[:42] + _number(1) * 2),
        "survivors-out-of-order": ("survivors", survivors[:42] + survivors[44:46] + survivors[42:44]),
        "lines-out-of-order": (
            "key-list",
            keys[:42] + keys[42 + line : 42 + 2 * line] + keys[42 : 42 + line] + keys[142:],
        ),
        "key-list-without-keys": ("key-list", keys[: 42 + 3 * line]),
        "share-list-without-dealers": ("share-list", share_list[:40] + share_list[48:]),
        "shares-for-one-member-twice": ("shares", shares[:40] + _number(2) + shares[42 : 42 + dealt] * 2),
        "shares-cut-in-the-ciphertext": ("shares", shares[:-1]),
        "vector-of-nothing": ("masked-input", masked[:40] + bytes(4) + masked[84:]),
        "vector-too-long": ("masked-input", masked[:40] + (2**20 + 1).to_bytes(4, "little") + masked[44:]),
        "vector-longer-than-announced": ("masked-input", masked + bytes(8)),
        "vector-shorter-than-announced": ("masked-input", masked[:-8]),
        "masked-input-without-confirmations": ("masked-input", masked[:84]),
        "share-of-kind-0": ("opened-shares", opened[:44] + b"\0" + opened[45:]),
        "share-of-kind-3": ("opened-shares", opened[:44] + b"\3" + opened[45:]),
        "share-beyond-the-field": ("opened-shares", opened[:45] + past + opened[77:]),
        "both-shares-of-one-member": (
            "opened-shares",
            opened[:40] + _number(2) + opened[42 : 42 + share] + opened[42:44] + b"\2" + opened[45 : 42 + share],
        ),
    }


def range_answer() -> dict[str, Any]:
    """A proof of range, and forgeries of it by name, each with a second reading's word for what is wrong."""
    bound, case = 5, Case.of([3, -1, 1])
    shown = case.show(bound)
    scalars = 3 * ROWS * len(weights(bound, len(case.edges)))
    numbers, points = len(shown) - 32 * scalars, ROWS * len(case.edges)
    first = int.from_bytes(shown[numbers : numbers + 32], "big")
    draw = _BitProof.draw

    def of_another(value: int, blinding: int, within: int, edges: int) -> _BitProof:
        return draw(0, blinding, within, edges) if value else draw(value, blinding, within, edges)

    with patch.object(_BitProof, "draw", of_another):
        zero = case.show(bound)
    swapped = shown[: 33 * points] + shown[33 * (points + 3) : 33 * (points + 6)]
    swapped += shown[33 * points : 33 * (points + 3)] + shown[33 * (points + 6) :]
    texts = {
        "good": (shown, None),
        "cut": (shown[:-1], "length"),
        "longer": (shown + bytes(1), "length"),
        "of-another-number": (zero, "number"),
        "scalar-plus-the-order": (
            shown[:numbers] + (first % (2**256 - N) + N).to_bytes(32, "big") + shown[numbers + 32 :],
            "scalar",
        ),
        "mask-that-is-no-point": (b"\2" + b"\xff" * 32 + shown[33:], "point"),
        "uncompressed-tag": (b"\4" + shown[1:], "point"),
        "bits-swapped": (swapped, "bit"),
        "another-mask": (shown[33:66] + shown[33:], "bit"),
        "answers-of-zero": (shown[:numbers] + bytes(32 * scalars), "bit"),
        "of-a-larger-bound": (case.show(bound + 1), "bit"),
        "of-another-input": (Case.of([2, -1, 1]).show(bound), "bit"),
    }
    return {
        "context": case.context.hex(),
        "member": case.member,
        "seeds": {member: seed.hex() for member, seed in case.seeds.items()},
        "keys": [[*edge, key.hex()] for edge, key in case.keys.items()],
        "masked": case.masked,
        "bound": bound,
        "good": shown.hex(),
        "shown": {name: {**_difference(shown, data), "fault": fault} for name, (data, fault) in texts.items()},
    }


def _same(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common before the first that differs."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, yours) in pairs if mine != yours), min(len(one), len(other)))


def _difference(good: bytes, data: bytes) -> dict[str, Any]:
    """What another text has in place of a part of the good one."""
    start = _same(good, data)
    end = _same(good[start:][::-1], data[start:][::-1])
    return {"same_at_start": start, "between": data[start : len(data) - end].hex(), "same_at_end": end}


def main() -> None:
    """Writes everything anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    answer = known_answer()
    (FOLDER / "session.json").write_text(json.dumps(answer, indent=1) + "\n")
    (FOLDER / "graph.json").write_text(json.dumps(graph_answer()) + "\n")
    (FOLDER / "range.json").write_text(json.dumps(range_answer(), indent=1) + "\n")
    (FOLDER / "damage").mkdir(exist_ok=True)
    messages = {name: bytes.fromhex(text) for name, text in answer["messages"].items()}
    for name, (message, data) in damages(messages).items():
        record = {"message": message, "bytes": data.hex()}
        (FOLDER / "damage" / f"{name}.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
