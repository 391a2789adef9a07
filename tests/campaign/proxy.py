"""A TCP proxy that can be cut: everything between people and servers goes through it, and so does the database."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Self

_CHUNK = 1 << 16


class Proxy:
    """Listens on a port of its own until the block ends. Each connection goes to one of the targets that answer.

    Args:
        targets: gives the ports that may answer, anew for each connection.
        source: address of this machine that connections come from: a server counts them by address.
    """

    def __init__(self, targets: Callable[[], list[int]], source: str = "127.0.0.1") -> None:
        self._targets, self._source = targets, source
        self._mode, self._delay = "whole", 0.0
        self._open = set[asyncio.StreamWriter]()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        await self._set("cut", drop=True)

    def cut(self) -> None:
        """All connections end at once, and new ones as they come."""
        self._run(self._set("cut", drop=True))

    def slow(self, seconds: float) -> None:
        """Whatever comes is passed on so much later, in both directions."""
        self._delay = seconds
        self._run(self._set("slow"))

    def half_open(self) -> None:
        """Nothing is passed on any more, and nobody is told. New connections are taken."""
        self._run(self._set("half open"))

    def whole(self) -> None:
        """As it should be. Connections that were half open end."""
        was_half_open = self._mode == "half open"
        self._run(self._set("whole", drop=was_half_open))

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _set(self, mode: str, *, drop: bool = False) -> None:
        self._mode = mode
        if drop:
            for writer in list(self._open):
                writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        self._open.add(writer)
        try:
            if self._mode == "cut":
                return
            ports = self._targets()
            random.shuffle(ports)
            for port in ports:
                with contextlib.suppress(OSError):
                    there, back = await asyncio.open_connection("127.0.0.1", port, local_addr=(self._source, 0))
                    break
            else:
                return
            writers.append(back)
            self._open.add(back)
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            for one in writers:
                self._open.discard(one)
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if self._mode == "slow":
                    await asyncio.sleep(self._delay)
                if self._mode == "half open":
                    continue  # swallowed
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()
