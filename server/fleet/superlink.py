"""What the coordinator asks of its own SuperLink, over loopback: runs, what they say, nodes.

Flower's command line asks the same, in a process that takes seconds to start, and ends with 0 whatever became of a run.
The messages are Flower's own (`flwr.proto`); `tests/server/fleet/test_deployment.py` asks a real SuperLink each of
them.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from google.protobuf.message import DecodeError, Message

from federation.errors import PeerError, UnavailableError, UsageError

if TYPE_CHECKING:  # Flower's messages take a third of a second to load, and most commands of ours ask nothing of it
    from flwr.proto.control_pb2 import StreamLogsRequest, StreamLogsResponse
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.proto.run_pb2 import Run
    from flwr.proto.transport_pb2 import Scalar

ADDRESS: Final = "superlink.address"
"""File in the coordinator's folder with ``host:port`` of the SuperLink that runs now."""
CERTIFICATE: Final = "superlink.pem"
"""File in the coordinator's ``tls`` with the certificate that it shows on loopback."""

_PREFIX: Final = "/v1/control/"
_FRAME_BYTES: Final = 4
_MOST_FRAME_BYTES: Final = 64 << 20
_CALL_SECONDS: Final = 30.0
_SILENCE_SECONDS: Final = 2.0
_MOST_RUNS: Final = 100
_PROTOBUF: Final = {"content-type": "application/protobuf", "accept": "application/protobuf"}
_DOWN: Final = "the coordinator's SuperLink does not answer; start it with `intaglio-server federation start`"

_Reply = TypeVar("_Reply", bound=Message)


@dataclass(frozen=True)
class RunState:
    """How Flower says that a run stands.

    Attributes:
        run: Flower's identifier.
        status: ``pending``, ``starting``, ``running`` or ``finished``.
        end: how it finished: ``completed``, ``failed`` or ``stopped``; empty before.
        details: why it failed, as Flower puts it.
    """

    run: int
    status: str
    end: str
    details: str

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status == "finished"


@dataclass(frozen=True)
class NodeState:
    """A node that the SuperLink knows.

    Attributes:
        node: its id.
        is_online: whether it keeps up its session.
        seen_at: seconds since 1970 when its session began or ended last; None when it never came.
        key: public key in PEM.
    """

    node: int
    is_online: bool
    seen_at: int | None
    key: bytes


