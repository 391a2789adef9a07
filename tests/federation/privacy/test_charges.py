"""What a charge is called: every part of the digest in its place, against the frame written out by hand."""

import hashlib
from dataclasses import dataclass

import pytest

from federation.errors import MalformedMessageError
from federation.privacy import charges
from federation.privacy.charges import (
    application_digest,
    charge_name,
    prefix_of_charges,
    require_reservation_of,
    reservation_name,
    run_digest,
    run_of,
)


def framed(*fields):
    return hashlib.sha256(b"".join(len(field).to_bytes(4, "little") + field for field in fields)).digest()


@dataclass(frozen=True)
class Shape:
    degree: int
    threshold: int
    committee: int
    quorum: int


class Plan:
    recipe, digest = "a recipe", b"d" * 32
    organisations, colluders, dropouts = 9, 2, 1


def test_a_run_is_called_by_recipe_plan_roster_application_and_what_follows_for_secure_sums(monkeypatch):
    asked = []
    monkeypatch.setattr(charges, "shape", lambda *given: asked.append(given) or Shape(8, 5, 7, 6))
    keys = framed(b"one key", b"another key")
    wanted = framed(b"intaglio run 1", b"a recipe", b"d" * 32, keys, b"application", b"8 5 7 6")
    assert run_digest(Plan, iter([b"one key", b"another key"]), b"application") == wanted.hex()
    assert asked == [(9, 2, 1)]


def test_an_application_is_the_paths_and_bytes_of_all_python_of_both_packages(tmp_path):
    files = {
        "federation/wire/deep.py": b"deep",
        "client/node.py": b"node",
        "federation/a.py": b"a",
        "client/notes.txt": b"no code",
        "server/other.py": b"not an organisation's",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    wanted = framed(
        b"intaglio application 1",
        *(b"client/node.py", b"node", b"federation/a.py", b"a", b"federation/wire/deep.py", b"deep"),
    )
    assert application_digest(tmp_path) == wanted


def test_names_of_charges_say_run_agreement_release_and_question_in_this_order():
    reservation = reservation_name("17", "ab" * 32)
    assert reservation == f"17:{'ab' * 32}"
    assert run_of(reservation) == "17"
    assert prefix_of_charges(reservation, "moments") == f"{reservation}/moments/"
    assert charge_name(reservation, "moments", "cd" * 32) == f"{reservation}/moments/{'cd' * 32}"


@pytest.mark.parametrize("run", ["1", "r" * 64, "a:b"])
def test_a_reservation_for_what_was_agreed_is_taken_whatever_its_run_is_called(run):
    require_reservation_of(f"{run}:agreed", "agreed")


@pytest.mark.parametrize(
    "reservation",
    ["1:other", "agreed", ":agreed", f"{'r' * 65}:agreed", "1\n:agreed", "1/2:agreed", "1:agreed:", "1:agreed/x", ""],
)
def test_another_agreement_or_what_is_no_name_is_refused(reservation):
    with pytest.raises(MalformedMessageError, match=r"^the charge is for another plan, another roster or another"):
        require_reservation_of(reservation, "agreed")
