"""Who makes the parts: this process, several processes of this machine, or a Ray cluster.

All of them run `Workshop.make` and hold a few parts at once, so that memory does not grow with the number of images.
Results come as they are ready.

On Ray, images travel from this machine to the others, and embeddings back. Ray encrypts and authenticates nothing
unless its own TLS is set up (RAY_USE_TLS): the cluster must be the organisation's. Each of its machines has intaglio
with the same weights, or refuses.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final

from client.preparing.parts import Made, Part, Recipe, Workshop, read_images
from federation.errors import IntaglioError, UnavailableError, UsageError

_AHEAD: Final = 2
"""Parts in work or waiting, for each worker."""
_CONNECT_SECONDS: Final = 10.0

Finished = Iterator[tuple[Part, Made]]


@dataclass(frozen=True)
class Crew:
    """Who works.

    Attributes:
        processes: of this machine, from 1.
        ray: address of a Ray cluster, "local" for one that is started here; None for none.
        workshop: what each worker loads. A bench gives one with stand-ins for the networks.

    Raises:
        UsageError: there are no processes, or Ray is not installed.
    """

    processes: int = 1
    ray: str | None = None
    workshop: type[Workshop] = Workshop

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise UsageError("somebody has to work: at least one process")
        if self.ray is not None and importlib.util.find_spec("ray") is None:
            raise UsageError("Ray is not installed: pip install 'intaglio[demo]', or leave --ray out")

    def finished(self, parts: Iterable[Part], recipe: Recipe, here: Workshop) -> Finished:
        """Makes parts.

        Args:
            parts: in any number; they are taken as they are needed.
            recipe: that everybody follows.
            here: of this process, for work that is done here.

        Raises:
            UnavailableError: a worker died, or the cluster cannot be reached.
            UsageError: a worker has other weights.
        """
        if self.ray is not None:
            yield from _on_ray(self.ray, self.workshop, parts, recipe)
        elif self.processes == 1:
            for part in parts:
                yield part, here.make(part.camera, read_images(part))
        else:
            yield from _in_processes(self.processes, self.workshop, parts, recipe)


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


# --------------------------------------------------------------------------------------------------------- processes
_workshop: Workshop | None = None
"""Of a worker process."""


def _in_processes(processes: int, kind: type[Workshop], parts: Iterable[Part], recipe: Recipe) -> Finished:
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin) as pool:
        working: dict[Future[Made], Part] = {}
        waiting = iter(parts)
        try:
            while True:
                while len(working) < _AHEAD * processes and (part := next(waiting, None)) is not None:
                    working[pool.submit(_make, kind, recipe, part)] = part
                if not working:
                    return
                done, _ = wait(working, return_when=FIRST_COMPLETED)
                for future in done:
                    yield working.pop(future), future.result()
        except BrokenProcessPool as error:
            raise UnavailableError(
                "a process that prepares images died, perhaps for want of memory; run the command again, and it goes on"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a worker, first: it ends when its parent dies, however that dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - only workers begin

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make(kind: type[Workshop], recipe: Recipe, part: Part) -> Made:
    global _workshop  # noqa: PLW0603 - one for each worker process, which loads for seconds
    if _workshop is None:
        _workshop = kind(recipe)
    return _workshop.make(part.camera, read_images(part))


# --------------------------------------------------------------------------------------------------------------- Ray
def _on_ray(address: str, kind: type[Workshop], parts: Iterable[Part], recipe: Recipe) -> Finished:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray  # noqa: PLC0415 - takes seconds, and is an extra

    _require_somebody_at(address)
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **_started_here(address))
        yield from _by_actors(ray.remote(num_cpus=1)(kind), ray, parts, recipe)
    except ConnectionError as error:
        raise UnavailableError(f"no Ray cluster answers at {address}") from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, IntaglioError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise UnavailableError("a worker of the Ray cluster was lost; run the command again, and it goes on") from error
    finally:
        if ours:
            ray.shutdown()


def _require_somebody_at(address: str) -> None:
    """Raises UnavailableError where nobody listens: Ray itself waits for minutes, and says so in its own words."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # "local" and "auto" are for Ray to find
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UnavailableError(f"no Ray cluster answers at {address}") from error


def _started_here(address: str) -> dict[str, Any]:
    return {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}


def _by_actors(actor: Any, ray: Any, parts: Iterable[Part], recipe: Recipe) -> Finished:  # noqa: ANN401 - an extra's
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    idle = [actor.remote(recipe) for _ in range(workers)] * _AHEAD
    working: dict[Any, tuple[Part, Any]] = {}
    waiting = iter(parts)
    while True:
        while idle and (part := next(waiting, None)) is not None:
            worker = idle.pop(0)
            working[worker.make.remote(part.camera, read_images(part))] = part, worker
        if not working:
            return
        done, _ = ray.wait(list(working), num_returns=1)
        for reference in done:
            part, worker = working.pop(reference)
            made = ray.get(reference)
            idle.append(worker)
            yield part, made
