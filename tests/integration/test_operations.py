"""The page for operators is run as it stands (`python -m tests.operations`), and what runs it notices what is wrong."""

import re

import pytest

from tests import operations
from tests.operations import Machine, blocks_of, is_like, lines_of


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.timeout(1200)
def test_the_page_for_operators_is_what_happens(capsys):
    with capsys.disabled():
        operations.run(operations.PAGE.read_text(), print)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path, lambda _: None)


PAGE = "```sh\nls {file}\n```\n\n```text\n{shown}\n```\n"


@pytest.mark.integration
@pytest.mark.enable_socket
def test_what_is_said_is_compared_with_what_the_page_shows(machine):
    (machine.home / "there").touch()
    machine.play(PAGE.format(file="there", shown="th..."))
    with pytest.raises(AssertionError, match="the page shows"):
        machine.play(PAGE.format(file="there", shown="somewhere"))


@pytest.mark.integration
@pytest.mark.enable_socket
def test_what_goes_into_a_file_is_what_was_said_and_no_error(machine):
    (machine.home / "there").touch()
    machine.play("```sh\nls there nowhere > said # ends with 2\n```\n\n```text\n```\n")
    assert (machine.home / "said").read_text() == "there\n"


@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_unit_that_runs_once_runs_to_its_end_and_a_failure_of_it_is_noticed(machine, monkeypatch, tmp_path):
    unit = "[Service]\nType=oneshot\nEnvironment=SEEN=seen\nCapabilityBoundingSet=CAP_CHOWN\n"
    (tmp_path / "once.service").write_text(
        unit + f"ExecStart=/bin/sh -c 'touch {tmp_path}/$SEEN'\nExecStart=/bin/false\n"
    )
    monkeypatch.setattr(operations, "UNITS", tmp_path)
    with pytest.raises(AssertionError, match="/bin/false ended with 1"):
        machine.play("```sh\nsystemctl start once\n```\n")
    assert (tmp_path / "seen").exists()
    with pytest.raises(AssertionError, match=r"twice\.timer"):
        machine.play("```sh\nsystemctl enable --now twice.timer\n```\n")


@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_command_that_ends_otherwise_than_the_page_says_is_noticed(machine):
    missing = "```sh\nls nowhere{}\n```\n"
    with pytest.raises(AssertionError, match="ended with 2"):
        machine.play(missing.format(""))
    machine.play(missing.format(" # ends with 2"))
    with pytest.raises(AssertionError, match="ended with 2"):
        machine.play(missing.format(" # ends with 3"))


@pytest.mark.parametrize(
    ("said", "shown", "same"),
    [
        ("a\nb", "a\nb", True),
        ("a\nx\ny\nb", "a\n...\nb", True),
        ("a 7 b", "a ... b", True),
        ("a", "b", False),
        ("ab", "a", False),
        ("a.b", "a...", True),
        ("aXb", "a.b", False),
    ],
)
def test_dots_stand_for_anything_and_everything_else_for_itself(said, shown, same):
    assert is_like(said, shown) == same


def test_lines_are_joined_and_say_how_they_end():
    assert list(lines_of("a \\\n  b\n\nc # ends with 3\n")) == [("a    b", 0), ("c", 3)]


@pytest.mark.enable_socket
def test_places_and_ports_of_the_page_are_those_of_the_machine_and_back(machine):
    text = "see /etc/intaglio/tls, /etc/intaglio-bridge and localhost:7443"
    here = machine.here(text)
    assert str(machine.folder / "etc/intaglio-bridge") in here
    assert "7443" not in here.removeprefix(str(machine.folder))
    assert machine.there(here) == text


def test_every_procedure_of_the_page_has_commands_that_are_run():
    page = operations.PAGE.read_text()
    parts = re.split(r"^##+ ", page, flags=re.MULTILINE)[1:]
    without = {part.splitlines()[0] for part in parts if not any(kind == "sh" for kind, _ in blocks_of(part))}
    assert without == {
        "What to monitor",
        "When something is wrong",
        "A part is down",
        "A witness is silent",
        "Calls fail",
        "Somebody tries many times",
        "It is slow",
        "A federation",
        "In containers, and in Kubernetes",
    }
