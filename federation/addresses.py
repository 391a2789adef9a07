"""Host and port as one text and back, and why nobody can listen there: the same for every program. Opens nothing."""

from __future__ import annotations

import errno
import ipaddress
import re
from typing import Final

from federation.errors import UsageError

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_MOST_PORT: Final = 65535
_WHY: Final = {
    errno.EADDRINUSE: "something else listens there",
    errno.EADDRNOTAVAIL: "that is no address of this machine",
    errno.EACCES: "this user may not; take a port from 1024 on",
}


def joined(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets.

    >>> joined("::1", 7443), joined("[::1]", 7443), joined("localhost", 7443)
    ('[::1]:7443', '[::1]:7443', 'localhost:7443')
    """
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def bare_host(host: str) -> str:
    """A host as sockets want it: without brackets."""
    return host.removeprefix("[").removesuffix("]")


def split(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port of HOST:PORT.

    >>> split("[::1]:7443")
    ('::1', 7443)

    Raises:
        UsageError: it is no such address. Says what to write.
    """
    host, _, port = address.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > _MOST_PORT:
        raise UsageError(f"{address!r} is no address: write HOST:PORT, with a port from 1 to {_MOST_PORT}")
    bare = bare_host(host)
    if ":" in bare and _is_ipv6(bare):
        if bare == host:
            raise UsageError(f"{address!r} does not say where its port begins: write {joined(host, int(port))}")
        return bare, int(port)
    if not _NAME.fullmatch(host):
        raise UsageError(f"{address!r} is no address: write HOST:PORT, with a name, an IPv4 address or [IPv6]")
    return host, int(port)


def cannot_listen(host: str, port: int, error: OSError) -> UsageError:
    """What to raise when a socket could not be bound."""
    return UsageError(f"cannot listen on {joined(host, port)}: {_WHY.get(error.errno or 0, error.strerror or error)}")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
