"""Everything that one run of the demo found out, as plain values: what report, table and summary are made from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.audit.cells import Cell
from federation.audit.wolf import WolfRates
from federation.onebit import parameters_for
from federation.onebit.wire import template_length
from federation.promise import AttackRates, text_of_attacks
from federation.rates import Audited, StatedRate


@dataclass(frozen=True)
class Accuracy:
    """Scores of one comparison of clean references with degraded probes, of held-out people only.

    Attributes:
        genuine: (g,) share of bits that two codes of one person have alike.
        impostor: (i,) the same of two people.
        eer: equal error rate, 0..1.
        tar_at_fmr_1pct: true accept rate at a false match rate of 1 %, 0..1.
        det_fmr: false match rates of the DET curve, 0..1.
        det_fnmr: false non-match rate for each of `det_fmr`, 0..1.
    """

    genuine: NDArray[np.float64] = field(repr=False)
    impostor: NDArray[np.float64] = field(repr=False)
    eer: float
    tar_at_fmr_1pct: float
    det_fmr: NDArray[np.float64] = field(repr=False)
    det_fnmr: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True)
class Attempts:
    """Verifications through the encrypted one-bit match, over gRPC.

    Attributes:
        genuine: attempts by the owner of the template.
        genuine_accepted: how many of them the server accepted.
        impostor: attempts with the owner's stolen wallet and somebody else's face.
        impostor_accepted: how many of them the server accepted.
        plaintext_disagreements: decisions that differ from comparing the codes in the clear.
        server_ms: (n,) milliseconds of matching work at the server, for each attempt.
        device_ms: (n,) milliseconds of cryptographic work at the device, for each attempt.
        upload_bytes: size of a probe message.
        reply_bytes: size of a reply message.
    """

    genuine: int
    genuine_accepted: int
    impostor: int
    impostor_accepted: int
    plaintext_disagreements: int
    server_ms: NDArray[np.float64] = field(repr=False)
    device_ms: NDArray[np.float64] = field(repr=False)
    upload_bytes: int
    reply_bytes: int


@dataclass(frozen=True)
class Stage:
    """One part of the run and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """One run of the demo.

    Attributes:
        source: where the faces come from, in words, with the credit that is due.
        condition: degradation of the probes, for example ``mask``.
        people_train: people whose organisations took part in training.
        people_test: people whom training never saw.
        organisations: number of organisations.
        colluders: of them, how many could help a curious coordinator without weakening the promise.
        epsilon: person-level epsilon of all releases together.
        delta: person-level delta.
        epsilon_lower_bound: what an attack on the releases measured, 95 % confidence; None where nobody measured.
        epsilon_events: (name, noise multiplier) of each private release.
        adapted: whether the release adapts the embedding, or says why it does not.
        adaptation: one sentence of what was deployed and why.
        stated_fmr: the false match rate that the threshold was set for.
        rate: that rate with its interval, its people and what it rests on.
        audited: what the audit of held-out people says.
        attacks: what an attacker learns of those who trained at most; None where nobody was asked.
        trade_off: (false accusations, members found at most) along the whole curve; empty where nobody was asked.
        threshold: largest accepted Hamming distance.
        code_bits: length of a code.
        before: the frozen recogniser, without an adapter.
        after: the released adapter.
        attempts: verifications under encryption.
        wolf: what a thief with a wallet and no face gets, by face codes in the clear; None where nobody measured.
        problems: images and people that were left out, one line each.
        stages: where the time went.
        release_digest: SHA-256 of the model release, hex.
        ledger_head: hash of the last ledger line, hex.
        crops: (title, PNG bytes) of sample aligned crops; empty unless asked for.
        groups: what the audit found of each group of held-out people who said what they are; empty without labels.
    """

    source: str
    condition: str
    people_train: int
    people_test: int
    organisations: int
    colluders: int
    epsilon: float
    delta: float
    epsilon_lower_bound: float | None
    epsilon_events: tuple[tuple[str, float], ...]
    adapted: bool
    adaptation: str
    stated_fmr: float
    rate: StatedRate
    audited: Audited
    attacks: AttackRates | None
    trade_off: tuple[tuple[float, float], ...]
    threshold: int
    code_bits: int
    before: Accuracy
    after: Accuracy
    attempts: Attempts
    wolf: WolfRates | None
    problems: tuple[str, ...]
    stages: tuple[Stage, ...]
    release_digest: str
    ledger_head: str
    crops: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    groups: tuple[Cell, ...] = ()

    @property
    def template_bytes(self) -> int:
        """Size of one padded template at the server."""
        return template_length(parameters_for(self.code_bits))

    @property
    def seconds_total(self) -> float:
        """Wall time of the whole run."""
        return sum(stage.seconds for stage in self.stages)

    def summary(self) -> dict[str, str | int | float | None]:
        """The figures of ``summary.json``."""
        return {
            "condition": self.condition,
            "people_train": self.people_train,
            "people_test": self.people_test,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "epsilon_lower_bound": self.epsilon_lower_bound,
            "eer_before": self.before.eer,
            "eer_after": self.after.eer,
            "tar_at_fmr_1pct_before": self.before.tar_at_fmr_1pct,
            "tar_at_fmr_1pct_after": self.after.tar_at_fmr_1pct,
            "threshold": self.threshold,
            "rate": self.rate.text,
            "fmr_low": self.rate.low,
            "fmr_high": self.rate.high,
            "basis": self.rate.basis.value,
            "audit": self.audited.text,
            "attacks": text_of_attacks(self.attacks),
            **_of_wolf(self.wolf),
            **{f"fmr_of_{cell.name}": f"{cell.fmr.errors} of {cell.fmr.trials}" for cell in self.groups},
            "genuine_attempts": self.attempts.genuine,
            "genuine_accepted": self.attempts.genuine_accepted,
            "impostor_attempts": self.attempts.impostor,
            "impostor_accepted": self.attempts.impostor_accepted,
            "plaintext_disagreements": self.attempts.plaintext_disagreements,
            "server_ms_median": float(np.median(self.attempts.server_ms)),
            "device_ms_median": float(np.median(self.attempts.device_ms)),
            "template_bytes": self.template_bytes,
            "upload_bytes": self.attempts.upload_bytes,
            "reply_bytes": self.attempts.reply_bytes,
            "seconds_total": self.seconds_total,
        }

    def summary_json(self) -> str:
        """`summary` as indented JSON with a final newline."""
        return json.dumps(self.summary(), indent=2) + "\n"


def _of_wolf(wolf: WolfRates | None) -> dict[str, str | int | float | None]:
    """Rates of fixed strings with their bounds; all None where nobody measured."""
    found: dict[str, str | int | float | None] = {"wolf_people": wolf.people if wolf else None}
    for kind in ("mean", "best"):
        rate = getattr(wolf, kind, None)
        bounds = (None,) * 3 if rate is None else (rate.value, rate.low, rate.high)
        found |= zip((f"wolf_{kind}", f"wolf_{kind}_low", f"wolf_{kind}_high"), bounds, strict=True)
    return found
