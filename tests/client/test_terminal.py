"""What commands read and print: facts as they are, whatever a name or an address looks like; lines for who waits."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from client.bundles import read_as, read_bundle, read_trust
from client.terminal import progress_bar, read_file, read_hex, show, show_rows, tell
from federation.errors import MalformedMessageError, UsageError
from tests.bundles import TRUST, a_bundle, signed

FACTS = {"key_id": "[bold]ab[/bold] [/]", "contact": "mailto:[x]@example.org :b:"}


def test_facts_are_printed_as_they_are_below_each_other_or_as_json(capsys):
    show(FACTS, as_json=False)
    assert capsys.readouterr() == (" key id  [bold]ab[/bold] [/]\ncontact  mailto:[x]@example.org :b:\n", "")
    show(FACTS, as_json=True)
    assert json.loads(capsys.readouterr().out) == FACTS
    show_rows([FACTS, FACTS], as_json=False)
    assert capsys.readouterr() == ("[bold]ab[/bold] [/]  mailto:[x]@example.org :b:\n" * 2, "")
    show_rows([FACTS, {"number": 3}], as_json=True)
    assert json.loads(capsys.readouterr().out) == [FACTS, {"number": 3}]
    show_rows([], as_json=True)
    assert capsys.readouterr() == ("[]\n", "")


def test_a_long_fact_is_one_line(capsys):
    show({"notice": "word " * 99}, as_json=False)
    assert capsys.readouterr().out.count("\n") == 1


def test_whoever_waits_is_told_beside_the_output(capsys):
    tell("waiting")
    assert capsys.readouterr() == ("", "waiting\n")


def test_a_file_is_read_whole_and_one_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"a\n\xff")
    assert read_file(tmp_path / "file") == b"a\n\xff"
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=r".") as refused:
            read_file(path)
        assert str(refused.value) == f"cannot read {path}: {why}"


def test_what_is_typed_is_32_bytes_in_hex_or_its_beginning_is_said_and_what_it_should_be():
    assert read_hex("00fF" * 16, "the key") == b"\x00\xff" * 16
    for typed in ("0123456789abcdeg" + "secret", "0123456789abcdef" * 5, "0123456789abcdef" * 3, "", "00 " * 32):
        with pytest.raises(UsageError, match=r".") as refused:
            read_hex(typed, "the nonce")
        assert str(refused.value) == f"the nonce is 64 hex digits, and not {typed[:16]!r}"
        assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("things", "speed", "rate"), [("", 2.0, None), ("trials", 2.04, "2.0 trials/s"), ("trials", None, "")]
)
@pytest.mark.parametrize("seen", [True, False])
def test_a_bar_counts_and_says_how_fast_where_somebody_looks(monkeypatch, things, speed, rate, seen):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: seen, write=print, flush=lambda: None))
    bar = progress_bar(things)
    assert bar.disable is not seen
    assert bar.console.stderr
    rates = [column.render(SimpleNamespace(speed=speed)).plain for column in bar.columns if hasattr(column, "_things")]
    assert rates == ([] if rate is None else [rate])
    assert {MofNCompleteColumn, TimeRemainingColumn} <= {type(column) for column in bar.columns}


# ---------------------------------------------------------------------------------------- bundles that somebody named
def test_a_bundle_and_whose_signatures_count_are_read_from_files_and_what_is_none_is_named(tmp_path):
    bundle, trust, junk = (tmp_path / name for name in ("bundle.zip", "trust.json", "junk"))
    made = signed(a_bundle())
    bundle.write_bytes(made.to_bytes())
    trust.write_bytes(TRUST.to_bytes())
    junk.write_bytes(b"{}")
    assert read_bundle(bundle).to_bytes() == made.to_bytes()
    assert read_trust(trust) == TRUST
    with pytest.raises(UsageError, match=rf"^{junk}: ") as refused:
        read_bundle(junk)
    assert isinstance(refused.value.__cause__, MalformedMessageError)
    with pytest.raises(UsageError, match=r"."):
        read_trust(junk)
    for read in (read_bundle, read_trust):
        with pytest.raises(UsageError, match=f"^cannot read {tmp_path / 'none'}: No such file"):
            read(tmp_path / "none")
    assert read_as(junk, len) == 2
