"""One organisation misbehaves: the run ends with its name, or goes on without it when the plan stands a drop-out."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from client.node.ledger import OWN
from federation.errors import RoundAbortedError
from federation.learning.rounds import ADVERTISE, EVALUATE_THRESHOLD, SHARE_KEYS, TRAIN_MOMENTS, protocol_content
from federation.privacy.ledger import LedgerChain
from tests.federated import CALLED, ledger_kinds, name_the_organisations, run, the_release, write_federation
from tests.simulator import FIRST_NODE, InProcessGrid

SOUTH = FIRST_NODE + 1


@pytest.fixture
def config(tmp_path):
    config = write_federation(tmp_path)
    name_the_organisations(config)
    return config


def misbehaving(message_type, change):
    """South's first answer to a kind of question is what `change` makes of it; None is silence."""
    changed = []

    def tamper(node, reply):
        if node == SOUTH and reply.metadata.message_type == message_type and not changed:
            changed.append(True)
            return change(reply)
        return reply

    return tamper


def with_content(content):
    def change(reply):
        reply.content = content(reply.content)
        return reply

    return change


def with_messages(change):
    return with_content(
        lambda content: RecordDict(
            {**content, **protocol_content({name: change(bytes(data)) for name, data in content["secagg"].items()})}
        )
    )


def crashed(reply):
    error = Error(code=ErrorCode.CLIENT_APP_CRASHED, reason="")
    replied = Message(error, reply_to=asked_for(reply))
    replied.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
    return replied


def asked_for(reply):
    return Message(RecordDict(), reply.metadata.src_node_id, reply.metadata.message_type)


def numbers(value, size=64):
    return RecordDict({"arrays": ArrayRecord({"values": Array(np.full(size, value))})})


def keys_of(release, change):
    def damage(content):
        messages = {name: bytes(data) for name, data in content["secagg"].items()}
        return RecordDict({**content, **protocol_content({**messages, release: change(messages[release])})})

    return with_content(damage)


def unsigned(data):
    return data[:-1] + bytes([data[-1] ^ 1])


