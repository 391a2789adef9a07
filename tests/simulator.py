"""Runs the real ServerApp against the real ClientApp in this process: no ray, no sockets, no waiting.

Everything that crosses between them goes through Flower's protobuf encoding, as over the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

FIRST_NODE = 1000

Tamper = Callable[[int, Message], Message | None]
"""Gets the node id and its reply; gives what arrives instead, None for silence."""


def _over_the_wire(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


class InProcessGrid(Grid):
    """A Flower grid whose nodes answer while the message is pushed."""

    def __init__(
        self,
        app: ClientApp,
        nodes: int,
        run_config: dict[str, Any],
        *,
        tamper: Tamper = lambda _node, reply: reply,
        node_configs: dict[int, dict[str, Any]] | None = None,
        run_id: int = 1,
    ) -> None:
        # Flower's processes set these; Message() reads them.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, 1
        self.app, self.tamper = app, tamper
        self.contexts = {
            FIRST_NODE + index: Context(
                run_id=run_id,
                node_id=FIRST_NODE + index,
                node_config={"partition-id": index, "num-partitions": nodes, **(node_configs or {}).get(index, {})},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(nodes)
        }
        self.replies: dict[str, Message] = {}
        self.sent: list[Message] = []
        self._run = Run.create_empty(run_id=run_id)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def get_nodes(self):
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> str:
        self.sent.append(message)
        node, identifier = message.metadata.dst_node_id, str(uuid4())
        received = Message(_over_the_wire(message.content), node, message.metadata.message_type)
        received.metadata.__dict__["_message_id"] = identifier
        try:
            reply = self.app(received, self.contexts[node])
            if reply.has_content():
                reply.content = _over_the_wire(reply.content)
        except Exception as error:  # noqa: BLE001 - flwr-clientapp reports any of them like this
            reason = f"{type(error)}:<'{error}'>"
            reply = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=received)
        arriving = self.tamper(node, reply)
        if arriving is not None:
            self.replies[identifier] = arriving
        return identifier

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self.replies.pop(identifier) for identifier in list(message_ids) if identifier in self.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002 - Flower's
        return self.pull_messages(self.push_messages(messages))


def server_context(run_config: dict[str, Any], *, run_id: int = 1) -> Context:
    """What Flower hands to the ServerApp."""
    config = dict(run_config)
    return Context(run_id=run_id, node_id=SUPERLINK_NODE_ID, node_config={}, state=RecordDict(), run_config=config)
