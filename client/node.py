"""Runs an organisation's SuperNode behind its guard, under its own policy."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from client.guard import gateway_client, guard_app, guard_server, write_loopback_certificate
from client.joining import (
    AUTHORITY,
    LEDGERS,
    NODE_KEY,
    ORGANISATION_KEY,
    ROSTER,
    invitation_of,
    policy_of,
)
from client.ledger import Ledgers
from client.people import (
    ACTIVE,
    CHIPS,
    GROUPS,
    MODEL,
    changing,
    refresh_active,
    require_both_cameras,
    require_chips_of_all,
    require_groups,
)
from federation.errors import RefusedError, UnavailableError, UsageError
from federation.evaluation_plan import EVALUATION
from federation.fleet import flower_environment
from federation.membership import LocalPolicy
from federation.privacy import SCALES

_GUARD_CERTIFICATE, _GUARD_KEY = "guard.pem", "guard-key.pem"
_DELAY_CLASS_SECONDS: Final = 2.0
"""Answers that needed people leave after this, twice this, four times this: when says little about them (ADR 0140)."""
_STARTUP_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0
_STOPPED: Final = 0


def node_config(folder: Path, policy: LocalPolicy) -> str:
    """What the SuperNode hands to `client.app`; Flower's own syntax.

    Raises:
        UsageError: the folder's path cannot be written in that syntax.
    """
    if not all(c.isprintable() and c not in " \"'\\" for c in str(folder)):
        raise UsageError(f"{folder} has characters that Flower's node configuration cannot hold; move the folder")
    paths = {"embeddings": ACTIVE, "identity": ORGANISATION_KEY, "roster": ROSTER, "ledgers": LEDGERS}
    paths |= {"chips": CHIPS, "model": MODEL, "groups": GROUPS}
    return " ".join(
        [
            *(f'{key}="{folder / name}"' for key, name in paths.items()),
            f'recipes="{",".join(policy.recipes)}"',
            f"max-epsilon={policy.max_epsilon!r}",
            f"budget-epsilon={policy.budget_epsilon!r}",
            f"delta={policy.delta!r}",
            f"min-colluders={policy.min_colluders}",
            f"delay-class-seconds={_DELAY_CLASS_SECONDS!r}",
        ]
    )


def require_ready(folder: Path) -> LocalPolicy:
    """The policy, once everything that a node needs is there.

    Raises:
        UsageError: a file is missing or wrong.
        RefusedError: the policy allows no application, or nobody takes part.
    """
    policy = policy_of(folder)
    if not policy.app_hashes:
        raise RefusedError(f"the policy allows no application; put its SHA-256 into app-hashes of {folder}/policy.toml")
    if not (folder / ROSTER).is_file():
        raise UsageError("no roster is trusted yet; compare the fingerprints with `intaglio node trust ROSTER`")
    with changing(folder):  # else who withdraws at this moment could come back
        active = refresh_active(folder)
    # Whatever is wrong with the people is said here. A question is answered all the same (`client.records`).
    require_both_cameras(active)
    if SCALES in policy.recipes:
        require_chips_of_all(active, folder)
    if EVALUATION in policy.recipes:
        require_groups(active, folder)
    Ledgers(folder / LEDGERS, policy.budget_epsilon, policy.delta).own()
    return policy


def run_node(folder: Path) -> int:
    """Runs until SIGTERM, SIGINT or the end of the SuperNode; returns its exit status, 0 when it was stopped.

    Call it from the main thread.

    Raises:
        UsageError, RefusedError: see `require_ready`.
        UnavailableError: the guard did not start.
    """
    folder = folder.resolve()
    policy, invitation = require_ready(folder), invitation_of(folder)
    certificate, key, port = folder / _GUARD_CERTIFICATE, folder / _GUARD_KEY, _free_port()
    write_loopback_certificate(certificate, key, now=dt.datetime.now(dt.UTC))
    app = guard_app(gateway_client(invitation.address, folder / AUTHORITY), policy)
    guard = guard_server(app, port=port, certificate=certificate, key=key)
    thread = threading.Thread(target=guard.run, daemon=True)
    thread.start()
    end = time.monotonic() + _STARTUP_SECONDS
    while not guard.started:
        if time.monotonic() > end or not thread.is_alive():
            raise UnavailableError("the guard of this node did not start; its port may be taken: start again")
        time.sleep(0.05)
    process = subprocess.Popen(  # noqa: S603 - our interpreter's program, no shell
        [
            *(str(Path(sys.executable).parent / "flower-supernode"), "--superlink", f"127.0.0.1:{port}"),
            *("--root-certificates", str(certificate), "--auth-supernode-private-key", str(folder / NODE_KEY)),
            *("--host", "127.0.0.1", "--port", str(_free_port()), "--node-config", node_config(folder, policy)),
        ],
        cwd=folder,  # nothing named client or server lies here, so the application's own packages are imported
        env=flower_environment(os.environ, home=folder / "flower", interpreter=sys.executable),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    stopping = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stopping.set())
    try:
        while process.poll() is None and not stopping.wait(0.2):
            pass
    finally:
        _stop(process)
        guard.should_exit = True
        thread.join(_STOP_SECONDS)
    return _STOPPED if stopping.is_set() else int(process.returncode)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the SuperNode, gently so that it signs off from the SuperLink, and what it started."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
