"""What the organisation's commands say: every number and every alternative, whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from client import cli
from client.faces.datasets import Problem
from client.node import cli as node_cli
from client.node.preparing import Preparation
from client.node.reaching import WARN_DAYS, Reached
from client.preparing.crew import Crew
from federation.errors import UsageError
from tests.commands import Stand

USUAL = {"people": 12, "prepared": 5, "images": 33, "looked": 40, "resumed": 0, "withdrawn": 0, "chips": False}


def said(*words, code=0):
    result = CliRunner().invoke(cli.app, [*words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout.splitlines(), result.stderr.splitlines()


def preparing(monkeypatch, seconds, **changes):
    """The command, as if the work had taken so long."""
    now = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr(node_cli, "time", SimpleNamespace(monotonic=lambda: next(now), time=lambda: 0))
    Stand(monkeypatch, "client.node.preparing", {"prepare": Preparation(**(USUAL | {"problems": ()} | changes))})
    return said("node", "prepare", "images", "north")


def test_a_preparation_says_how_many_of_everything_and_how_fast(monkeypatch):
    assert preparing(monkeypatch, 8.0) == (
        [
            "people who take part: 12, of whom 5 come from 33 images here",
            "no pictures of faces are kept, as policy.toml says",
        ],
        ["looked at 40 images: 5.0 a second"],
    )


def test_a_preparation_that_went_on_says_what_was_done_before_and_counts_the_rest(monkeypatch):
    problems = tuple(Problem(Path(name), "no face", "look") for name in ("a.jpg", "b.jpg"))
    assert preparing(monkeypatch, 8.0, resumed=24, withdrawn=3, chips=True, problems=problems) == (
        [
            "people who take part: 12, of whom 5 come from 33 images here",
            "chips of their faces are kept for the recipe scales, as policy.toml says",
        ],
        [
            *(f"left out: {problem}" for problem in problems),
            "left out, because they withdrew: 3",
            "looked at 40 images, 24 of them before: 2.0 a second",
        ],
    )


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (3, "3 embeddings take no part any more"),
        (0, "nobody of that name takes part; the name is marked, and will not take part later either"),
    ],
)
def test_a_withdrawal_says_what_it_took_out(monkeypatch, out, words):
    Stand(monkeypatch, "client.node.cli", {"withdraw": out})
    assert said("node", "withdraw", "ben", "north") == ([words], [])


@pytest.mark.parametrize(("status", "code", "words"), [(0, 0, []), (3, 4, ['{"supernode_exit": 3}'])])
def test_a_node_that_ends_by_itself_says_how_and_does_not_end_well(monkeypatch, status, code, words):
    Stand(monkeypatch, "client.node.start", {"run_node": status})
    assert said("node", "start", "north", code=code) == ([], words)


def test_a_notice_says_where_the_gateway_is_from_now_on(monkeypatch, tmp_path):
    (tmp_path / "notice").write_text("a notice")
    Stand(monkeypatch, "client.node.cli", {"take_notice": SimpleNamespace(address="fed.example.net:1443")})
    lines, _ = said("node", "notice", str(tmp_path / "notice"), "north")
    assert lines == ["the gateway is at fed.example.net:1443 from the node's next start on"]


NOW = 1_893_499_200


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (WARN_DAYS + 0.001, ""),
        (60, "the gateway's certificate expires on 2030-03-02, in 60 days"),
        (0.4, "the gateway's certificate expires on 2030-01-01, in 0 days"),
    ],
)
def test_a_certificate_that_ends_soon_is_spoken_of(days, words):
    warning = Reached(0.0, NOW + days * 86_400).warning(NOW)
    assert warning.startswith(words)
    assert bool(warning) == bool(words)
    assert not words or "remind the coordinator to run `intaglio-server federation renew`" in warning


@pytest.mark.parametrize(
    ("ahead", "words"), [(7.6, "8 s ahead of the coordinator's"), (-700.4, "700 s behind the coordinator's")]
)
def test_a_wrong_clock_is_said_with_its_side_and_by_how_much(ahead, words):
    with pytest.raises(UsageError, match=f"this machine's clock is {words}"):
        Reached(ahead, 0.0).require_clock()


@pytest.mark.parametrize(("answer", "joins"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_without_a_fingerprint_somebody_is_asked_and_only_a_yes_joins(monkeypatch, tmp_path, answer, joins):
    (tmp_path / "invitation").write_text("an invitation")
    read = SimpleNamespace(coordinator_fingerprint="0001 0002")
    signed = SimpleNamespace(request=SimpleNamespace(fingerprint="ours 0003"))
    made = Stand(monkeypatch, "client.node.cli", {"invitation_from_text": read, "join": signed})
    monkeypatch.setattr(node_cli, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(node_cli, "time", SimpleNamespace(time=lambda: 1_900_000_000.9))
    words = ["join", str(tmp_path / "invitation"), str(tmp_path / "north")]
    result = CliRunner().invoke(cli.app, words, input=answer)
    assert "the coordinator must read out: 0001 0002" in result.output
    assert (result.exit_code == 0, made.calls["join"] != []) == (joins, joins)
    if joins:
        assert made["join"] == {"invitation_text": "an invitation", "folder": tmp_path / "north", "now": 1_900_000_000}
        assert f"send {tmp_path / 'north' / 'request.json'} to the coordinator" in result.output
        assert "before it trusts the roster: ours 0003" in result.output


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ("000a 0002", 0), (" 000a   0002 ", 0), ("000a0002", 0), ("000A 0002", 0),
        ("000a", 3), ("0002", 3), ("000a 0003", 3), ("", 3), ("000a 0002 0002", 3), ("0002 000a", 3), ("000a-0002", 3),
    ],
)  # fmt: skip
def test_a_fingerprint_is_compared_whole_before_anything_is_made(monkeypatch, tmp_path, told, code):
    (tmp_path / "invitation").write_text("an invitation")
    read = SimpleNamespace(coordinator_fingerprint="000a 0002")
    signed = SimpleNamespace(request=SimpleNamespace(fingerprint="ours"))
    made = Stand(monkeypatch, "client.node.cli", {"invitation_from_text": read, "join": signed})
    words = ["join", str(tmp_path / "invitation"), str(tmp_path / "north"), "--fingerprint", told]
    result = CliRunner().invoke(cli.app, words)
    assert (result.exit_code, len(made.calls["join"])) == (code, code == 0)


def test_an_invitation_that_is_no_text_is_said_by_its_file(tmp_path):
    (tmp_path / "invitation").write_bytes(b"\xff")
    lines, errors = said("join", str(tmp_path / "invitation"), str(tmp_path / "north"), "--fingerprint", "x", code=4)
    assert lines == []
    assert f"{tmp_path / 'invitation'} is not text" in " ".join(errors)


def test_a_preparation_works_with_a_process_for_each_core_unless_it_is_told(monkeypatch):
    monkeypatch.setattr("client.preparing.crew.cores", lambda: 7)
    for words, crew in (((), Crew(7)), (("--processes", "2"), Crew(2))):
        with monkeypatch.context() as patch:
            made = Stand(patch, "client.node.preparing", {"prepare": Preparation(**(USUAL | {"problems": ()}))})
            said("node", "prepare", "images", "north", *words)
        assert made["prepare"]["crew"] == crew


def test_metrics_are_shown_only_where_a_port_is_named(monkeypatch):
    for words, metrics in (((), None), (("--metrics-port", "9003"), ("127.0.0.1", 9003))):
        with monkeypatch.context() as patch:
            made = Stand(patch, "client.node.start", {"run_node": 0})
            said("node", "start", "north", *words)
        assert made["run_node"] == {"folder": Path("north"), "metrics": metrics}
