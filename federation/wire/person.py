"""One file for a person: everything that a device needs to enrol and verify somewhere, sealed with a passphrase.

The operator makes it and hands it over on one way, and its passphrase on another. It says whom the device believes and
where it goes, so a device takes it only when its owner names it, and only whole: what is not written here is refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from federation.addresses import split
from federation.errors import MalformedMessageError, UsageError
from federation.sealing import SealedKind
from federation.statements import require_name
from federation.wire.ticket import Ticket

PERSON: Final = SealedKind("person's file", b"intaglio person\0", version=1, most_bytes=16 << 20)
FILES: Final = frozenset(
    {
        "ca.pem",
        "client.pem",
        "client-key.pem",
        "release.zip",
        "trust.json",
        "rules.jsonl",
        "log-policy",
        "terms.json",
    }
)
"""What is in it, by the names that the device keeps them under."""
_KEYS: Final = frozenset({"deployment", "files", "server", "ticket"})


@dataclass(frozen=True)
class PersonFile:
    """What stands in the file.

    Attributes:
        server: HOST:PORT of the matching service.
        deployment: identifier of who verifies, in the public rules.
        ticket: to enrol with.
        files: content of each of `FILES`.
    """

    server: str
    deployment: str
    ticket: Ticket
    files: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        split(self.server)
        require_name("the deployment", self.deployment)
        if set(self.files) != FILES:
            raise UsageError(f"a person's file holds {', '.join(sorted(FILES))}, and nothing else")

    def to_secret_bytes(self) -> bytes:
        """For sealing: it holds a key and a ticket."""
        return json.dumps(
            {
                "deployment": self.deployment,
                "files": {name: base64.b64encode(self.files[name]).decode() for name in sorted(FILES)},
                "server": self.server,
                "ticket": self.ticket.reveal(),
            }
        ).encode()

    @classmethod
    def from_secret_bytes(cls, content: bytes) -> Self:
        """Reads what `to_secret_bytes` gave.

        Raises:
            MalformedMessageError: it is something else.
        """
        try:
            read: dict[str, Any] = json.loads(content)
            if not isinstance(read, dict) or set(read) != _KEYS:
                raise MalformedMessageError("another version of this program wrote the person's file")
            files = {name: base64.b64decode(text, validate=True) for name, text in read["files"].items()}
            return cls(read["server"], read["deployment"], Ticket.from_text(read["ticket"]), files)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, UsageError):
            # `from None`: the cause may quote the content.
            raise MalformedMessageError("the person's file opens, and says what no such file says") from None