FAULTS = {
    "its keys for one sum are unsigned": (ADVERTISE, keys_of("threshold", unsigned), "does not verify"),
    "it says that it is nobody": (
        ADVERTISE,
        with_messages(lambda data: data[:6] + b"\x63\0" + data[8:40] + b"\x63\0" + data[42:]),
        "not those of the organisation whose node it is",
    ),
    "it crashes": (TRAIN_MOMENTS, crashed, r"its application crashed or was killed \(Flower reports error code 8\)"),
    "it hangs before its keys": (ADVERTISE, lambda _: None, "did not answer query.advertise within 0.3 s"),
    "it hangs with its shares": (SHARE_KEYS, lambda _: None, "did not answer query.share_keys within 0.3 s"),
    "it hangs with its sum": (TRAIN_MOMENTS, lambda _: None, "did not answer train.moments within 0.3 s"),
    "it sends NaN": (TRAIN_MOMENTS, with_content(lambda _: numbers(np.nan)), "wrong reply"),
    "it counts NaN people": (
        ADVERTISE,
        with_content(lambda c: RecordDict({**c, "metrics": MetricRecord({"people": float("nan")})})),
        "number of people",
    ),
    "it counts more people than anybody could": (
        ADVERTISE,
        with_content(lambda c: RecordDict({**c, "metrics": MetricRecord({"people": 10**15})})),
        "it says that it holds 1000000000000000 people, and the plan leaves 61",
    ),
    "it sends too few numbers": (TRAIN_MOMENTS, with_messages(lambda data: data[:-8]), "bytes are missing"),
    "it sends too many numbers": (TRAIN_MOMENTS, with_messages(lambda data: data + bytes(8)), "left over"),
    "it sends a megabyte too much": (TRAIN_MOMENTS, with_messages(lambda data: data + bytes(1 << 20)), "left over"),
    "it sends a ledger too long": (
        TRAIN_MOMENTS,
        with_content(lambda c: RecordDict({**c, "ledger": type(c["ledger"])({"lines": b"x" * (9 << 20)})})),
        "a ledger is whole lines",
    ),
    "it hides its ledger": (
        ADVERTISE,
        with_content(lambda c: RecordDict({name: c[name] for name in c if name != "ledger"})),
        "its own privacy ledger is missing",
    ),
    "its ledger is no bytes": (
        TRAIN_MOMENTS,
        with_content(lambda c: RecordDict({**c, "ledger": type(c["ledger"])({"lines": "text"})})),
        "its privacy ledger is not bytes",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_stands_no_drop_out_ends_and_names_the_organisation(config, fault):
    message_type, change, said = FAULTS[fault]
    with pytest.raises(RoundAbortedError, match=said) as caught:
        run(config, tamper=misbehaving(message_type, change))
    assert "south" in str(caught.value)
    assert not [name for name in CALLED if name != "south" and name in str(caught.value)]
    assert "stays charged" in str(caught.value)
    assert ledger_kinds(config) == ["open", "reserve"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_stands_a_drop_out_goes_on_without_it(config, fault, capsys):
    message_type, change, _ = FAULTS[fault]
    config |= {"dropouts": 1, "epsilon": 16.0, "budget-epsilon": 16.0}
    run(config, tamper=misbehaving(message_type, change))
    assert the_release(config).adapted
    assert "the sum over 3 of 4 organisations" in capsys.readouterr().out


@pytest.mark.parametrize("stage", [SHARE_KEYS, TRAIN_MOMENTS])
def test_an_answer_of_an_earlier_run_is_no_answer(config, stage):
    config["budget-epsilon"] = 16.0
    earlier = []
    run(config, tamper=misbehaving(stage, lambda reply: earlier.append(reply.content) or reply))

    def replay(content):
        return RecordDict({**content, "secagg": earlier[0]["secagg"]})

    with pytest.raises(RoundAbortedError, match="belongs to another session") as caught:
        run(config, run_id=2, tamper=misbehaving(stage, with_content(replay)))
    assert "south" in str(caught.value)


def test_an_answer_to_an_earlier_question_is_no_answer(config):
    earlier = []

    def tamper(node, reply):
        if node == SOUTH and reply.metadata.message_type == SHARE_KEYS:
            earlier.append(bytes(reply.content["secagg"]["moments"]))
        if node == SOUTH and reply.metadata.message_type == TRAIN_MOMENTS:
            return with_messages(lambda _: earlier[0])(reply)
        return reply

    with pytest.raises(RoundAbortedError, match="not a secure aggregation message of kind masked_input") as caught:
        run(config, tamper=tamper)
    assert "south" in str(caught.value)


def test_an_organisation_that_leaves_and_comes_back_is_in_the_second_sum_again(config, tmp_path, capsys):
    config |= {"dropouts": 1, "epsilon": 16.0, "budget-epsilon": 16.0}
    grid = run(config, tamper=misbehaving(TRAIN_MOMENTS, lambda _: None))
    assert "the sum over 3 of 4 organisations" in capsys.readouterr().out
    asked = {m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type == EVALUATE_THRESHOLD}
    assert SOUTH in asked
    # Its part of the first sum was ready and charged. Nobody can know that it never arrived.
    own = LedgerChain.from_bytes((tmp_path / "1.ledgers" / OWN).read_bytes())
    charged = [entry.run.split("/")[1] for entry in own.entries if entry.kind == "reserve"]
    assert charged == ["moments", "threshold"]


def test_an_answer_that_comes_after_its_deadline_changes_nothing(config):
    """The node was out already; its late answer is to a question that nobody waits for."""
    late = []

    class Late(InProcessGrid):
        def pull_messages(self, message_ids):
            self.replies.update({f"late {number}": reply for number, reply in enumerate(late)})
            return super().pull_messages(message_ids)

    config |= {"dropouts": 1, "epsilon": 16.0, "budget-epsilon": 16.0}
    run(config, grid=Late, tamper=misbehaving(TRAIN_MOMENTS, late.append))
    assert len(late) == 1
    assert the_release(config).adapted


def test_a_wrong_count_is_named_by_organisation(config):
    """Nobody can know who is wrong. Whoever reads it sees who says what."""
    count = with_content(lambda c: RecordDict({**c, "metrics": MetricRecord({"people": 17})}))
    with pytest.raises(RoundAbortedError, match=r"hold 65: they say north 16, south 17, west 16, east 16\."):
        run(config, tamper=misbehaving(ADVERTISE, count))


def test_an_organisation_that_is_not_there_is_named(config):
    with pytest.raises(RoundAbortedError, match=r"only 3 of 4 organisations were there .*, without east;"):
        run(config, nodes=3)


def test_a_node_with_the_keys_of_another_organisation_is_turned_away(config, tmp_path):
    (tmp_path / "1.pem").write_bytes((tmp_path / "2.pem").read_bytes())
    with pytest.raises(RoundAbortedError, match="not those of the organisation whose node it is") as caught:
        run(config)
    assert f"south (node {SOUTH})" in str(caught.value)