class Superlink:
    """A client of the control calls. Build one with `connected`.

    Args:
        client: for the SuperLink's address; closed by whoever made it.
    """

    def __init__(self, client: httpx.Client) -> None:
        from flwr.proto import control_pb2  # noqa: PLC0415 - see above

        self._client, self._pb = client, control_pb2

    def start(self, fab: bytes, settings: Mapping[str, str | float]) -> int:
        """Submits a run and returns Flower's identifier of it.

        Raises:
            UnavailableError: the SuperLink does not answer.
            UsageError: it does not take the settings.
        """
        from flwr.proto.fab_pb2 import Fab  # noqa: PLC0415 - see above

        request = self._pb.StartRunRequest(
            fab=Fab(content=fab), override_config={key: _scalar(value) for key, value in settings.items()}
        )
        run = self._ask("start-run", request, self._pb.StartRunResponse).run_id
        if not run:
            raise UsageError("the SuperLink did not take the run: is the application larger than 10 MB?")
        return int(run)

    def runs(self) -> tuple[RunState, ...]:
        """The latest hundred runs, oldest first.

        Raises:
            UnavailableError: the SuperLink does not answer.
        """
        listed = self._ask(
            "list-runs", self._pb.ListRunsRequest(limit=_MOST_RUNS), self._pb.ListRunsResponse
        ).run_dict.values()
        return tuple(_run_state(run) for run in sorted(listed, key=lambda run: run.pending_at))

    def run(self, run: int) -> RunState:
        """One of them.

        Raises:
            UnavailableError: the SuperLink does not answer.
            UsageError: it does not know the run.
        """
        return _run_state(
            self._ask("list-runs", self._pb.ListRunsRequest(run_id=run), self._pb.ListRunsResponse).run_dict[run]
        )

    def stop(self, run: int) -> None:
        """Ends a run. Its process ends with its next heartbeat.

        Raises:
            UnavailableError: the SuperLink does not answer.
            UsageError: it does not know the run, or the run is over.
        """
        if not self._ask("stop-run", self._pb.StopRunRequest(run_id=run), self._pb.StopRunResponse).success:
            raise UsageError(f"run {run} is over, or was never begun")

    def lines(self, run: int, *, until: float) -> Iterator[str]:
        """What a run says, line by line as it says it, until it is over.

        Args:
            run: which.
            until: of `time.monotonic`; then this ends, and the run goes on.

        Raises:
            UnavailableError: the SuperLink does not answer, or went away in the middle.
        """
        after, rest = 0.0, ""
        while time.monotonic() < until:
            with contextlib.suppress(httpx.ReadTimeout):  # nothing new; ask again, so that `until` is looked at
                for reply in self._stream(self._pb.StreamLogsRequest(run_id=run, after_timestamp=after)):
                    after = max(after, reply.latest_timestamp)
                    *whole, rest = (rest + reply.log_output).split("\n")
                    yield from whole
                    if time.monotonic() >= until:
                        return
                if rest:
                    yield rest
                return

    def nodes(self) -> dict[int, NodeState]:
        """All registered nodes.

        Raises:
            UnavailableError: the SuperLink does not answer.
        """
        listed = self._ask("list-nodes", self._pb.ListNodesRequest(), self._pb.ListNodesResponse).nodes_info
        return {
            int(node.node_id): NodeState(int(node.node_id), node.status == "online", _latest(node), node.public_key)
            for node in listed
            if node.status != "unregistered"
        }

    def register(self, name: str, node_key: str) -> int:
        """Has it accept a node, and returns the id that it gives it. One that it knows keeps its id.

        Args:
            name: what to call it.
            node_key: public key in OpenSSH's encoding.

        Raises:
            UnavailableError: the SuperLink does not answer.
            UsageError: it refuses: the key is one that it was told to forget.
        """
        key = load_ssh_public_key(node_key.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        known = (state.node for state in self.nodes().values() if state.key == key)
        if (node := next(known, None)) is not None:
            return node  # the caller died before it wrote this down
        request = self._pb.RegisterNodeRequest(public_key=key, name=name)
        return int(self._ask("register-node", request, self._pb.RegisterNodeResponse).node_id)

    def unregister(self, node: int) -> None:
        """Has it forget a node: its calls get 401 from then on. One that it does not know is forgotten already.

        Raises:
            UnavailableError: the SuperLink does not answer.
        """
        if node in self.nodes():
            self._ask("unregister-node", self._pb.UnregisterNodeRequest(node_id=node), self._pb.UnregisterNodeResponse)

    def _ask(self, call: str, request: Message, kind: type[_Reply]) -> _Reply:
        try:
            reply = self._client.post(_PREFIX + call, content=request.SerializeToString(), headers=_PROTOBUF)
        except httpx.TransportError as error:
            raise UnavailableError(_DOWN) from error
        _require_ok(call, reply)
        answer = kind()
        try:
            answer.ParseFromString(reply.content)
        except DecodeError as error:
            raise PeerError(f"the SuperLink's answer to {call} cannot be read") from error
        return answer

    def _stream(self, request: StreamLogsRequest) -> Iterator[StreamLogsResponse]:
        headers = _PROTOBUF | {"accept": "application/flower-protobuf-stream", "accept-encoding": "identity"}
        body, waiting = request.SerializeToString(), bytearray()
        timeout = httpx.Timeout(_CALL_SECONDS, read=_SILENCE_SECONDS)
        try:
            with self._client.stream(
                "POST", f"{_PREFIX}stream-logs", content=body, headers=headers, timeout=timeout
            ) as reply:
                if reply.is_error:
                    reply.read()
                _require_ok("stream-logs", reply)
                for chunk in reply.iter_bytes():
                    waiting += chunk
                    yield from _framed(waiting)
        except httpx.ReadTimeout:
            raise
        except httpx.TransportError as error:
            raise UnavailableError(
                "the coordinator's SuperLink went away while the run was under way. Start it with "
                "`intaglio-server federation start`, and then the same run: it goes on where it was"
            ) from error


@contextmanager
def connected(folder: Path) -> Iterator[Superlink]:
    """A client of the SuperLink that runs for the coordinator in `folder`.

    Raises:
        UnavailableError: none runs.
    """
    try:
        address = (folder / ADDRESS).read_text().strip()
        trusted = ssl.create_default_context(cafile=str(folder / "tls" / CERTIFICATE))
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(_DOWN) from error
    with httpx.Client(base_url=f"https://{address}", verify=trusted, timeout=_CALL_SECONDS, trust_env=False) as client:
        yield Superlink(client)


def _framed(waiting: bytearray) -> Iterator[StreamLogsResponse]:
    """Takes whole messages from the front of `waiting`; each has its length before it, 4 bytes, big-endian."""
    from flwr.proto.control_pb2 import StreamLogsResponse  # noqa: PLC0415 - see above

    while len(waiting) >= _FRAME_BYTES:
        size = int.from_bytes(waiting[:_FRAME_BYTES], "big")
        if size > _MOST_FRAME_BYTES:
            raise PeerError(f"the SuperLink sent a message of {size} bytes for a log")
        if len(waiting) < _FRAME_BYTES + size:
            return
        body = bytes(waiting[_FRAME_BYTES : _FRAME_BYTES + size])
        del waiting[: _FRAME_BYTES + size]
        yield StreamLogsResponse.FromString(body)


def _require_ok(call: str, reply: httpx.Response) -> None:
    if reply.is_success:
        return
    try:
        said = str(reply.json()["detail"])
    except (ValueError, LookupError, TypeError):
        said = "no reason given"
    if reply.is_server_error:
        raise UnavailableError(f"the SuperLink failed at {call} with status {reply.status_code}: {said}")
    raise UsageError(f"the SuperLink refused {call} with status {reply.status_code}: {said}")


def _run_state(run: Run) -> RunState:
    return RunState(int(run.run_id), run.status.status, run.status.sub_status, run.status.details)


def _latest(node: NodeInfo) -> int | None:
    texts = (node.last_activated_at, node.last_deactivated_at)
    return max((int(datetime.fromisoformat(text).timestamp()) for text in texts if text), default=None)


def _scalar(value: str | float) -> Scalar:
    from flwr.proto.transport_pb2 import Scalar  # noqa: PLC0415 - see above

    match value:
        case bool():
            return Scalar(bool=value)
        case int():
            return Scalar(sint64=value)
        case float():
            return Scalar(double=value)
        case str():
            return Scalar(string=value)
