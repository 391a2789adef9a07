"""One secure sum from the coordinator's side: who is asked what, in which order, and every number that comes of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, RecordDict

from federation.errors import MalformedMessageError, ProofError, RoundAbortedError
from federation.identity import verify_identity
from federation.learning.rounds import OPEN_SHARES, SHARE_KEYS, SIGN_SURVIVORS, Refusal, protocol_content
from federation.secagg.ring import noise_std
from server.coordinator import secure_sums
from server.coordinator.secure_sums import Members, SecureSums

NAMES = ("north", "south", "west", "east")
NODES = {11: "north", 12: "south", 13: "west", 14: "east"}
PEOPLE = {1: 10, 2: 1, 3: 7, 4: 20}


class Side:
    """The coordinator of one sum, which writes down what it is given."""

    def __init__(self, session, done):
        self.session, self.done = session, done
        self.faults, self.left_at, self.waiting = {}, {}, {1, 2, 3, 4}
        self.survivors, self.total = (2, 3, 4), f"total of {session.name}"
        self.steps = iter(
            [
                {member: f"{step} {session.name} {member}".encode() for member in to}
                for step, to in (("sign", (1, 2, 3, 4)), ("open", (2, 3, 4)), ("end", ()))
            ]
        )

    def receive(self, member, message):
        self.done.append(("receive", self.session.name, member, message))

    def lose(self, member, why):
        self.done.append(("lose", self.session.name, member, why))

    def advance(self):
        self.done.append(("advance", self.session.name))
        return next(self.steps)


class Plan(SimpleNamespace):
    """Numbers that tell where they come from."""

    events = (("moments", 3.0), ("threshold", 5.0))
    people, organisations = 40, 4

    def noise_with(self, noise_multiplier, organisations):
        return noise_multiplier + organisations / 100

    def longest(self, release, people):
        return f"longest of {release} for {people}"


@pytest.fixture
def done():
    """Everything that happens, in order."""
    return []


@pytest.fixture
def sums(monkeypatch, done):
    """The sums of a run whose shares were dealt; what is asked is written down and answered."""
    found = {
        name: SimpleNamespace(name=name, size=size, roster=NAMES, noise_share=lambda std, size=size: (size, std))
        for name, size in (("moments", 4), ("threshold", 9))
    }
    monkeypatch.setattr(secure_sums, "sessions", lambda *args: done.append(("sessions", *args)) or found)
    monkeypatch.setattr(secure_sums, "require_headroom", lambda *args: done.append(("headroom", *args)))

    def side(session, verify, names):
        assert (verify, names) == (verify_identity, NAMES)
        return Side(session, done)

    monkeypatch.setattr(secure_sums, "Coordinator", side)
    members = Members((b"n", b"s", b"w", b"e"), NAMES, NODES)
    made = SecureSums(
        "grid",
        list(NODES),
        plan := Plan(),
        run="17",
        members=members,
        keep_ledger=lambda name, lines: done.append(("keep", name, lines)),
        deadline_seconds=5.0,
        say=lambda line: done.append(("say", line)),
    )
    assert done == [
        ("sessions", plan, "17", (b"n", b"s", b"w", b"e")),
        ("headroom", found["moments"], 40, (4, noise_std(3.0, 4))),
        ("headroom", found["threshold"], 40, (9, noise_std(5.0, 9))),
    ]
    done.clear()
    made._node_of, made._people = {member: 10 + member for member in PEOPLE}, dict(PEOPLE)
    made._shares = {name: {member: f"deal {name} {member}".encode() for member in PEOPLE} for name in found}
    return made


def answers(monkeypatch, sums, done, change=lambda _node, _kind, content: content):
    """Every node answers with its ledger, and a message that names what was asked."""

    def exchange(kind, contents):
        asked = dict(contents)
        done.append(("ask", kind, {node: {k: dict(v) for k, v in content.items()} for node, content in asked.items()}))
        made = {}
        for node in sorted(asked):
            content = RecordDict(
                {
                    "ledger": ConfigRecord({"lines": f"{kind} of {node}".encode()}),
                    **protocol_content({name: f"{kind} {name} {node}".encode() for name in sums._sums}),
                }
            )
            if (content := change(node, kind, content)) is not None:
                made[node] = content
        return made

    monkeypatch.setattr(sums, "_exchange", exchange)


def to(step, release, members, **more):
    return {10 + member: {**more, "secagg": {release: f"{step} {release} {member}".encode()}} for member in members}


def test_a_sum_is_asked_for_signed_and_only_then_opened(monkeypatch, sums, done):
    answers(monkeypatch, sums, done)
    decoded = []
    monkeypatch.setattr(secure_sums, "decode", lambda *args: decoded.append(args) or np.array([1.5, 2.5]))
    request = RecordDict({"of": ConfigRecord({"what": "it needs"})})
    made = sums.collect("threshold", "mask", request, before_opening=lambda: done.append("before opening"))

    expected = [("ask", "mask", to("deal", "threshold", (1, 2, 3, 4), of={"what": "it needs"}))]
    for member in PEOPLE:
        expected += [
            ("keep", NAMES[member - 1], f"mask of {10 + member}".encode()),
            ("receive", "threshold", member, f"mask threshold {10 + member}".encode()),
        ]
    expected += [("advance", "threshold"), ("ask", SIGN_SURVIVORS, to("sign", "threshold", (1, 2, 3, 4)))]
    expected += [
        ("receive", "threshold", member, f"{SIGN_SURVIVORS} threshold {10 + member}".encode()) for member in PEOPLE
    ]
    expected += [
        ("advance", "threshold"),
        "before opening",
        ("ask", OPEN_SHARES, to("open", "threshold", (2, 3, 4))),
    ]
    for member in (2, 3, 4):
        expected += [
            ("keep", NAMES[member - 1], f"{OPEN_SHARES} of {10 + member}".encode()),
            ("receive", "threshold", member, f"{OPEN_SHARES} threshold {10 + member}".encode()),
        ]
    expected.append(("advance", "threshold"))
    assert done == expected
    noise = 5.0 + 3 / 100  # of the sum's own event, over the three that are left
    assert decoded == [("total of threshold", "longest of threshold for 28", noise_std(noise, 9))]
    # One of the three has one person, who has no neighbour.
    assert (made.total.tolist(), made.noise_multiplier, made.people, made.pairs, made.organisations, made.members) == (
        [1.5, 2.5],
        noise,
        28,
        27,
        3,
        ("south", "west", "east"),
    )


def test_a_step_before_the_opening_that_fails_leaves_it_to_nobody(monkeypatch, sums, done):
    answers(monkeypatch, sums, done)

    def fails():
        raise OSError

    with pytest.raises(OSError, match=r"^$"):
        sums.collect("moments", "mask", RecordDict(), before_opening=fails)
    assert [entry[1] for entry in done if entry[0] == "ask"] == ["mask", SIGN_SURVIVORS]


def test_a_sum_that_cannot_be_is_an_end_that_names_whoever_spoiled_it(monkeypatch, sums, done):
    answers(monkeypatch, sums, done)

    def decode(*_):
        raise MalformedMessageError("it is too long")

    monkeypatch.setattr(secure_sums, "decode", decode)
    monkeypatch.setattr(sums, "_blame", lambda release: f"Who spoiled {release}")
    with pytest.raises(
        RoundAbortedError, match=r"^the sum for moments was spoiled: it is too long\. Who spoiled moments$"
    ):
        sums.collect("moments", "mask", RecordDict(), before_opening=lambda: None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: None, "it did not answer"),
        (
            lambda content: RecordDict({"ledger": content["ledger"]}),
            "it sent a wrong reply: the messages of secure aggregation are missing",
        ),
        (
            lambda content: RecordDict({"secagg": content["secagg"]}),
            "it sent a wrong reply: its own privacy ledger is missing",
        ),
        (
            lambda content: RecordDict({"ledger": content["ledger"], **protocol_content({"threshold": b"x"})}),
            "left a release out",
        ),
    ],
)
def test_who_gives_no_message_for_a_sum_is_out_of_it_with_the_reason(monkeypatch, sums, done, change, why):
    sums._faults = {12: why} if why == "it did not answer" else {}
    answers(monkeypatch, sums, done, lambda node, _kind, content: change(content) if node == 12 else content)
    sums._ask("mask", {"moments": sums._shares["moments"]}, charged=True)
    assert [entry for entry in done if entry[0] == "lose"] == [("lose", "moments", 2, f"(node 12): {why}")]
    assert [entry[2] for entry in done if entry[0] == "receive"] == [1, 3, 4]


def test_whose_ledger_went_back_is_out_and_what_it_sent_is_not_taken(monkeypatch, sums, done):
    def keep(name, _lines):
        if name == "south":
            raise ProofError("it went back")

    monkeypatch.setattr(sums, "_keep_ledger", keep)
    answers(monkeypatch, sums, done)
    sums._ask("mask", {name: sums._shares[name] for name in ("moments", "threshold")}, charged=True)
    lost = [entry for entry in done if entry[0] == "lose"]
    assert lost == [
        ("lose", name, 2, "(node 12): it sent a wrong reply: it went back") for name in ("moments", "threshold")
    ]
    assert [entry[1:3] for entry in done if entry[0] == "receive"] == [
        (name, member) for member in (1, 3, 4) for name in ("moments", "threshold")
    ]


def test_each_is_asked_for_the_sums_that_it_is_still_in(monkeypatch, sums, done):
    del sums._shares["moments"][3]
    answers(monkeypatch, sums, done)
    sums._ask(SHARE_KEYS, sums._shares)
    assert {node: list(content["secagg"]) for node, content in done[0][2].items()} == {
        11: ["moments", "threshold"],
        12: ["moments", "threshold"],
        13: ["threshold"],
        14: ["moments", "threshold"],
    }
    assert [entry[1:3] for entry in done[1:]] == [
        (name, member) for member in PEOPLE for name in ("moments", "threshold") if (name, member) != ("moments", 3)
    ]


@pytest.mark.parametrize(("held", "refused"), [(39, False), (40, False), (41, True)])
def test_as_many_people_as_planned_are_taken_and_fewer_are_said(sums, done, held, refused):
    if refused:
        with pytest.raises(
            RoundAbortedError, match="at most 40 people and the organisations hold 41: they say north 10, s"
        ):
            sums._check_people(held)
    else:
        sums._check_people(held)
    said = "the organisations hold 39 people of the 40 that were planned for; the noise stays"
    assert done == ([("say", said)] if held == 39 else [])
    del sums._people[1]  # one that is away holds some too, so the numbers say nothing
    done.clear()
    if held == 39:
        sums._check_people(held)
        assert done == []


# --------------------------------------------------------------------------------------------------- one exchange
class Grid:
    """Answers at its own time, on a clock that only sleeping moves."""

    def __init__(self, answers_at):
        self.now, self.pushed, self.answers_at = 100.0, [], answers_at
        self.asked_for = []

    def push_messages(self, messages):
        self.pushed.append([(m.metadata.dst_node_id, m.metadata.message_type, m.metadata.ttl) for m in messages])
        return [f"of {m.metadata.dst_node_id}" for m in messages]

    def pull_messages(self, identifiers):
        self.asked_for.append(sorted(identifiers))
        found = []
        for identifier in identifiers:
            at, answer = self.answers_at.get(int(identifier.split()[1]), (np.inf, None))
            if self.now >= at:
                metadata = SimpleNamespace(reply_to_message_id=identifier)
                error = isinstance(answer, Error)
                found.append(
                    SimpleNamespace(metadata=metadata, has_error=lambda e=error: e, error=answer, content=answer)
                )
        return found

    def sleep(self, seconds):
        assert seconds == 0.1
        self.now = round(self.now + seconds, 6)


def exchange(monkeypatch, sums, grid, nodes, seconds=25.0):
    monkeypatch.setattr(secure_sums, "time", SimpleNamespace(monotonic=lambda: grid.now, sleep=grid.sleep))
    monkeypatch.setattr(
        secure_sums,
        "Message",
        lambda content, node, kind, ttl: SimpleNamespace(
            metadata=SimpleNamespace(dst_node_id=node, message_type=kind, ttl=ttl), content=content
        ),
    )
    sums._grid, sums._deadline_seconds = grid, seconds
    return sums._exchange(SHARE_KEYS, ((node, RecordDict()) for node in nodes))


def test_all_are_asked_and_whoever_answers_in_time_counts(monkeypatch, sums, done):
    grid = Grid(
        {12: (100.0, "second"), 11: (112.0, "first"), 14: (103.0, Error(code=Refusal.WRONG_LEDGER, reason="secret"))}
    )
    assert exchange(monkeypatch, sums, grid, [12, 11, 14, 13, 99]) == {11: "first", 12: "second"}
    assert list(exchange(monkeypatch, sums, Grid({12: (0, "b"), 11: (0, "a")}), [12, 11])) == [11, 12]
    assert grid.pushed == [[(node, SHARE_KEYS, 25.0) for node in (12, 11, 14, 13, 99)]]
    assert grid.asked_for[0] == [f"of {node}" for node in (11, 12, 13, 14, 99)]
    assert grid.asked_for[-1] == ["of 13", "of 99"]
    late = f"it did not answer {SHARE_KEYS} within 25 s"
    assert sums._faults == {14: Refusal.describe(Refusal.WRONG_LEDGER), 13: late, 99: late}
    assert grid.now == 125.0
    assert [line for _, line in done] == [
        "shares of keys: waiting for node 99, north, west since 10 s",
        "shares of keys: waiting for node 99, west since 20 s",
        "shares of keys: 2 of 5 answered in 25 s",
        "shares of keys: 2 of 2 answered in 0 s",
    ]


def test_who_answers_at_the_deadline_is_in_time(monkeypatch, sums):
    assert exchange(monkeypatch, sums, Grid({11: (125.0, "first")}), [11]) == {11: "first"}
    assert exchange(monkeypatch, sums, Grid({11: (125.1, "first")}), [11]) == {}


def test_a_thousand_are_asked_in_fifties(monkeypatch, sums):
    grid = Grid({node: (0.0, node) for node in range(101)})
    assert exchange(monkeypatch, sums, grid, range(101)) == {node: node for node in range(101)}
    assert [len(pushed) for pushed in grid.pushed] == [50, 50, 1]


def test_each_node_gets_its_own_content_which_is_made_as_it_is_sent(monkeypatch, sums):
    """All of them together would fill a machine."""
    grid, steps = Grid({node: (0.0, node) for node in range(70)}), []
    push = grid.push_messages

    def watched(messages):
        assert [m.content for m in messages] == [f"for {m.metadata.dst_node_id}" for m in messages]
        steps.append("sent")
        return push(messages)

    def contents():
        for node in range(70):
            steps.append(node)
            yield node, f"for {node}"

    monkeypatch.setattr(grid, "push_messages", watched)
    exchange(monkeypatch, sums, grid, [])
    steps.clear()
    sums._exchange(SHARE_KEYS, contents())
    assert steps == [*range(50), "sent", *range(50, 70), "sent"]
