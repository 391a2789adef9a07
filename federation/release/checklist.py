"""What a privacy engineer asks of a release, answered from the release itself: each line with its evidence, or a gap.

The questions follow the pyramid of NIST SP 800-226, "Guidelines for evaluating differential privacy guarantees"
(J. Near, D. Darais, N. Lefkovitz, G. Howarth, March 2025, doi 10.6028/NIST.SP.800-226): the parameters on top, the
algorithms below, and what everything stands on at the bottom. The words and the grouping are ours.

A line says what was found: in the release's statement, in its bundle, in the ledger, or in the code, whose tests are
named. What nothing shows is "not covered". Nothing is asked of whoever fills it in, so nobody can answer kindly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from federation.privacy.gaussian import epsilon_of_mu
from federation.privacy.ledger import Account
from federation.promise import AttackRates, percent_up, text_of_attacks
from federation.release.bundle import Bundle, mu_of_everything
from federation.verdict import Verdict

_HOUSEHOLD: Final = 4


class Coverage(Enum):
    """How a question stands."""

    COVERED = "covered"
    PARTLY = "partly"
    NOT_COVERED = "not covered"


@dataclass(frozen=True)
class Line:
    """One question.

    Attributes:
        part: of the pyramid.
        question: short.
        standing: how it stands.
        answer: what was found, or what is missing.
        evidence: where that can be seen; empty where nothing shows it.
    """

    part: str
    question: str
    standing: Coverage
    answer: str
    evidence: str


def checklist(bundle: Bundle, account: Account | None = None) -> tuple[Line, ...]:
    """All questions about a release.

    Args:
        bundle: the release with its papers.
        account: what the ledger says of the people whom it was made from, where somebody named a ledger.
    """
    return (*_guarantee(bundle, account), *_algorithms(bundle, account), *_foundations(bundle, account))


def markdown_of(lines: tuple[Line, ...]) -> str:
    """A table for each part, and the gaps counted first."""
    gaps = [line.question for line in lines if line.standing is Coverage.NOT_COVERED]
    named = f": {', '.join(gaps)}" if gaps else ""
    text = [f"{len(lines)} questions, {len(gaps)} not covered{named}."]
    for part in dict.fromkeys(line.part for line in lines):
        text += ["", f"### {part}", "", "| question | | answer | evidence |", "|---|---|---|---|"]
        text += [
            f"| {line.question} | {line.standing.value} | {line.answer} | {line.evidence} |"
            for line in lines
            if line.part == part
        ]
    return "\n".join(text) + "\n"


def _guarantee(bundle: Bundle, account: Account | None) -> Iterator[Line]:
    part, stated, claims = "The guarantee", bundle.release.privacy, bundle.manifest.claims
    if not stated.events:
        answer, evaluation = "Nobody was asked for anything: epsilon 0", bundle.papers.evaluation
        if evaluation is not None:  # of somebody, even where training asked nobody
            asked = f"epsilon {evaluation.epsilon:g} at delta {evaluation.delta:g} for the private evaluation"
            answer = f"Nobody was asked for training; {asked}. {claims.attacks_text}"
        yield Line(part, "parameters", Coverage.COVERED, answer, "`events` of release.json is empty")
        return
    smaller = f"delta is below 1 / {stated.people_train} people"
    curve = "the accountant's whole trade-off curve, and not only this pair"
    answer = f"epsilon {stated.epsilon:g} at delta {stated.delta:g}; {smaller}; {curve}"
    yield Line(part, "parameters", Coverage.COVERED, answer, "`privacy` of release.json, signed by maker and auditor")
    yield Line(part, "what they mean", Coverage.COVERED, claims.attacks_text, "`attacks`, checked when it is read")
    yield Line(
        part,
        "unit of privacy",
        Coverage.COVERED,
        f"{stated.privacy_unit}, with all images",
        "`privacy_unit`; `test_how_many_images_a_person_has_makes_no_difference`",
    )
    relation = stated.neighboring_relation.replace("_", " ")
    yield Line(
        part, "neighbours", Coverage.COVERED, f"{relation}; numbers of people are public", "`neighboring_relation`"
    )
    yield Line(part, "groups", Coverage.COVERED, _groups(bundle), "group privacy of the stated noise")
    yield _composition(part, account)


def _groups(bundle: Bundle) -> str:
    """Of everything in the bundle, as the line on what the numbers mean."""
    mu, delta = mu_of_everything(bundle.release, bundle.papers.evaluation), bundle.release.privacy.delta
    cases = (
        ("who is in two organisations, or in the place of another", 2),
        (f"a household of {_HOUSEHOLD}", _HOUSEHOLD),
    )
    return "; ".join(
        f"{who}: epsilon {_up(epsilon_of_mu(times * mu, delta))}, "
        f"at most {percent_up(AttackRates.of_mu(times * mu).detected)} found"
        for who, times in cases
    )


def _composition(part: str, account: Account | None) -> Line:
    name = "composition over time"
    if account is None:
        return Line(part, name, Coverage.NOT_COVERED, "no ledger was named, so what else was released is unknown", "")
    answer = (
        f"{len(account.runs)} charged to {account.population!r}, together epsilon {_up(account.epsilon)} of "
        f"{account.cap_epsilon:g}. {text_of_attacks(account.attacks)}"
    )
    return Line(part, name, Coverage.COVERED, answer, "the privacy ledger, hash-chained")


def _algorithms(bundle: Bundle, account: Account | None) -> Iterator[Line]:
    part, release, papers = "Algorithms and what they give", bundle.release, bundle.papers
    stated, audit = release.privacy, bundle.manifest.audited
    if stated.events:
        events = ", ".join(f"{name} {noise:.3f}" for name, noise in stated.events)
        yield Line(part, "mechanism", Coverage.COVERED, f"Gaussian, noise multipliers {events}", "ADR 71; `events`")
        bound = "one person changes each sum by an L2 norm of at most 1, whatever was asked"
        tests = "`test_one_person_changes_the_sum_by_at_most_one_whatever_is_asked`"
        yield Line(part, "bound on contributions", Coverage.COVERED, bound, tests)
        yield _correctness(part, bundle)
        yield _tuning(part, account)
    rate = f"{release.rate.text}; {audit.text}"
    passed = Coverage.COVERED if audit.is_passed else Coverage.PARTLY
    yield Line(part, "accuracy", passed, rate, "audit-report.json of other people")
    report = papers.audit_report
    if len(report.cells) > 1 and audit.verdict is not Verdict.INSUFFICIENT:
        worst = bundle.manifest.audit.worst_cell.name
        answer = f"{len(report.cells)} groups by {', '.join(report.attributes)}; worst: {worst}"
        yield Line(part, "bias", Coverage.COVERED, answer, "audit-report.json")
    else:
        answer = f"{len(report.cells)} group{'s' if len(report.cells) != 1 else ''}, {audit.verdict.value}"
        yield Line(
            part, "bias", Coverage.NOT_COVERED, f"the audit says nothing of differences between groups: {answer}", ""
        )


def _correctness(part: str, bundle: Bundle) -> Line:
    attack, name = bundle.papers.epsilon_audit, "correctness, attacked"
    if attack is None:
        return Line(part, name, Coverage.NOT_COVERED, "the bundle holds no attack on the training", "")
    answer = (
        f"an attack by {attack.method.value}, {attack.runs} runs, finds epsilon at least {attack.lower_bound:.2f} of "
        f"{attack.claimed:g}, confidence {attack.confidence:g}"
    )
    return Line(part, name, Coverage.COVERED, answer, "epsilon-audit.json")


def _tuning(part: str, account: Account | None) -> Line:
    fixed = "clips, gates and recipe are fixed and were chosen on public sets of faces"
    if account is None:
        answer = f"{fixed}; whether several runs were tried is unknown without a ledger"
        return Line(part, "tuning", Coverage.PARTLY, answer, "ADR 184, 186, 189")
    answer = f"{fixed}; every run that was tried is charged: {len(account.runs)}"
    return Line(part, "tuning", Coverage.COVERED, answer, "ADR 184, 186, 189; the ledger")


def _foundations(bundle: Bundle, account: Account | None) -> Iterator[Line]:
    part, stated = "What it stands on", bundle.release.privacy
    if stated.events:
        gone = f", and {stated.dropouts} leave" if stated.dropouts else ""
        trust = (
            f"secure aggregation and shares of the noise: the coordinator may be curious, and {stated.colluders} of "
            f"{stated.organisations} organisations may help it{gone}; more than that is not covered"
        )
        tests = "`test_noise_shares_of_the_honest_survivors_add_up_to_the_plan`"
        yield Line(part, "trust model", Coverage.COVERED, trust, tests)
        noise = "integers from the operating system's randomness, no floating point in what is released"
        yield Line(part, "side channels: noise", Coverage.COVERED, noise, "ADR 71")
        timing = "answers wait for the end of a class of time; caches, and time beyond the class, are not covered"
        tests = "`test_answers_that_needed_people_wait_for_the_end_of_their_class`"
        yield Line(part, "side channels: time", Coverage.PARTLY, timing, tests)
        cap = (
            "each organisation's own ledger has a cap"
            if account is None
            else f"a cap of epsilon {account.cap_epsilon:g} at delta {account.delta:g}"
        )
        yield Line(part, "budget", Coverage.COVERED if account else Coverage.PARTLY, cap, "ADR 142; the ledger")
        access = "how each organisation guards its images and embeddings, which lie there in the clear"
        yield Line(part, "access to the data", Coverage.NOT_COVERED, access, "")
    statement = bundle.papers.data_statement.strip().splitlines()
    said = f"as the data statement says, of {len(statement)} lines, which nobody here can check"
    yield Line(part, "data collection exposure", Coverage.PARTLY, said, "data-statement.md")
    retention = "how long an organisation keeps what it trained on is its own affair"
    yield Line(part, "retention", Coverage.NOT_COVERED, retention, "")


def _up(epsilon: float) -> str:
    return f"{math.ceil(round(100 * epsilon, 6)) / 100:.2f}"
