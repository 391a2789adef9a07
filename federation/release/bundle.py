"""The release bundle: one file with a model release, its audit, its papers, and the two signatures that let it serve.

Theory of operation
-------------------
A bundle is a zip archive that any program opens::

    manifest.json       what was audited and for how long it holds, with the signatures (`federation.release.manifest`)
    release.json        the model release: adapter, threshold, privacy statement (`federation.recognition.model`)
    audit-report.json   the audit report
    data-statement.md   whose data trained and audited it, and by whose leave
    epsilon-audit.json  what an attack on the training measured, where somebody did (`federation.privacy.auditing`)
    evaluation.json     error rates by group, measured privately (`federation.learning.private_evaluation`)
    model-card.md       what it is for, and what not

The report is about this release: it names its digest, it tested its threshold, and it asked of every cell at least the
false match rate that the release states. The manifest repeats what the release states and what the report found, and
names the SHA-256 of every other file; its own SHA-256 is the bundle's address.

The archive has one form: these files in this order, not compressed, without times, comments or extra fields. A reader
builds the archive again and compares, so no byte of it can be changed unseen, and nothing that unpackers understand
differently gets through.

`require_servable` is the one check that server and device ask before they use a release.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from dataclasses import dataclass, replace
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.audit.comparing import compare
from federation.audit.report import AuditReport
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.learning.group_rates import EvaluationReport
from federation.privacy.epsilon_audit import EpsilonAudit
from federation.privacy.gaussian import mu_of_epsilon
from federation.promise import AttackRates
from federation.recognition.model import ModelRelease
from federation.release.manifest import (
    AuditSummary,
    Claims,
    Manifest,
    ReleaseTrust,
    Role,
    SignedManifest,
    Use,
    WorstCell,
)
from federation.verdict import Verdict

PARAMETERS: Final = {1024: "intaglio-onebit-1024/2", 2048: "intaglio-onebit-2048/2"}
"""Names of the homomorphic parameter sets by the bits of a code; `federation.onebit` itself is heavy for auditors."""

_MANIFEST, _EPSILON_AUDIT, _EVALUATION = "manifest.json", "epsilon-audit.json", "evaluation.json"
_FILES: Final = frozenset({_MANIFEST, "audit-report.json", "data-statement.md", "model-card.md", "release.json"})
_MOST_BYTES = 24 << 20
_MOST_LISTED, _END_BYTES = 1 << 10, 22
"""Bytes of the list of an archive's files, which takes 427 for all of ours, and of the end that says how long it is."""
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive can write
_NOTHING_MEASURED: Final = WorstCell("no cell was measured", 0.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Papers:
    """What people read beside the numbers.

    Attributes:
        audit_report: of exactly this release.
        data_statement: Markdown, not empty.
        model_card: Markdown, not empty.
        epsilon_audit: what an attack on the training measured; None where nobody did.
        evaluation: private error rates by group, of exactly this release; None where nobody measured any.
    """

    audit_report: AuditReport
    data_statement: str
    model_card: str
    epsilon_audit: EpsilonAudit | None = None
    evaluation: EvaluationReport | None = None

    def __post_init__(self) -> None:
        if not self.data_statement.strip() or not self.model_card.strip():
            raise UsageError("a bundle needs a data statement and a model card")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A release with everything that belongs to it. Its parts fit each other; who signed is for `require_servable`.

    Attributes:
        signed: manifest and signatures.
        release: what is served.
        papers: what people read.
    """

    signed: SignedManifest
    release: ModelRelease
    papers: Papers

    def __post_init__(self) -> None:
        manifest = self.signed.manifest
        if manifest.files != _digests(self.release, self.papers):
            raise UsageError("a file of the bundle is another one than the manifest names")
        if manifest.claims != claims_of(self.release, self.papers.epsilon_audit, self.papers.evaluation):
            raise UsageError("the manifest claims something else than the release states")
        measured = self.papers.evaluation
        if measured and (measured.release, measured.threshold) != (self.release.digest, self.release.threshold):
            raise UsageError("the private error rates are of another release")
        if manifest.audit != summary_of(self.papers.audit_report, self.release):
            raise UsageError("the manifest says something else about the audit than its report")

    @classmethod
    def build(
        cls,
        release: ModelRelease,
        papers: Papers,
        *,
        use: Use,
        begins_at: int,
        ends_at: int,
    ) -> Self:
        """A bundle that nobody has signed yet. Runs at the maker; see `Manifest` for the arguments.

        Raises:
            UsageError: a part is out of range, or a paper is about something else.
        """
        claims = claims_of(release, papers.epsilon_audit, papers.evaluation)
        audit = summary_of(papers.audit_report, release)
        manifest = Manifest(claims, audit, use, _digests(release, papers), begins_at, ends_at)
        return cls(SignedManifest(manifest), release, papers)

    @property
    def manifest(self) -> Manifest:
        """What is signed."""
        return self.signed.manifest

    def signed_by(self, role: Role, key: Ed25519PrivateKey) -> Bundle:
        """The same bundle with one signature more.

        Raises:
            UsageError: the other role has signed with this key.
        """
        return replace(self, signed=self.signed.signed_by(role, key))

    def to_bytes(self) -> bytes:
        """The archive; equal bundles give equal bytes."""
        files = {_MANIFEST: self.signed.to_bytes(), **_contents(self.release, self.papers)}
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, _DATE)
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # the same on every system
                packed.writestr(entry, content)
        return archive.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote, and nothing else. No signature is checked here.

        Raises:
            MalformedMessageError: any other bytes.
        """
        if len(data) > _MOST_BYTES:
            raise MalformedMessageError(f"a release bundle has at most {_MOST_BYTES} bytes, this one {len(data)}")
        try:
            files = _unpacked(data)
        except Exception as error:
            raise MalformedMessageError("the bytes are not a release bundle of this version") from error
        attack, measured = files.get(_EPSILON_AUDIT), files.get(_EVALUATION)
        try:
            bundle = cls(
                SignedManifest.from_bytes(files[_MANIFEST]),
                ModelRelease.from_bytes(files["release.json"]),
                Papers(
                    AuditReport.from_bytes(files["audit-report.json"]),
                    files["data-statement.md"].decode(),
                    files["model-card.md"].decode(),
                    None if attack is None else EpsilonAudit.from_bytes(attack),
                    None if measured is None else EvaluationReport.from_bytes(measured),
                ),
            )
        except (UsageError, UnicodeDecodeError) as error:
            raise MalformedMessageError(f"the parts of the release bundle do not fit: {error}") from error
        if bundle.to_bytes() != data:
            raise MalformedMessageError("the release bundle is not in its one form")
        return bundle


def require_servable(bundle: Bundle, trust: ReleaseTrust, *, now: int) -> ModelRelease:
    """The release, when it may be served at `now`. Runs at the server before it starts, and at the device.

    Args:
        bundle: its parts fit each other already.
        trust: whose signatures count here.
        now: seconds since 1970.

    Raises:
        ProofError: it is not signed by a trusted maker and a trusted auditor.
        RefusedError: it is not valid now, or its audit does not allow it.
    """
    bundle.signed.require_servable(trust, now=now)
    return bundle.release


def require_reproduced(bundle: Bundle, again: AuditReport) -> None:
    """Returns when an audit that somebody made again is the one of the bundle, byte for byte. Runs anywhere.

    Args:
        bundle: the report that is doubted.
        again: what the public scores gave, with the settings that the report states.

    Raises:
        ProofError: it was made of other scores, or comes to something else.
    """
    report = bundle.papers.audit_report
    if again.input_sha256 != report.input_sha256:
        raise ProofError("these are not the scores of the audit that was signed")
    if again.to_bytes() != report.to_bytes():
        raise ProofError("the scores give another audit report than the bundle holds")


def require_no_worse(old: Bundle, new: Bundle) -> None:
    """Returns when no worst cell of `new` is worse than that of `old`, as far as the old audit can tell.

    Raises:
        UsageError: the audits cannot be compared.
        RefusedError: a worst cell's rate lies above the old upper bound, a cell is no longer tested, or the verdict is
            a worse one.
    """
    before, after = old.manifest.audit.verdict, new.manifest.audit.verdict
    if Verdict.worst([before, after]) is not before:
        raise RefusedError(f"the verdict was {before.value} and is {after.value}")
    comparison = compare(old.papers.audit_report, new.papers.audit_report)
    if comparison.missing:
        raise RefusedError(f"no longer tested: {', '.join(comparison.missing)}")
    for change in comparison.changes:
        if change.verdict is not Verdict.PASS:
            raise RefusedError(change.reason)


def summary_of(report: AuditReport, release: ModelRelease) -> AuditSummary:
    """What the report comes to.

    Raises:
        UsageError: it is about another release, threshold or kind of score, or asked less than the release states.
    """
    if release.digest not in report.subject:
        raise UsageError("the audit report is about another release: its subject names the digest of what was tested")
    if not report.distance or report.threshold != release.threshold:
        raise UsageError("the audit report tested another threshold than the release has")
    if report.limits.fmr > release.fmr:
        raise UsageError("the audit report allows its cells a larger false match rate than the release states")
    worst = report.worst("fmr")
    cell = _NOTHING_MEASURED if worst is None else WorstCell(worst.name, worst.fmr.value, worst.fmr.low, worst.fmr.high)
    people, limits = report.overall.people or 0, report.limits
    return AuditSummary(report.verdict, cell, report.wolf, people, limits.fmr, limits.fnmr, report.pad)


def claims_of(
    release: ModelRelease, epsilon_audit: EpsilonAudit | None = None, evaluation: EvaluationReport | None = None
) -> Claims:
    """What the release states, and what was measured beside it.

    Raises:
        UsageError: what was attacked made another promise than the release, or did not keep it.
    """
    privacy = release.privacy
    if epsilon_audit and (epsilon_audit.claimed, epsilon_audit.delta) != (privacy.epsilon, privacy.delta):
        raise UsageError("the audit of epsilon attacked another promise than the release makes")
    return Claims(
        digest=bytes.fromhex(release.digest),
        recogniser=bytes.fromhex(release.model_digest),
        threshold=release.threshold,
        fmr=release.fmr,
        fmr_low=release.fmr_low,
        fmr_high=release.fmr_high,
        fmr_people=release.fmr_people,
        basis=release.basis,
        parameters=PARAMETERS[release.code_length],
        privacy_unit=release.privacy.privacy_unit,
        epsilon=release.privacy.epsilon,
        delta=release.privacy.delta,
        epsilon_lower_bound=epsilon_audit.lower_bound if epsilon_audit else None,
        attacks=attacks_of(release, evaluation),
        held_for=release.held_for,
    )


def attacks_of(release: ModelRelease, evaluation: EvaluationReport | None) -> AttackRates | None:
    """What an attacker achieves at most who has the release and the private evaluation of the same people.

    The evaluation is one Gaussian release more. It says its epsilon and delta, and no Gaussian release that keeps them
    has a larger mu than theirs.
    """
    return release.privacy.attacks if evaluation is None else AttackRates.of_mu(mu_of_everything(release, evaluation))


def mu_of_everything(release: ModelRelease, evaluation: EvaluationReport | None) -> float:
    """Of all that a bundle shows of people taken as one Gaussian mechanism of noise multiplier 1 / mu."""
    if evaluation is None:
        return release.privacy.mu
    return math.hypot(release.privacy.mu, mu_of_epsilon(evaluation.epsilon, evaluation.delta))


def _contents(release: ModelRelease, papers: Papers) -> dict[str, bytes]:
    contents = {
        "audit-report.json": papers.audit_report.to_bytes(),
        "data-statement.md": papers.data_statement.encode(),
        "model-card.md": papers.model_card.encode(),
        "release.json": release.to_bytes(),
    }
    if papers.epsilon_audit:
        contents[_EPSILON_AUDIT] = papers.epsilon_audit.to_bytes()
    if papers.evaluation:
        contents[_EVALUATION] = papers.evaluation.to_bytes()
    return dict(sorted(contents.items()))


def _digests(release: ModelRelease, papers: Papers) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, hashlib.sha256(content).digest()) for name, content in _contents(release, papers).items())


def _unpacked(data: bytes) -> dict[str, bytes]:
    """The files of an archive. Whatever else it says is caught when it is built again.

    Raises:
        BadZipFile: it has other files, or compressed ones; and nearly anything that damage makes zipfile raise.
    """
    # Looked at first: zipfile takes seconds to read a list of half a million files, before anybody can count them.
    end = data[-_END_BYTES:]
    is_plain = end.startswith(b"PK\5\6") and end.endswith(b"\0\0") and data[-42:-38] != b"PK\6\7"
    if not is_plain or int.from_bytes(end[12:16], "little") > _MOST_LISTED:
        raise zipfile.BadZipFile("a comment, a second end, or a long list of files")
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        entries = packed.infolist()
        names = [entry.filename for entry in entries]
        # Each once: a small archive may name one large file many thousand times, and reading it takes hours.
        if len(names) != len(set(names)) or set(names) - {_EPSILON_AUDIT, _EVALUATION} != _FILES:
            raise zipfile.BadZipFile("other files")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("compressed files")
        return {entry.filename: packed.read(entry) for entry in entries}
