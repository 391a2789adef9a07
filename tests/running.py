"""A matching server on loopback inside the test process, with faces that are made up."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from client.verification import ClientTls, Device
from client.wallet import Enrolment, EnrolmentState, Wallet
from federation.release import Adapter, ModelRelease, PrivacyStatement
from server.certificates import server_credentials, write_pki
from server.matching import MatchingService
from server.serving import start_server

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DIMENSION = 128
THRESHOLD = 600
PURPOSE, AUDIENCE = "door-access", "example.org"
NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)


def a_release(threshold: int = THRESHOLD) -> ModelRelease:
    return ModelRelease(
        model_name="made-up",
        model_digest="ab" * 32,
        adapter=Adapter.identity(DIMENSION),
        adaptation="none",
        reason="tests need no adaptation",
        threshold=threshold,
        fmr=1e-3,
        privacy=PrivacyStatement(
            privacy_unit="person",
            neighboring_relation="add or remove one",
            epsilon=1.0,
            delta=1e-5,
            events=(("centre", 1.0),),
            people_train=24,
            organisations=3,
        ),
        created=NOW.isoformat(),
    )


def a_face(person: int, capture: int = 0) -> NDArray[np.float64]:
    """Captures of one person lie about 25 degrees apart (near 290 of 2048 bits), people about 90 (1024 bits)."""
    centre = np.random.default_rng(person).standard_normal(DIMENSION)
    noise = np.random.default_rng([person, capture, 1]).standard_normal(DIMENSION)
    vector = centre / np.linalg.norm(centre) + 0.33 * noise / np.linalg.norm(noise)
    return vector / np.linalg.norm(vector)


def a_wallet(release: ModelRelease, *, purpose: str = PURPOSE, audience: str = AUDIENCE) -> Wallet:
    enrolment = Enrolment(purpose, audience, bytes.fromhex(release.digest), EnrolmentState.STARTED)
    return Wallet.generate().with_enrolment(enrolment)


def a_pki(directory: Path) -> Path:
    write_pki(directory, hosts=["localhost", "127.0.0.1"], clients=["client"], now=dt.datetime.now(dt.UTC))
    return directory


class RunningServer:
    """Serves in a thread of its own until the block ends."""

    def __init__(self, service: MatchingService, tls: Path, **options: Any) -> None:
        self._service = service
        self._tls = tls
        self._options = options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.target = ""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def begin_to_drain(self, grace_seconds: float) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self.front_end.drain(grace_seconds), self._loop)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.front_end = await start_server(self._service, server_credentials(self._tls), **self._options)
        self.target = f"localhost:{self.front_end.port}"
        self._ready.set()
        await self._stop.wait()
        await self.front_end.drain(None)
        self._service.close()

    def device(self, wallet: Wallet, *, tls: Path | None = None, name: str = "client") -> Device:
        return Device(wallet, target=self.target, tls=ClientTls.read(tls or self._tls, name), timeout_seconds=30)
