"""Blocking storage calls from the event loop, on threads of their own, so that a slow disk stops nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from server.storage.storage import Storage

_T = TypeVar("_T")


class Disk:
    """Runs calls on as many threads as the storage uses with profit.

    Args:
        storage: what is called.
    """

    def __init__(self, storage: Storage) -> None:
        self._threads = ThreadPoolExecutor(storage.parallel, "storage")

    async def __call__(self, call: Callable[..., _T], *arguments: object) -> _T:
        """The result of `call`, which is one transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def close(self) -> None:
        """Waits for the last call."""
        self._threads.shutdown(wait=True)
