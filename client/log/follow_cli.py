"""`intaglio log follow`: a monitor that reads the log from its server. Mounted by `client.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.connection import ClientTls, Connection
from client.log.cli import watch
from client.log.policy import read_log_policy
from client.log.reader import RemoteLog
from client.terminal import DEFAULT_SERVER, CertificateOption, JsonOption, LogPolicyOption, ServerOption, TlsOption

_TIMEOUT_SECONDS = 20.0


def log_follow(
    tls: TlsOption,
    log_policy: LogPolicyOption,
    state: Annotated[Path, typer.Option(help="What this monitor remembers; made when missing.")],
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    seen: Annotated[list[Path] | None, typer.Option(help="A checkpoint that somebody was shown; repeatable.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Read what is new in a server's log, recompute its tree, and count use by requester and purpose.

    Ends with exit code 4 on a fork, an omission or a rollback, and then forgets nothing: the state stays as it was.

    Needs: log policy, certificates, the server. Writes: the state.

    Example: intaglio log follow --state monitor.json
    """
    connection = Connection(server, ClientTls.read(tls, certificate), timeout_seconds=_TIMEOUT_SECONDS)
    try:
        watch(RemoteLog(connection), read_log_policy(log_policy), state, seen or [], as_json=as_json)
    finally:
        connection.close()
