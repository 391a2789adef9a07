"""Whoever listens shares a process with Flower and others, whose logs it leaves alone."""

from __future__ import annotations

import datetime as dt
import logging

import pytest
from starlette.applications import Starlette

from client.node.guard import guard_server
from server.fleet.gateway import gateway_server
from server.fleet.members import Coordinator
from server.listening import page_server


@pytest.mark.parametrize("listener", ["gateway", "guard", "page"])
def test_a_listener_closes_no_handler_of_somebody_else(tmp_path, listener):
    """uvicorn's own configuration closed all of them, and with Flower's the output of a whole test run."""
    closed = []

    class Somebodys(logging.Handler):
        def close(self):
            closed.append(self)
            super().close()

    handler = Somebodys()
    folder = tmp_path / "coordinator"
    Coordinator.create(folder, address="localhost:9", now=dt.datetime.now(dt.UTC))
    certificate, key = folder / "tls" / "server.pem", folder / "tls" / "server-key.pem"
    if listener == "gateway":
        gateway_server(Starlette(), certificate=certificate, key=key)
    elif listener == "guard":
        guard_server(Starlette(), port=0, certificate=certificate, key=key)
    else:
        page_server(Starlette())
    assert closed == []
    handler.close()
