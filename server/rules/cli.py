"""`intaglio-server rules`: begin a rules file, add entries to it, stop a deployment."""

from __future__ import annotations

import datetime as dt
import fcntl
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.commandline.commands import Commands
from federation.commandline.signing_keys import KEY_METAVAR, WHERE_HELP, ed25519_key, file_of, new_ed25519_key
from federation.consent.purposes import DAY_SECONDS, Category
from federation.consent.receipts import Terms
from federation.errors import MalformedMessageError, UsageError
from federation.release.bundle import Bundle
from federation.rules.entries import (
    Deployment,
    Lifting,
    Moratorium,
    PolicyPack,
    PurposeRule,
    Rule,
    jurisdictions_around,
)
from federation.rules.kiosks import LONGEST_KIOSK_SECONDS, Kiosk
from federation.rules.rulebook import Rulebook, RuleSigners, SignedRule
from federation.statements import text_of_time
from server.files import PRIVATE, PUBLIC, make_directory, write_durably, write_new
from server.rules.assertions import read_registration

rules_commands = Commands(help="The public rules that servers and devices decide by.")

_TRIAL_DAYS = 365
_RULES, _SIGNERS = "rules.jsonl", ("signer-1.pem", "signer-2.pem")

RulesArgument = Annotated[Path, typer.Argument(help="Rules file.")]
KeyOption = Annotated[
    list[str],
    typer.Option(
        "--key", metavar=KEY_METAVAR, help="A rule signer's Ed25519 key, PEM, or where in a token; repeatable."
    ),
]
ReasonOption = Annotated[str, typer.Option(help="For everybody to read.")]


@rules_commands.command("init")
def rules_init(
    directory: Annotated[Path, typer.Argument(help="Where the files go; made when missing.")],
    terms: Annotated[
        Path,
        typer.Option(
            envvar="INTAGLIO_SERVER_TERMS", help="JSON file with what people agree to; see examples/policies."
        ),
    ],
    release: Annotated[
        Path, typer.Option(envvar="INTAGLIO_SERVER_RELEASE", help="Release bundle that will be served.")
    ],
    deployment: Annotated[
        str, typer.Option(envvar="INTAGLIO_SERVER_DEPLOYMENT", help="Identifier in the registry.")
    ] = "trial",
    category: Annotated[Category, typer.Option(help="What kind of purpose it is.")] = Category.PHYSICAL_ACCESS,
    assertions: Annotated[
        Path | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_ASSERTIONS",
            help="What `intaglio-server assertions init` made. [default: none are issued]",
        ),
    ] = None,
    token: Annotated[
        list[str] | None, typer.Option(metavar="URI", help=f"Of one signer; repeatable. {WHERE_HELP}")
    ] = None,
) -> None:
    """Begin rules for a trial: two signers' keys, a policy for each jurisdiction of the terms, one deployment.

    For a trial, because whoever holds both keys allows whatever is not a red line. In earnest the keys belong to people
    who do not work for the operator, and each signs on a machine of their own.

    Needs: the terms and the release bundle. Writes: DIRECTORY.

    Example: intaglio-server rules init rules --category sign-in
    """
    offered, now = _terms(terms), int(time.time())
    served = bytes.fromhex(read_bundle(release).release.digest)
    ends_at = now + _TRIAL_DAYS * DAY_SECONDS
    places = jurisdictions_around(offered.jurisdiction)
    allowed = tuple(
        PurposeRule(purpose, category, category.lowest_tier, now, ends_at) for purpose in sorted(offered.purposes)
    )
    rules: list[Rule] = [PolicyPack(place, 1, now, ends_at, allowed) for place in places]
    rules.append(
        Deployment(
            identifier=deployment,
            operator=offered.controller.name,
            contact=offered.controller.contact,
            audience=offered.audience,
            purposes=offered.purposes,
            jurisdictions=places,
            release_digests=(served,),
            begins_at=now,
            ends_at=ends_at,
            issuer=read_registration(assertions) if assertions else None,
        )
    )
    if len(token or ()) > len(_SIGNERS):
        raise UsageError(f"rules for a trial have {len(_SIGNERS)} signers, so at most as many --token")
    named = [*(token or ()), *[None] * len(_SIGNERS)]
    keys = [new_ed25519_key(where) for _, where in zip(_SIGNERS, named, strict=False)]
    signers = RuleSigners(frozenset(key.public_key().public_bytes_raw() for key in keys), threshold=len(keys))
    make_directory(directory, mode=0o700)
    for name, key in zip(_SIGNERS, keys, strict=True):
        _write_new(directory / name, file_of(key))
    lines = [signers.to_bytes(), *(signed_by(rule, keys).to_bytes() for rule in rules)]
    _write_new(directory / _RULES, b"".join(line + b"\n" for line in lines), mode=PUBLIC)
    for name in (*_SIGNERS, _RULES):
        typer.echo(f"wrote {directory / name}")


