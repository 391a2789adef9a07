"""What commands print of facts: as it is, whatever a name or an address looks like."""

from __future__ import annotations

import json

from client.terminal import show, show_rows

FACTS = {"key_id": "[bold]ab[/bold] [/]", "contact": "mailto:[x]@example.org"}


def test_facts_are_printed_as_they_are_below_each_other_or_as_json(capsys):
    show(FACTS, as_json=False)
    assert capsys.readouterr().out == " key id  [bold]ab[/bold] [/]\ncontact  mailto:[x]@example.org\n"
    show(FACTS, as_json=True)
    assert json.loads(capsys.readouterr().out) == FACTS
    show_rows([FACTS, FACTS], as_json=False)
    assert capsys.readouterr().out == "[bold]ab[/bold] [/]  mailto:[x]@example.org\n" * 2
    show_rows([FACTS], as_json=True)
    assert json.loads(capsys.readouterr().out) == [FACTS]
