"""Addresses: what is one, both ends of a port, and why nobody can listen there."""

import errno
import re

import pytest

from federation.addresses import bare_host, cannot_listen, joined, split
from federation.errors import UsageError

GOOD = {
    "localhost:1": ("localhost", 1),
    "a.b-c_d.example:65535": ("a.b-c_d.example", 65535),
    "192.0.2.7:7443": ("192.0.2.7", 7443),
    "[::1]:7443": ("::1", 7443),
    "[2001:db8::2]:10": ("2001:db8::2", 10),
    "a" * 253 + ":9": ("a" * 253, 9),
}


@pytest.mark.parametrize(("text", "parts"), GOOD.items())
def test_an_address_is_host_and_port_and_back(text, parts):
    assert split(text) == parts
    assert joined(*parts) == text
    assert joined(f"[{parts[0]}]", parts[1]) == text
    assert bare_host(f"[{parts[0]}]") == bare_host(parts[0]) == parts[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((f"localhost{port}", "with a port from 1 to 65535$") for port in ("", ":", ":0", ":01", ":65536", ":7443 ")),
        *((f"localhost:{port}", "with a port from 1 to 65535$") for port in ("-1", "+1", "1.0", "\u0661", "7" * 4301)),
        *((f"{host}:7443", "with a name, an IPv4 address or \\[IPv6\\]$") for host in ("", "-a", "a-", "a b", "a/b")),
        *((f"{host}:7443", "a name, an IPv4 address or \\[IPv6\\]$") for host in ("a" * 254, "[a]", "[1:2]", "a:b")),
        ("::1:7443", "does not say where its port begins: write \\[::1\\]:7443$"),
    ],
)
def test_what_is_no_address_is_told_what_to_write(text, said):
    with pytest.raises(UsageError, match=f"^{re.escape(repr(text))} .*{said}"):
        split(text)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "something else listens there"),
        (OSError(errno.EADDRNOTAVAIL, "not there"), "that is no address of this machine"),
        (OSError(errno.EACCES, "denied"), "this user may not; take a port from 1024 on"),
        (OSError(errno.EMFILE, "too many files"), "too many files"),
        (OSError("no number"), "no number"),
    ],
)
def test_who_cannot_listen_is_told_where_and_why(error, why):
    assert str(cannot_listen("::1", 80, error)) == f"cannot listen on [::1]:80: {why}"
