"""A person's file that says something else is refused, whole, and without a word of what it holds."""

from __future__ import annotations

import base64
import json
import traceback
from dataclasses import replace

import pytest

from federation.errors import MalformedMessageError, UsageError
from federation.wire.person import FILES, PersonFile
from tests.values import GOOD

GOOD_FILE = json.loads(GOOD["a person's file"].to_secret_bytes())
KEY = "client-key.pem"
WRONG = {
    "no JSON": b'{"ticket": "hush',
    "no object": b'["hush"]',
    "a field more": json.dumps(GOOD_FILE | {"hush": 1}).encode(),
    **{
        f"without {name}": json.dumps({key: value for key, value in GOOD_FILE.items() if key != name}).encode()
        for name in GOOD_FILE
    },
    **{
        name: json.dumps(GOOD_FILE | changes).encode()
        for name, changes in {
            "another ticket": {"ticket": "hush-hush"},
            "no ticket": {"ticket": None},
            "another server": {"server": "hush"},
            "another deployment": {"deployment": "Hush!"},
            "no files": {"files": ["hush"]},
            "a file that is no base64": {"files": GOOD_FILE["files"] | {KEY: "hush!"}},
            "a file more": {"files": GOOD_FILE["files"] | {"hush": "aHVzaA=="}},
            "a file less": {"files": {name: text for name, text in GOOD_FILE["files"].items() if name != KEY}},
        }.items()
    },
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_persons_file_that_says_something_else_is_refused_without_a_word_of_it(wrong):
    with pytest.raises(MalformedMessageError, match=r"person's file") as caught:
        PersonFile.from_secret_bytes(WRONG[wrong])
    told = "".join(traceback.format_exception(caught.value)).lower()
    assert "hush" not in told
    assert GOOD_FILE["ticket"] not in told


def test_a_persons_file_is_of_all_of_its_files_and_each_under_its_own_name():
    wanted = replace(GOOD["a person's file"], files={name: name.encode() for name in FILES})
    held = json.loads(wanted.to_secret_bytes())
    assert held["files"] == {name: base64.b64encode(name.encode()).decode() for name in FILES}
    assert {name: text for name, text in held.items() if name != "files"} == {
        name: text for name, text in GOOD_FILE.items() if name != "files"
    }
    assert PersonFile.from_secret_bytes(wanted.to_secret_bytes()) == wanted


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_persons_file_holds_each_of_its_files_and_no_other(name):
    good = GOOD["a person's file"]
    for files in (
        {one: b"x" for one in FILES if one != name},
        dict.fromkeys(FILES, b"x") | {f"{name}.old": b"x"},
        {one if one != name else f"{name}.old": b"x" for one in FILES},
    ):
        with pytest.raises(UsageError, match=r"^a person's file holds ca\.pem, .*, and nothing else$"):
            replace(good, files=files)


def test_a_persons_file_says_where_to_go_and_whom_the_rules_name():
    good = GOOD["a person's file"]
    for wrong in ("", "Trial", "t" * 65):
        with pytest.raises(UsageError, match="the deployment is 1 to 64 of"):
            replace(good, deployment=wrong)
    for wrong in ("", "localhost", "localhost:0", "localhost:65536", ":7443"):
        with pytest.raises(UsageError, match="HOST:PORT"):
            replace(good, server=wrong)
