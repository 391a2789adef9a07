"""Runs an organisation's SuperNode behind its guard, under its own policy."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from client.files import replace_file
from client.node.guard import gateway_client, guard_app, guard_server, write_loopback_certificate
from client.node.joining import AUTHORITY, LEDGERS, NODE_KEY, ORGANISATION_KEY, ROSTER, policy_of
from client.node.ledger import Ledgers
from client.node.metrics import NodeMetrics, show
from client.node.reaching import reach
from client.node.renewing import gateway_of
from client.preparing.people import (
    ACTIVE,
    CHIPS,
    GROUPS,
    MODEL,
    MOST_IMAGES,
    changing,
    refresh_active,
    require_both_cameras,
    require_chips_of_all,
    require_groups,
    with_more_than,
)
from client.terminal import tell
from federation.errors import IntaglioError, RefusedError, UnavailableError, UsageError
from federation.learning.evaluation_plan import EVALUATION
from federation.membership.fleet import flower_environment, tethered
from federation.membership.joining import LocalPolicy
from federation.membership.renewal import Notice
from federation.privacy.plan import SCALES

_GUARD_CERTIFICATE, _GUARD_KEY = "guard.pem", "guard-key.pem"
_DELAY_CLASS_SECONDS: Final = 2.0
"""Answers that needed people leave after this, twice this, four times this: when says little about them (ADR 0140)."""
_STARTUP_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 6 * 3600.0

_log = logging.getLogger(__name__)
_STOPPED: Final = 0


def node_config(folder: Path, policy: LocalPolicy) -> str:
    """What the SuperNode hands to `client.node.app`; Flower's own syntax.

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
    # Whatever is wrong with the people is said here. A question is answered all the same (`client.node.records`).
    require_both_cameras(active)
    if more := with_more_than(active, MOST_IMAGES):
        _log.warning("%d people have more than %d images of a camera; the first %d take part", more, *[MOST_IMAGES] * 2)
    if SCALES in policy.recipes:
        require_chips_of_all(active, folder)
    if EVALUATION in policy.recipes:
        require_groups(active, folder)
    Ledgers(folder / LEDGERS, policy.budget_epsilon, policy.delta).own()
    return policy


def run_node(folder: Path, *, metrics: tuple[str, int] | None = None) -> int:
    """Runs until SIGTERM, SIGINT or the end of the SuperNode; returns its exit status, 0 when it was stopped.

    Call it from the main thread. The SuperNode dies with this process, however that dies.

    Args:
        folder: the organisation's.
        metrics: interface and port for Prometheus; None for nothing.

    Raises:
        UsageError, RefusedError: see `require_ready`; or this machine's clock is wrong, or a port is taken.
        PeerError: the gateway's certificate has expired, or is of another authority.
        UnavailableError: the guard did not start.
    """
    folder = folder.resolve()
    policy, gateway = require_ready(folder), gateway_of(folder)
    replace_file(folder / AUTHORITY, gateway.authority.encode())
    refused = Counter[str]()
    shown = NodeMetrics(Ledgers(folder / LEDGERS, policy.budget_epsilon, policy.delta), refused)
    look(gateway, shown, starting=True)
    certificate, key, port = folder / _GUARD_CERTIFICATE, folder / _GUARD_KEY, _free_port()
    write_loopback_certificate(certificate, key, now=dt.datetime.now(dt.UTC))
    app = guard_app(gateway_client(gateway.address, folder / AUTHORITY), policy, tally=refused)
    guard = guard_server(app, port=port, certificate=certificate, key=key)
    thread = threading.Thread(target=guard.run, daemon=True)
    thread.start()
    end = time.monotonic() + _STARTUP_SECONDS
    while not guard.started:
        if time.monotonic() > end or not thread.is_alive():
            raise UnavailableError("the guard of this node did not start; its port may be taken: start again")
        time.sleep(0.05)
    process = subprocess.Popen(  # noqa: S603 - our interpreter's program, no shell
        tethered(
            [
                *(str(Path(sys.executable).parent / "flower-supernode"), "--superlink", f"127.0.0.1:{port}"),
                *("--root-certificates", str(certificate), "--auth-supernode-private-key", str(folder / NODE_KEY)),
                *("--host", "127.0.0.1", "--port", str(_free_port()), "--node-config", node_config(folder, policy)),
            ],
            interpreter=sys.executable,
            parent=os.getpid(),
        ),
        cwd=folder,  # nothing named client or server lies here, so the application's own packages are imported
        env=flower_environment(os.environ, home=folder / "flower", interpreter=sys.executable),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    tell(f"this node takes part at {gateway.address}; Ctrl-C ends it")
    stopping = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stopping.set())
    looked_at = time.monotonic()
    try:
        hide = show(shown, *metrics) if metrics else None
        while process.poll() is None and not stopping.wait(0.2):
            if time.monotonic() - looked_at >= _LOOK_SECONDS:
                looked_at = time.monotonic()
                look(gateway, shown, starting=False)
        if hide is not None:
            hide()
    finally:
        _stop(process)
        guard.should_exit = True
        thread.join(_STOP_SECONDS)
    return _STOPPED if stopping.is_set() else int(process.returncode)


def look(gateway: Notice, shown: NodeMetrics, *, starting: bool) -> None:
    """Says what is wrong with the gateway's certificate or this machine's clock, or will be soon.

    Raises:
        PeerError, UsageError: at a start, what SuperNode would fail of; later it is said only.
    """
    try:
        shown.reached = None
        shown.reached = reached = reach(gateway)
        if warning := reached.warning(time.time()):
            _log.warning("%s", warning)
        reached.require_clock()
    except UnavailableError as error:
        _log.warning("%s", error)  # SuperNode tries again by itself
    except IntaglioError as error:
        if starting:
            raise
        _log.warning("%s", error)


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
