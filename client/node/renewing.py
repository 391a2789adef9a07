"""What an organisation does in later years: it follows a moved gateway, and gives itself new keys.

::

    notice        what the coordinator said last of the gateway's address and authority
    next/         new keys, until a roster with them is trusted; then they take the old ones' places
    rekey.json    asks the coordinator for it, signed by the old key

The ledgers stay where they are: the people are the same, and so is what was spent on them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from client.files import replace_file, sync_folder
from client.node.joining import (
    AUTHORITY,
    INVITATION,
    NODE_KEY,
    ORGANISATION_KEY,
    POLICY,
    REQUEST,
    invitation_of,
    join,
    require_trusted_or,
    trust_roster,
)
from federation.errors import UsageError
from federation.identity import IdentityKey
from federation.membership.joining import SignedJoinRequest
from federation.membership.renewal import Notice, Rekeying, notice_from_text
from federation.secagg.session import roster_from_text

NOTICE: Final = "notice"
NEXT: Final = "next"
REKEYING: Final = "rekey.json"
_STAYS: Final = (POLICY, INVITATION, AUTHORITY)
"""Files that joining writes and that new keys do not change."""


def gateway_of(folder: Path) -> Notice:
    """Where the gateway is: as the newest notice says, or the invitation.

    Raises:
        UsageError: the folder joined nothing, or its notice was changed.
    """
    invitation, path = invitation_of(folder), folder / NOTICE
    if not path.exists():
        return Notice.of(invitation)
    return notice_from_text(_read(path).decode(errors="replace"), invitation)


def take_notice(text: str, folder: Path) -> Notice:
    """Follows the gateway. The next start of the node goes there.

    Raises:
        UsageError: the folder joined nothing, or has this notice or a newer one.
        MalformedMessageError, ProofError, PeerError: it is none of this organisation's coordinator.
    """
    notice = notice_from_text(text, invitation_of(folder))
    if notice.issued_at <= gateway_of(folder).issued_at:
        raise UsageError("this notice is not newer than what is known already")
    replace_file(folder / NOTICE, text.strip().encode() + b"\n")
    return notice


def rekey(folder: Path) -> Rekeying:
    """Makes new keys beside the old ones, which serve until a roster with the new ones is trusted.

    They wait under their name once all of them are there: half of them would take the old ones' places with the next
    roster. A crash leaves what the next call makes again, or keys without the request, which it writes.

    Raises:
        UsageError: the folder joined nothing, or new keys wait already.
    """
    waiting, draft = folder / NEXT, folder / f".{NEXT}"
    if waiting.exists() and (folder / REKEYING).exists():
        raise UsageError(f"new keys wait in {waiting}; send {folder / REKEYING}, or remove both of them to begin again")
    old = IdentityKey.from_pem(_read(folder / ORGANISATION_KEY))
    if not waiting.exists():
        shutil.rmtree(draft, ignore_errors=True)  # what a crash left was sent to nobody
        invitation = invitation_of(folder)
        text = _read(folder / INVITATION).decode()
        join(text, draft, now=invitation.expires_at - 1)  # it was open when this organisation joined by it
        (folder / REKEYING).unlink(missing_ok=True)  # it asks for keys that somebody removed
        sync_folder(folder)  # before others wait: it would be sent for those
        draft.rename(waiting)
        sync_folder(folder)
    rekeying = Rekeying.sign(SignedJoinRequest.from_bytes(_read(waiting / REQUEST)), old)
    replace_file(folder / REKEYING, rekeying.to_bytes())
    return rekeying


def trust(text: str, folder: Path, *, replace: bool) -> tuple[str, ...]:
    """`client.node.joining.trust_roster`; where it has the new keys that wait, they take the old ones' places first.

    A crash leaves some of them in their places; trusting the roster again moves the rest.
    """
    require_trusted_or(text, folder, replace=replace)  # or the new keys would stand beside the old roster
    waiting = folder / NEXT
    if waiting.is_dir() and _is_for_the_new_keys(text, waiting):
        for name in (ORGANISATION_KEY, NODE_KEY, f"{NODE_KEY}.pub"):
            if (path := waiting / name).exists():
                replace_file(folder / name, path.read_bytes())
                path.unlink()
        for path in sorted(waiting.iterdir()):
            if path.name not in _STAYS:
                replace_file(folder / path.name, path.read_bytes())
        shutil.rmtree(waiting)
        (folder / REKEYING).unlink(missing_ok=True)
    return trust_roster(text, folder, replace=replace)


def _is_for_the_new_keys(text: str, waiting: Path) -> bool:
    if not (waiting / ORGANISATION_KEY).exists():
        return True  # it has its place already, and the others are on their way
    request = SignedJoinRequest.from_bytes(_read(waiting / REQUEST)).request
    return request.organisation_key in roster_from_text(text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        advice = "take the coordinator's last notice again" if path.name == NOTICE else "run `intaglio join` first"
        raise UsageError(f"cannot read {path}: {error.strerror}; {advice}") from error
