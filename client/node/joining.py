"""The organisation's folder: keys, invitation, policy and roster.

::

    node, node.pub        SuperNode's key on NIST P-384, OpenSSH encoding, which is what Flower reads
    organisation.pem      Ed25519 and ML-DSA-44 keys that sign this organisation's part of secure aggregation
    invitation            what the coordinator sent
    request.json          what goes back to the coordinator
    authority.pem         whom the gateway's certificate must be signed by
    policy.toml           what this organisation agrees to
    roster                keys of all organisations, once compared
    embeddings.npz        all embeddings, made by `intaglio node prepare` or by other means (`client.preparing.people`)
    chips.npz, model/     aligned chips of the same people, and the recogniser's weights: for the recipe `scales` only
    groups.json           {"PERSON": "GROUP"} of everybody who may be in private error rates by group; written by hand
    withdrawn             SHA-256 of the names of people who withdrew, one a line
    active.npz            the embeddings that take part: all but theirs
    ledgers/              what the people were charged, and a copy of the coordinator's ledger (`client.node.ledger`)
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.files import make_folder, replace_file
from federation.errors import RefusedError, UsageError
from federation.identity import IdentityKey
from federation.membership.joining import (
    Invitation,
    JoinRequest,
    LocalPolicy,
    SignedJoinRequest,
    fingerprint,
    invitation_from_text,
    node_key_line,
)
from federation.privacy.bounds import BOUNDS
from federation.secagg.session import roster_from_text, roster_names

NODE_KEY: Final = "node"
ORGANISATION_KEY: Final = "organisation.pem"
INVITATION: Final = "invitation"
REQUEST: Final = "request.json"
AUTHORITY: Final = "authority.pem"
POLICY: Final = "policy.toml"
ROSTER: Final = "roster"
LEDGERS: Final = "ledgers"

_FIRST_POLICY = """\
# What this organisation agrees to. It wins over whatever the coordinator asks.
max-epsilon = 8.0       # most that one run may cost a person of this organisation
budget-epsilon = 16.0   # most that all runs together may cost one; it can be lowered later and not raised
delta = 1e-5            # an epsilon is worth nothing without it: both are counted at this one, whatever a plan says
min-colluders = 1       # colluding organisations that a run must stand
# What a run may ask for. "scales" tunes the recogniser itself, and needs aligned pictures of faces in this folder. Who
# agrees to that writes ["moments", "scales", "threshold"] and runs `intaglio node prepare` again. "evaluation", which
# comes last, measures a release by group of people, privately; it needs groups.json.
recipes = ["moments", "threshold"]
app-hashes = []         # SHA-256 of applications that may run here, as `federation app-hash` prints it; none yet
hours = "00:00-00:00"   # UTC; from and to the same is always
#
# Nobody compares the people of two organisations. Who is in both has about twice the epsilon of one run (19.1 where it
# is 8): agree with the others on who lists whom.
#
# The applications that you allow refuse numbers of the coordinator's out of these bounds, before anything is read:
"""
_FIRST_POLICY += "".join(f"# {name:20} {least:g} to {most:g}\n" for name, (least, most) in BOUNDS.items())


def join(invitation_text: str, folder: Path, *, now: int) -> SignedJoinRequest:
    """Makes the organisation's keys and its request. Nothing is overwritten.

    A crash leaves keys without a request: nothing was sent, so empty the folder and join again.

    Raises:
        MalformedMessageError, ProofError: this is no invitation, or not of the key inside.
        UsageError: it has expired, or the folder holds an organisation.
    """
    invitation = invitation_from_text(invitation_text)
    invitation.require_open(now)
    node, organisation = ec.generate_private_key(ec.SECP384R1()), IdentityKey.generate()
    request = JoinRequest(
        invitation.invitation,
        invitation.digest,
        invitation.name,
        node_key_line(node),
        organisation.public,
    )
    signed = SignedJoinRequest.sign(request, organisation, node)
    files = {
        NODE_KEY: node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        f"{NODE_KEY}.pub": f"{request.node_key} {request.name}\n".encode(),
        ORGANISATION_KEY: organisation.to_pem(),
        INVITATION: invitation_text.strip().encode() + b"\n",
        AUTHORITY: invitation.authority.encode(),
        POLICY: _FIRST_POLICY.encode(),
        REQUEST: signed.to_bytes(),
    }
    make_folder(folder, mode=0o700)
    if existing := [name for name in files if (folder / name).exists()]:
        raise UsageError(f"{folder / existing[0]} exists and is not overwritten; name an empty folder")
    for name, data in files.items():
        replace_file(folder / name, data)
    return signed


def invitation_of(folder: Path) -> Invitation:
    """The invitation that the folder joined by.

    Raises:
        UsageError: the folder joined nothing.
    """
    return invitation_from_text(_read(folder / INVITATION, "run `intaglio join` first").decode(errors="replace"))


def policy_of(folder: Path) -> LocalPolicy:
    """The organisation's policy.

    Raises:
        UsageError: it is missing or wrong.
    """
    return LocalPolicy.from_toml(_read(folder / POLICY, "an organisation needs a policy").decode(errors="replace"))


def trust_roster(text: str, folder: Path, *, replace: bool = False) -> tuple[str, ...]:
    """Accepts all organisations' keys, and returns their fingerprints and names. A change needs `replace`.

    Raises:
        UsageError: it is no roster, or another one is trusted already.
        RefusedError: this organisation is not in it.
    """
    roster = roster_from_text(text)
    own = _organisation_key(folder)
    if own not in roster:
        raise RefusedError("this organisation's key is not in the roster; ask the coordinator for the current one")
    require_trusted_or(text, folder, replace=replace)
    replace_file(folder / ROSTER, text.encode())
    return tuple(
        f"{fingerprint(key)}  {name}{'  (you read this one out)' * (key == own)}"
        for key, name in zip(roster, roster_names(text), strict=True)
    )


def require_trusted_or(text: str, folder: Path, *, replace: bool) -> None:
    """Raises UsageError when another roster is trusted already, unless it is to be replaced."""
    path = folder / ROSTER
    if path.exists() and _read(path, "move it away") != text.encode() and not replace:
        raise UsageError("another roster is trusted already; compare the fingerprints, then say --replace")


def _organisation_key(folder: Path) -> bytes:
    return IdentityKey.from_pem(_read(folder / ORGANISATION_KEY, "run `intaglio join` first")).public


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; {advice}") from error