@rules_commands.command("add")
def rules_add(
    rules: RulesArgument, entry: Annotated[Path, typer.Argument(help="Signed entry; see docs/formats.md.")]
) -> None:
    """Append an entry that others have signed. Running servers take it in within seconds.

    Needs: the signed entry. Writes: RULES.

    Example: intaglio-server rules add rules/rules.jsonl entry.json
    """
    append_rule(rules, _signed_rule(entry))


@rules_commands.command("register")
def rules_register(
    rules: RulesArgument,
    identifier: Annotated[str, typer.Argument(help="Name of the new deployment, such as trial-2.")],
    like: Annotated[str, typer.Option(help="The deployment that it follows, and whose operator, purposes ... it has.")],
    key: KeyOption,
    release: Annotated[
        list[Path] | None,
        typer.Option(help="Release bundle that may be served; repeatable. [default: those of the other deployment]"),
    ] = None,
    assertions: Annotated[
        Path | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_ASSERTIONS",
            help="What `intaglio-server assertions init` made. [default: the issuer of the other deployment]",
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it may run from now on.")] = _TRIAL_DAYS,
) -> None:
    """Register a deployment that follows another: with another release, another key for assertions, or for longer.

    A deployment never changes, so a change is a new one. Servers and the page serve it when they are started with
    --deployment IDENTIFIER; the old one stands beside it until it ends.

    Needs: the rules, as many signers' keys as they say. Writes: RULES.

    Example: intaglio-server rules register rules/rules.jsonl trial-2 --like trial --release release-2.zip
    --key signer-1.pem --key signer-2.pem
    """
    now = int(time.time())
    before = Rulebook.from_file(read_named(rules), read_at=now).deployment(like)
    if before is None:
        raise UsageError(f"no deployment {like!r} stands in {rules}")
    begins_at = max(now, before.begins_at + 1)  # devices go to what begins later; both may be typed in a second
    digests = {bytes.fromhex(read_bundle(path).release.digest) for path in release or ()}
    following = replace(
        before,
        identifier=identifier,
        release_digests=tuple(sorted(digests)) or before.release_digests,
        issuer=read_registration(assertions) if assertions else before.issuer,
        begins_at=begins_at,
        ends_at=begins_at + days * DAY_SECONDS,
    )
    append_rule(rules, signed_by(following, [ed25519_key(k) for k in key]))


@rules_commands.command("prolong")
def rules_prolong(
    rules: RulesArgument,
    key: KeyOption,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long from now on.")] = _TRIAL_DAYS,
) -> None:
    """Let go on what is allowed: the pack that counts in each jurisdiction, as its next version, which ends later.

    What was to end before its pack does so still, and is named; a ban stays one. Running servers take it in within
    seconds, devices with the rules. A deployment is not prolonged: `rules register` one that follows it.

    Needs: the rules, as many signers' keys as they say. Writes: RULES.

    Example: intaglio-server rules prolong rules/rules.jsonl --key signer-1.pem --key signer-2.pem
    """
    now = int(time.time())
    book = Rulebook.from_file(read_named(rules), read_at=now)
    places = sorted({rule.jurisdiction for rule in book.rules.values() if isinstance(rule, PolicyPack)})
    for place in places:
        _tell_what_ends_still(book.pack(place, now))
    following = [one for place in places if (one := _prolonged(book, place, now, now + days * DAY_SECONDS)) is not None]
    if not following:
        raise UsageError(f"no pack in {rules} allows anything that would end later then")
    keys = [ed25519_key(k) for k in key]
    for pack in following:  # a crash in between leaves some prolonged; typed again, the others are too
        append_rule(rules, signed_by(pack, keys))


def _tell_what_ends_still(pack: PolicyPack | None) -> None:
    """Names what no prolonging lets go on, because it was to end before its pack."""
    for rule in pack.rules if pack else ():
        if pack and rule.ends_at < pack.ends_at:
            typer.echo(
                f"{rule.purpose} ends in {pack.jurisdiction} at {text_of_time(rule.ends_at)} all the same, before its"
                " pack: only another pack lets it go on, which its signers write (`intaglio-server rules add`)",
                err=True,
            )


def _prolonged(book: Rulebook, place: str, now: int, ends_at: int) -> PolicyPack | None:
    """The next version of the pack that counts, or None where nothing would end later."""
    pack = book.pack(place, now)
    if coming := book.changes_of_pack(place, now):
        at = dt.datetime.fromtimestamp(min(coming), dt.UTC)
        raise UsageError(f"another pack of {place} begins at {at:%Y-%m-%dT%H:%M:%SZ}; prolong that one then")
    if pack is None or not pack.rules or pack.ends_at >= ends_at:
        return None
    rules = tuple(replace(rule, ends_at=ends_at) if rule.ends_at >= pack.ends_at else rule for rule in pack.rules)
    return replace(pack, version=pack.version + 1, begins_at=now, ends_at=ends_at, rules=rules)


@rules_commands.command("kiosk")
def rules_kiosk(
    rules: RulesArgument,
    identifier: Annotated[str, typer.Argument(help="Name of the kiosk, such as hall-1; a change is a new one.")],
    certificate: Annotated[Path, typer.Option(help="Its client certificate, PEM. Never that of a page's bridge.")],
    place: Annotated[str, typer.Option(help="Where it stands and who looks after it, for everybody to read.")],
    key: KeyOption,
    deployment: Annotated[
        str, typer.Option(envvar="INTAGLIO_SERVER_DEPLOYMENT", help="Identifier of the one whose people come to it.")
    ] = "trial",
    days: Annotated[
        int, typer.Option(min=1, max=LONGEST_KIOSK_SECONDS // DAY_SECONDS, help="How long it is believed from now on.")
    ] = LONGEST_KIOSK_SECONDS // DAY_SECONDS,
) -> None:
    """Name a device of the operator's: its word that it looked for a picture before its camera counts as `supervised`.

    It is believed until its certificate ends, at the latest. A renewed certificate is a new kiosk. Behind a bridge's
    certificate stand all browsers: a bridge that the rules name a kiosk does not serve (docs/pad.md).

    Needs: the rules, as many signers' keys as they say, the kiosk's certificate, not its key. Writes: RULES.

    Example: intaglio-server rules kiosk rules/rules.jsonl hall-1 --certificate tls/hall-1.pem --place "entrance hall"
    --key rules/signer-1.pem --key rules/signer-2.pem
    """
    now = int(time.time())
    if Rulebook.from_file(read_named(rules), read_at=now).deployment(deployment) is None:
        raise UsageError(f"no deployment {deployment!r} stands in {rules}")
    try:
        shown = x509.load_pem_x509_certificate(read_named(certificate))
    except ValueError:
        raise UsageError(f"{certificate} holds no certificate in PEM") from None
    ends_at = min(now + days * DAY_SECONDS, int(shown.not_valid_after_utc.timestamp()))
    if ends_at <= now:
        raise UsageError(f"the certificate in {certificate} has ended; renew it first (`intaglio-server pki renew`)")
    named = Kiosk(identifier, deployment, shown.fingerprint(hashes.SHA256()), place, now, ends_at)
    append_rule(rules, signed_by(named, [ed25519_key(path) for path in key]))


@rules_commands.command("stop")
def rules_stop(
    rules: RulesArgument,
    key: KeyOption,
    name: Annotated[str, typer.Option(help="Name of the moratorium, for the entry that will lift it.")],
    reason: ReasonOption,
    jurisdiction: Annotated[list[str] | None, typer.Option(help="Where; repeatable. [default: everywhere]")] = None,
    audience: Annotated[list[str] | None, typer.Option(help="Whose; repeatable. [default: everybody's]")] = None,
) -> None:
    """Begin a moratorium now: enrolment and verification in its scope stop. One signer can do that alone.

    Needs: a signer's key. Writes: RULES.

    Example: intaglio-server rules stop rules/rules.jsonl --key signer-1.pem --name incident-7 --reason stolen-keys
    """
    places, whose = tuple(sorted(jurisdiction or ())), tuple(sorted(audience or ()))
    append_rule(
        rules, signed_by(Moratorium(name, int(time.time()), places, whose, (), reason), [ed25519_key(k) for k in key])
    )


@rules_commands.command("lift")
def rules_lift(
    rules: RulesArgument,
    key: KeyOption,
    name: Annotated[str, typer.Option(help="Name of the moratorium.")],
    reason: ReasonOption,
) -> None:
    """End a moratorium. Needs at least two signers.

    Needs: two signers' keys. Writes: RULES.

    Example: intaglio-server rules lift rules/rules.jsonl --key signer-1.pem --key signer-2.pem --name incident-7
    --reason keys-replaced
    """
    now = int(time.time())
    stopped = Rulebook.from_file(read_named(rules), read_at=now).rules.get(f"moratorium {name}")
    at = max(now, stopped.begins_at + 1) if isinstance(stopped, Moratorium) else now  # both may be typed in a second
    append_rule(rules, signed_by(Lifting(name, at, reason), [ed25519_key(k) for k in key]))


def append_rule(path: Path, signed: SignedRule) -> None:
    """Adds one line. Readers see the old file or the new one; a crash leaves at worst a stray temporary file.

    Two who add at once wait for each other: else one would write the other's moratorium away.
    """
    with path.with_name(f"{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or when the process dies
        data = read_named(path)
        book = Rulebook.from_file(data, read_at=int(time.time()))
        if book.admit(signed) == book:
            typer.echo(f"{signed.rule.name} stands in {path} already")
            return
        write_durably(path, data + signed.to_bytes() + b"\n", mode=path.stat().st_mode & 0o777)
    typer.echo(f"added {signed.rule.name} at {dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}")


def signed_by(rule: Rule, keys: list[Ed25519PrivateKey]) -> SignedRule:
    """The rule with the signatures of these signers."""
    signed = SignedRule(rule)
    for key in keys:
        signed = signed.signed_by(key)
    return signed


def _signed_rule(path: Path) -> SignedRule:
    try:
        return SignedRule.from_bytes(read_named(path))
    except MalformedMessageError as error:
        raise UsageError(f"{path}: {error}") from error  # the file that was named is wrong, no peer is to blame


def _terms(path: Path) -> Terms:
    try:
        return Terms.from_file(read_named(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def read_bundle(path: Path) -> Bundle:
    """The release bundle in a file that the operator named. Whose signatures count is not asked here.

    Raises:
        UsageError: it is missing, or none of this version.
    """
    try:
        return Bundle.from_bytes(read_named(path))
    except MalformedMessageError as error:
        raise UsageError(f"{path}: {error}") from error  # the file that was named is wrong, no peer is to blame


def read_named(path: Path) -> bytes:
    """The content of a file that the operator named.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _write_new(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Nothing is overwritten. A crash leaves a file that is cut short, which nothing accepts: delete it."""
    try:
        write_new(path, data, mode=mode)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}; nothing is overwritten, so name a new folder"
        ) from error
