"""`intaglio release`: build, sign, verify and compare release bundles. All of it works offline, on public files."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client.audit.groups_cli import score_command, threshold_command
from client.bundles import read_as, read_bundle, read_trust
from client.files import write_new_file
from client.terminal import JsonOption, read_file, show
from federation.audit.presentation import text_of_pad
from federation.audit.report import AuditReport
from federation.audit.wolf import text_of_wolves
from federation.commandline.commands import Commands
from federation.commandline.extras import require_extra
from federation.commandline.signing_keys import KEY_METAVAR, ed25519_key, file_of, is_token, new_ed25519_key
from federation.consent.purposes import DAY_SECONDS
from federation.errors import UsageError
from federation.learning.group_rates import EvaluationReport
from federation.privacy.epsilon_audit import EpsilonAudit
from federation.privacy.gaussian import epsilon_of_mu
from federation.recognition.model import ModelRelease
from federation.recognition.profile import RecogniserProfile
from federation.release.bundle import (
    Bundle,
    Papers,
    mu_of_everything,
    require_no_worse,
    require_reproduced,
    require_servable,
)
from federation.release.manifest import Role, Use
from federation.statements import text_of_time

release_app = Commands(
    help="""Release bundles: a model release with its audit, signed by its maker and by an auditor.

    A first run: `release key` at the maker and at the auditor, each on a machine of their own; `release build` at the
    maker; `release sign` at both; `release verify` at everybody. `release public` makes a model release that nobody
    trained. `release score` and `release threshold` measure one by group of people, before it is audited.""",
)
release_app.command("score")(score_command)
release_app.command("threshold")(threshold_command)

_ROLES = {role.name.lower(): role for role in Role}

BundleArgument = Annotated[Path, typer.Argument(help="Release bundle.", show_default=False)]
NewFileArgument = Annotated[Path, typer.Argument(help="File to write; never overwritten.", show_default=False)]
TrustOption = Annotated[Path, typer.Option(help="JSON file with the keys of makers and auditors that you trust.")]


@release_app.command("key")
def release_key(
    key: Annotated[
        str,
        typer.Argument(metavar=KEY_METAVAR, help="File to write; never overwritten. Or where in a token."),
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a signing key: PEM, mode 0600, not encrypted. Prints the public key, which others put into their trust.

    In a PKCS#11 token, pkcs11:token=NAME;object=KEY?module-path=LIBRARY, it is found or made.

    Needs: nothing. Writes: KEY, mode 0600.

    Example: intaglio release key maker.pem
    """
    made = new_ed25519_key(key if is_token(key) else None)
    if not is_token(key):
        write_new_file(Path(key), file_of(made))
    show({"key": key, "public_key": made.public_key().public_bytes_raw().hex()}, as_json=as_json)


