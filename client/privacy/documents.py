"""Documents that law and people ask for, filled from release, public rules and terms: what is missing says so.

A template is Markdown with two kinds of places. ``{{fmr}}`` is a fact, read from the papers themselves. ``{{? officer |
name and address of the data protection officer}}`` is for the organisation to say, in a file of answers; without one
the place reads MISSING with those words, and is counted. Nobody fills a place kindly: a fact that the papers lack is
missing too. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from federation.audit.wolf import text_of_wolves
from federation.consent.receipts import Terms
from federation.errors import UsageError
from federation.release.bundle import Bundle
from federation.rules.entries import Deployment, PolicyPack
from federation.rules.rulebook import Rulebook
from federation.statements import text_of_time
from federation.verdict import Verdict

DOCUMENTS: Final = {
    "dpia": "data protection impact assessment (GDPR, article 35)",
    "ai-act": "technical documentation (EU AI Act, annex IV)",
    "accessibility": "accessibility statement (WCAG 2.2, EN 301 549)",
    "model-card": "model card, with the header of Hugging Face",
}
"""Templates by name, and what each is."""
_PLACE: Final = re.compile(r"\{\{(\?)? *([a-z_]+) *(?:\| *([^}]+?))? *\}\}")


@dataclass(frozen=True)
class Filled:
    """A document.

    Attributes:
        name: of its template.
        text: Markdown.
        missing: what nobody has said: the name of each place, and what belongs there.
    """

    name: str
    text: str
    missing: tuple[tuple[str, str], ...]


def template(name: str) -> str:
    """The Markdown with its places."""
    return (resources.files("client.privacy") / "templates" / f"{name}.md").read_text("utf-8")


def places(text: str) -> Iterator[tuple[bool, str, str]]:
    """Of a template: whether the organisation fills it, its name, and what belongs there."""
    for asks, name, words in _PLACE.findall(text):
        yield bool(asks), name, words.strip()


def fill(name: str, facts: Mapping[str, str], answers: Mapping[str, str]) -> Filled:
    """Fills one template.

    Args:
        name: of `DOCUMENTS`.
        facts: by place; see `facts_of`.
        answers: of the organisation, by place.
    """
    missing: dict[str, str] = {}

    def value(found: re.Match[str]) -> str:
        place, words = found[2], (found[3] or "").strip()
        told = answers.get(place) if found[1] else facts.get(place)
        if told:
            return told
        missing[place] = words or place.replace("_", " ")
        return f"**MISSING: {missing[place]}**"

    text = _PLACE.sub(value, template(name))
    return Filled(name, text, tuple(missing.items()))


def require_known(answers: Mapping[str, str]) -> None:
    """Returns when every answer is to something that a template asks.

    Raises:
        UsageError: one is not. Says what may be answered.
    """
    asked = {name for document in DOCUMENTS for asks, name, _ in places(template(document)) if asks}
    if unknown := sorted(answers.keys() - asked):
        raise UsageError(f"no document asks for {', '.join(unknown)}; they ask for {', '.join(sorted(asked))}")


def facts_of(
    bundle: Bundle, book: Rulebook | None, deployment: str, terms: Terms | None, *, now: int
) -> dict[str, str]:
    """What the papers say, by place. A paper that was not named leaves its places out.

    Args:
        bundle: the release with its papers.
        book: the public rules.
        deployment: whose rules.
        terms: what people agree to.
        now: seconds since 1970.

    Raises:
        UsageError: the rules have no such deployment.
    """
    facts = {"made_at": text_of_time(now)[:10], **_of_release(bundle)}
    if book is not None:
        registered = book.deployment(deployment)
        if registered is None:
            raise UsageError(f"no deployment {deployment!r} stands in the rules")
        facts |= _of_rules(book, registered, now)
    return facts | (_of_terms(terms) if terms is not None else {})


def _of_release(bundle: Bundle) -> dict[str, str]:
    release, manifest, papers = bundle.release, bundle.manifest, bundle.papers
    stated, claims, report = release.privacy, manifest.claims, papers.audit_report
    facts = {
        "release": release.digest,
        "recogniser": release.model_name,
        "recogniser_digest": release.model_digest,
        "adaptation": f"{release.adaptation}: {release.reason}",
        "condition": release.condition,
        "code_length": str(release.code_length),
        "threshold": str(release.threshold),
        "references": str(release.references),
        "frames": str(release.frames),
        "fmr": release.rate.text,
        "fmr_number": repr(release.fmr),
        "audit": manifest.audited.text,
        "use": manifest.use.value,
        "begins": text_of_time(manifest.begins_at)[:10],
        "ends": text_of_time(manifest.ends_at)[:10],
        "privacy": claims.promise_text,
        "attacks": claims.attacks_text,
        "worst_cell": manifest.audit.worst_cell.name,
        "data_statement": papers.data_statement.strip(),
        "card": papers.model_card.strip(),
        "created": release.created[:10],
    }
    if manifest.audit.wolf is not None:
        facts["wolf"] = text_of_wolves(manifest.audit.wolf)
    if stated.events:
        facts["trained_on"] = f"{stated.people_train} people of {stated.organisations} organisations"
        facts["events"] = ", ".join(f"{name} with noise multiplier {noise:.3f}" for name, noise in stated.events)
    else:
        facts["trained_on"] = "nobody: the release rests on public sets of faces"
        facts["events"] = "none"
    if papers.epsilon_audit is not None:
        facts["epsilon_attacked"] = f"{papers.epsilon_audit.lower_bound:.2f} of {papers.epsilon_audit.claimed:g}"
    if len(report.cells) > 1 and manifest.audited.verdict is not Verdict.INSUFFICIENT:
        facts["groups"] = f"{len(report.cells)} groups by {', '.join(report.attributes)}"
        facts["differentials"] = "\n".join(
            f"| {cell.name} | {cell.people} | {100 * cell.fmr.low:.3g} to {100 * cell.fmr.high:.3g} % "
            f"| {100 * cell.fnmr.low:.3g} to {100 * cell.fnmr.high:.3g} % |"
            for cell in report.cells
        )
    return facts


def _of_rules(book: Rulebook, registered: Deployment, now: int) -> dict[str, str]:
    packs = {place: book.pack(place, now) for place in registered.jurisdictions}
    return {
        "deployment": registered.identifier,
        "operator": registered.operator,
        "operator_contact": registered.contact,
        "audience": registered.audience,
        "purposes": ", ".join(registered.purposes),
        "jurisdictions": ", ".join(registered.jurisdictions),
        "deployment_begins": text_of_time(registered.begins_at)[:10],
        "deployment_ends": text_of_time(registered.ends_at)[:10],
        "rule_signers": f"{book.signers.threshold} of {len(book.signers.public_keys)} signers",
        "tiers": "; ".join(_tier(place, pack, registered) for place, pack in packs.items()),
    }


def _tier(place: str, pack: PolicyPack | None, registered: Deployment) -> str:
    rules = () if pack is None else tuple(rule for rule in pack.rules if rule.purpose in registered.purposes)
    told = ", ".join(f"{rule.purpose} as {rule.category.value}, tier {rule.tier.name.lower()}" for rule in rules)
    return f"{place}: {told or 'nothing is allowed'}"


def _of_terms(terms: Terms) -> dict[str, str]:
    days = "deleted at once" if not terms.retention_days else f"deleted after {terms.retention_days} days"
    return {
        "controller": f"{terms.controller.name}, {terms.controller.address}",
        "controller_contact": terms.controller.contact,
        "storage_location": terms.storage_location,
        "retention": days,
        "alternative": terms.alternative,
        "contest": terms.contest,
        "withdrawal": terms.withdrawal,
        "notice": f"{terms.notice}, version {terms.notice_version}",
        "language": terms.language,
        "jurisdiction": terms.jurisdiction,
    }
