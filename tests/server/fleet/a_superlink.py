"""A SuperLink that answers control calls from memory, and what a run under it leaves on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from flwr.proto.control_pb2 import (
    ListNodesResponse,
    ListRunsRequest,
    ListRunsResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
    StopRunResponse,
    StreamLogsRequest,
    StreamLogsResponse,
    UnregisterNodeRequest,
    UnregisterNodeResponse,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run, RunStatus

from server.coordinator.run_records import Attempt, RunRecord, RunRecords
from server.fleet.superlink import Superlink

FIRST_RUN = 7_000_000_000_000_000_001

Happens = Callable[["ASuperlink", int, dict[str, Any]], "str | list[str | Exception]"]
"""What becomes of a run: gets the SuperLink, the run and its settings, and gives what it says, piece by piece."""


class ASuperlink:
    """Runs are over when their words are. `runs` and `nodes` may be changed from outside."""

    def __init__(self, happens: Happens = lambda *_: "") -> None:
        self.happens, self.runs, self.nodes, self.started = happens, dict[int, Run](), dict[int, NodeInfo](), []
        self.said: dict[int, list[str | Exception]] = {}
        self.calls: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        call, body = request.url.path.removeprefix("/v1/control/"), request.content
        self.calls.append(call)
        return getattr(self, call.replace("-", "_"))(body)

    @contextmanager
    def connected(self, _folder: Path) -> Iterator[Superlink]:
        with httpx.Client(transport=httpx.MockTransport(self), base_url="https://superlink") as client:
            yield Superlink(client)

    def end(self, run: int, end: str, details: str = "") -> None:
        self.runs[run].status.CopyFrom(RunStatus(status="finished", sub_status=end, details=details))

    def start_run(self, body: bytes) -> httpx.Response:
        request = StartRunRequest.FromString(body)
        run = FIRST_RUN + len(self.runs)
        self.runs[run] = Run(run_id=run, pending_at=f"{run}", status=RunStatus(status="running"))
        settings = {key: getattr(value, value.WhichOneof("scalar")) for key, value in request.override_config.items()}
        self.started.append((request.fab.content, settings))
        said = self.happens(self, run, settings)
        self.said[run] = [said] if isinstance(said, str) else said
        return _ok(StartRunResponse(run_id=run))

    def list_runs(self, body: bytes) -> httpx.Response:
        request = ListRunsRequest.FromString(body)
        if request.HasField("run_id") and request.run_id not in self.runs:
            return httpx.Response(404, json={"code": 16, "detail": "Run ID not found."})
        runs = [self.runs[request.run_id]] if request.HasField("run_id") else self.runs.values()
        return _ok(ListRunsResponse(run_dict={run.run_id: run for run in runs}))

    def stop_run(self, body: bytes) -> httpx.Response:
        run = StopRunRequest.FromString(body).run_id
        if run not in self.runs:
            return httpx.Response(404, json={"code": 16, "detail": "Run ID not found."})
        self.end(run, "stopped")
        return _ok(StopRunResponse(success=True))

    def stream_logs(self, body: bytes) -> httpx.Response:
        request = StreamLogsRequest.FromString(body)

        def frames() -> Iterator[bytes]:
            pieces = self.said[request.run_id]
            while pieces:
                piece = pieces.pop(0)
                if isinstance(piece, Exception):
                    raise piece
                data = StreamLogsResponse(log_output=piece, latest_timestamp=1.0).SerializeToString()
                framed = len(data).to_bytes(4, "big") + data
                yield framed[:3]  # frames and pieces of the stream do not go together
                yield framed[3:]

        return httpx.Response(200, content=frames())

    def list_nodes(self, _body: bytes) -> httpx.Response:
        return _ok(ListNodesResponse(nodes_info=self.nodes.values()))

    def register_node(self, body: bytes) -> httpx.Response:
        request, node = RegisterNodeRequest.FromString(body), 100 + len(self.nodes)
        self.nodes[node] = NodeInfo(node_id=node, name=request.name, public_key=request.public_key, status="registered")
        return _ok(RegisterNodeResponse(node_id=node))

    def unregister_node(self, body: bytes) -> httpx.Response:
        self.nodes[UnregisterNodeRequest.FromString(body).node_id].status = "unregistered"
        return _ok(UnregisterNodeResponse())


def _ok(message: Any) -> httpx.Response:
    return httpx.Response(200, content=message.SerializeToString())


def leave_record(
    settings: dict[str, Any], run: int, result: bytes | None, *, reason: str = "", died: bool = False
) -> None:
    """What a ServerApp leaves that came to a result, ended with a reason, or died."""
    attempt = Attempt(str(run), int(time.time()), ended_at=None if died else int(time.time()), reason=reason)
    record = RunRecord(str(run), "people", 8.0, 1e-5, "moments", (attempt,))
    if result is not None:
        record = RunRecord(
            str(run), "people", 8.0, 1e-5, "moments", (attempt,), release=hashlib.sha256(result).hexdigest()
        )
        Path(settings["output"]).write_bytes(result)
    folder = RunRecords.beside(Path(settings["ledger"])).folder
    folder.mkdir(exist_ok=True)
    (folder / f"{run}.json").write_bytes(record.to_bytes())