@release_app.command("public")
def release_public(
    release: NewFileArgument,
    condition: Annotated[str, typer.Option(help="Camera condition of the probes, as the profile calls it.")],
    profile: Annotated[
        Path | None,
        typer.Option(help="Recogniser profile, as `models profile` wrote it.", show_default="the shipped one"),
    ] = None,
    fmr: Annotated[float, typer.Option(help="False match rate that the threshold is for, 0.001 to 0.05.")] = 0.01,
    references: Annotated[int, typer.Option(min=1, max=5, help="Pictures that a template averages.")] = 2,
    frames: Annotated[int, typer.Option(min=1, max=3, help="Pictures that a probe averages.")] = 1,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a model release of public knowledge alone: nobody trains, is asked, or pays privacy.

    Adapter and threshold come from the recogniser's profile. What the release states of its false match rate is an
    estimate for other people, with its interval; a federation of 60 people or more can check it.

    Needs: the profile, intaglio[device]. Writes: RELEASE.

    Example: intaglio release public release.json --condition mask --fmr 0.001
    """
    require_extra("device")
    from federation.learning.releasing import ReleaseTerms, public_release  # noqa: PLC0415 - the rest needs no NumPy
    from federation.recognition.mobilefacenet import shipped_profile  # noqa: PLC0415 - the same

    known = shipped_profile() if profile is None else read_as(profile, RecogniserProfile.from_bytes)
    made = public_release(ReleaseTerms(known, condition, fmr, references, frames), created=datetime.now(UTC))
    write_new_file(release, made.to_bytes())
    show(
        {
            "release": str(release),
            "digest": made.digest,
            "recogniser": made.model_name,
            "condition": made.condition,
            "threshold": f"{made.threshold} of {made.code_length} bits",
            "rate": made.rate.text,
            "images": f"{made.references} for a template, {made.frames} for a probe",
        },
        as_json=as_json,
    )


@release_app.command("build")
def release_build(
    bundle: NewFileArgument,
    release: Annotated[Path, typer.Option(help="Model release, as training wrote it.")],
    audit_report: Annotated[Path, typer.Option(help="The auditor's report on this very release.")],
    data_statement: Annotated[Path, typer.Option(help="Markdown: whose data trained and audited it.")],
    model_card: Annotated[Path, typer.Option(help="Markdown: what it is for, and what not.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="How long until it must be audited again.")] = 180,
    epsilon_audit: Annotated[
        Path | None, typer.Option(help="What `intaglio privacy audit --output` wrote about this training's plan.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Private error rates by group, as a run with the recipe evaluate wrote them.")
    ] = None,
    *,
    trial: Annotated[bool, typer.Option("--trial", help="Mark it as a trial, which no audit has passed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a bundle together. Nobody has signed it yet.

    Needs: the model release, its audit, the statement on its data, the model card. Writes: BUNDLE.

    Example: intaglio release build bundle.zip --release model.json --audit-report audit.json --data-statement data.md
    --model-card card.md
    """
    now = int(time.time())
    built = Bundle.build(
        read_as(release, ModelRelease.from_bytes),
        Papers(
            read_as(audit_report, _report),
            _text(data_statement),
            _text(model_card),
            read_as(epsilon_audit, EpsilonAudit.from_bytes) if epsilon_audit else None,
            read_as(evaluation, EvaluationReport.from_bytes) if evaluation else None,
        ),
        use=Use.TRIAL if trial else Use.GENERAL,
        begins_at=now,
        ends_at=now + days * DAY_SECONDS,
    )
    write_new_file(bundle, built.to_bytes())
    show(_facts(built) | {"bundle": str(bundle)}, as_json=as_json)


@release_app.command("sign")
def release_sign(
    bundle: BundleArgument,
    signed: NewFileArgument,
    role: Annotated[str, typer.Option("--as", help="maker or auditor.")],
    key: Annotated[
        str,
        typer.Option(
            metavar=KEY_METAVAR,
            help="Ed25519 key, PEM, or where in a token. Maker and auditor have different ones.",
        ),
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle. Read what it prints, and the report inside, before you hand it on.

    Needs: the bundle, and the signer's key. Writes: SIGNED.

    Example: intaglio release sign bundle.zip signed.zip --as maker --key maker.pem
    """
    if role not in _ROLES:
        raise UsageError("a bundle is signed --as maker or --as auditor")
    opened = read_bundle(bundle).signed_by(_ROLES[role], ed25519_key(key))
    write_new_file(signed, opened.to_bytes())
    show(_facts(opened) | {"bundle": str(signed)}, as_json=as_json)


@release_app.command("verify")
def release_verify(
    bundle: BundleArgument,
    trust: TrustOption,
    scores: Annotated[
        Path | None, typer.Option(help="Public scores, CSV or Parquet: make the audit again and compare its bytes.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Check that a bundle may be served now, as server and device do. Exit code 0 says yes, 3 or 4 no.

    Needs public files only.

    Needs: the bundle and the trust. Writes: nothing.

    Example: intaglio release verify release.zip --trust trust.json
    """
    opened = read_bundle(bundle)
    if scores is not None:
        require_reproduced(opened, _audited_again(scores, opened.papers.audit_report))
    require_servable(opened, read_trust(trust), now=int(time.time()))
    facts = _facts(opened)
    show(facts if scores is None else facts | {"audit": "made again from the scores, byte for byte"}, as_json=as_json)


@release_app.command("diff")
def release_diff(old: BundleArgument, new: BundleArgument, trust: TrustOption, *, as_json: JsonOption = False) -> None:
    """Compare two audits. Exit code 3: the worst cell got worse beyond its interval, or the verdict did.

    Needs: two bundles and the trust. Writes: nothing.

    Example: intaglio release diff old.zip new.zip --trust trust.json
    """
    before, after, believed = read_bundle(old), read_bundle(new), read_trust(trust)
    for one in (before, after):
        one.signed.require_trusted(believed)
    facts = {name: (then, _facts(after)[name]) for name, then in _facts(before).items()}
    show({name: then if then == now else f"{then} -> {now}" for name, (then, now) in facts.items()}, as_json=as_json)
    require_no_worse(before, after)


def _report(data: bytes) -> AuditReport:
    return AuditReport.from_bytes(data.removesuffix(b"\n"))  # as `intaglio audit --json` printed it


def _audited_again(scores: Path, report: AuditReport) -> AuditReport:
    """What the scores give with the settings that the report states. All else here needs no NumPy."""
    require_extra("audit")
    from client.audit.score_files import read_scores  # noqa: PLC0415 - see the docstring
    from federation.audit.audit import audit_scores  # noqa: PLC0415 - the same

    file = read_scores(scores, report.attributes)
    groups = {name: sorted({cell.labels[at] for cell in report.cells}) for at, name in enumerate(report.attributes)}
    return audit_scores(
        file.comparisons,
        limits=report.limits,
        strings=file.strings,
        presentations=file.presentations,
        threshold=report.threshold if report.stated_fmr is None else None,
        stated_fmr=report.stated_fmr,
        distance=report.distance,
        expected=groups,
        subject=report.subject,
        input_sha256=file.sha256,
        bad_rows=len(file.bad),
        replicates=report.bootstrap.replicates,
        seed=report.bootstrap.seed,
    )


def _facts(bundle: Bundle) -> dict[str, str]:
    manifest, attack = bundle.manifest, bundle.papers.epsilon_audit
    claims, audit = manifest.claims, manifest.audit
    worst = audit.worst_cell
    measured = "not measured"
    if attack:
        how = f"{attack.method.value}, {attack.runs} runs, confidence {attack.confidence:g}"
        measured = f"at least {attack.lower_bound:.2f} ({how})"
    evaluation = bundle.papers.evaluation
    rates = "; ".join(each.text for each in evaluation.rates) if evaluation else "not measured privately"
    mu, delta = mu_of_everything(bundle.release, evaluation), claims.delta or (evaluation.delta if evaluation else 0.0)
    once, twice = (f"{math.ceil(100 * epsilon_of_mu(times * mu, delta)) / 100:.2f}" for times in (1, 2))
    promise = f"{claims.promise_text}; with the private evaluation {once}" if evaluation else claims.promise_text
    warning = {} if manifest.warning is None else {"warning": manifest.warning}  # first, so that nobody misses it
    return warning | {
        "address": manifest.digest,
        "release": claims.digest.hex(),
        "audit": manifest.audited.text,
        "use": manifest.use.value,
        "worst_cell": f"{worst.name}: falsely matched at {worst.fmr:.3g} ({worst.low:.3g} to {worst.high:.3g})",
        "rate": claims.rate.text,
        "holds_for": claims.held_for.text if claims.held_for else "everybody together; nobody looked at groups",
        "recogniser": claims.recogniser.hex(),
        "wolf": text_of_wolves(audit.wolf),
        "presentation_attacks": text_of_pad(audit.pad),
        "threshold": f"{claims.threshold} bits",
        "epsilon": promise,
        "attacks": claims.attacks_text,
        "epsilon_in_two_organisations": twice,
        "epsilon_measured": measured,
        "rates_by_group": rates,
        "from": text_of_time(manifest.begins_at),
        "until": text_of_time(manifest.ends_at),
    }


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8") from error
