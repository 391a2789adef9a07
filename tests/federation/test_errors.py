"""The error family, what secrets show, and the one reader of TOML: what everything else stands on."""

import copy
import hmac
import inspect
import pickle
import re

import pytest

from federation import errors, secrecy
from federation.errors import IntaglioError, UnavailableError, UsageError
from federation.secrecy import Guarded, Secret
from federation.toml import read_toml
from federation.verdict import Verdict

FAMILY = {
    "IntaglioError": ("Exception", 4),
    "UsageError": ("IntaglioError", 2),
    "BudgetExhaustedError": ("UsageError", 2),
    "PeerError": ("IntaglioError", 4),
    "MalformedMessageError": ("PeerError", 4),
    "ProofError": ("IntaglioError", 4),
    "RefusedError": ("IntaglioError", 3),
    "RoundAbortedError": ("IntaglioError", 4),
    "UnavailableError": ("IntaglioError", 4),
}


def test_the_family_is_the_one_that_is_drawn_and_each_member_ends_a_command_with_its_code():
    made = {
        name: (kind.__base__.__name__, getattr(kind, "exit_code", None))
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == "federation.errors"
    }
    assert made == FAMILY
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__)
    assert sorted(drawn) == sorted(FAMILY.keys() - {"IntaglioError"})


@pytest.mark.parametrize("name", FAMILY)
def test_every_error_says_its_message(name):
    made = getattr(errors, name)("what to do")
    assert (str(made), isinstance(made, IntaglioError)) == ("what to do", True)


def test_who_is_to_try_later_hears_when():
    assert UnavailableError("busy").retry_after_seconds == 1.0
    assert UnavailableError("busy", retry_after_seconds=7.5).retry_after_seconds == 7.5
    with pytest.raises(TypeError, match="positional"):
        UnavailableError("busy", 7.5)


# ------------------------------------------------------------------------------------------------------------- secrets
class Key(Secret):
    def __init__(self, value):
        self.value = value

    def secret_bytes(self):
        return self.value


class Longer(Key):
    """The same, and more."""


def test_a_secret_shows_nothing_and_leaves_by_no_door():
    key = Key(b"hidden-value")
    assert repr(key) == str(key) == f"{key}" == "Key(<redacted>)"
    assert repr([key]) == "[Key(<redacted>)]"
    doors = [
        copy.copy,
        copy.deepcopy,
        *(lambda it, n=n: pickle.dumps(it, n) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
    ]
    for door in doors:
        with pytest.raises(TypeError, match=r"^Key refuses pickling and copying$"):
            door(key)
    with pytest.raises(TypeError, match=r"^Guarded refuses pickling and copying$"):
        copy.copy(Guarded())


def test_secrets_are_compared_whole_in_constant_time_and_with_their_own_kind_alone(monkeypatch):
    compared = []
    monkeypatch.setattr(
        secrecy.hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other
    )
    assert Key(b"ab") == Key(b"ab")
    assert Key(b"ab") != Key(b"ac")
    assert compared == [(b"ab", b"ab"), (b"ab", b"ac")]
    assert (Key(b"ab") == b"ab", Key(b"ab") == "ab", Key(b"ab") is None) == (False, False, False)
    assert len(compared) == 2
    assert secrecy.hmac is hmac


def test_a_secret_is_no_key_of_a_dictionary_and_has_to_say_what_it_keeps():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Key(b"ab"))
    with pytest.raises(NotImplementedError, match=r"^$"):
        Secret().secret_bytes()


# ---------------------------------------------------------------------------------------------------------------- toml
def test_a_document_is_read_from_bytes_and_from_text():
    expected = {"a": {"b": [1, 2.5], "ü": "é"}}
    text = '[a]\nb = [1, 2.5]\n"ü" = "é"\n'
    assert read_toml(text, "the policy") == read_toml(text.encode(), "the policy") == expected
    assert read_toml(b"", "the policy") == {}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'secret = "\xff"', "^the policy is no TOML: not UTF-8$"),
        (b"secret = ", r"^the policy is no TOML: .*\(at end of document\)$"),
        ("a = 1\nsecret == 2", r"^the policy is no TOML: .*\(at line 2, column 9\)$"),
        (b"a = 1\na = 2", "^the policy is no TOML: Cannot overwrite a value"),
        ("a = " + "[" * 5000, "^the policy has a list that is too deep or a number that is too long$"),
        ("a = " + "1" * 5000, "^the policy has a list that is too deep or a number that is too long$"),
        ("a = 9999-99-99", "^the policy is no TOML: "),
    ],
    ids=lambda each: repr(each)[:24],
)
def test_what_is_no_document_is_said_with_its_name_and_no_cause_that_quotes_it(data, said):
    with pytest.raises(UsageError, match=said) as caught:
        read_toml(data, "the policy")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# ------------------------------------------------------------------------------------------------------------ verdicts
def test_the_worst_verdict_of_every_set_of_them():
    fail, unknown, passed = Verdict.FAIL, Verdict.INSUFFICIENT, Verdict.PASS
    for verdicts, worst in (
        ([], unknown),
        ([passed], passed),
        ([unknown], unknown),
        ([fail], fail),
        ([passed, unknown], unknown),
        ([unknown, passed], unknown),
        ([passed, fail], fail),
        ([unknown, fail], fail),
        ([fail, unknown, passed], fail),
    ):
        assert Verdict.worst(verdicts) is worst
    assert [each.value for each in Verdict] == ["PASS", "FAIL", "INSUFFICIENT"]
    for each in Verdict:
        with pytest.raises(TypeError, match="compare it with one of them"):
            bool(each)
