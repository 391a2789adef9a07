"""A log policy says whom one believes, for devices and for the log's own server, and nothing twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.transparency import KeyKind, LogPolicy, NoteSigner
from federation.transparency.policy import MAX_WITNESSES, NamedWitness
from tests.transparency_log import SIGNER, WITNESSES

LOG, ONE, TWO, THREE = (signer.key for signer in (SIGNER, *WITNESSES))
TEXT = f"""
# whom we believe
log {LOG.to_text()}
witness one {ONE.to_text()} https://witness.example/one/
witness two {TWO.to_text()}
\twitness three {THREE.to_text()} http://127.0.0.1:7446
group most 2 one two three
quorum most
"""


def test_a_policy_names_log_witnesses_addresses_and_quorum():
    policy = LogPolicy.from_text(TEXT)
    assert policy.log_key == LOG
    assert [(one.key, one.address) for one in policy.witnesses] == [
        (ONE, "https://witness.example/one"),
        (TWO, None),
        (THREE, "http://127.0.0.1:7446"),
    ]
    assert (set(policy.counted), policy.threshold) == ({ONE, TWO, THREE}, 2)


@pytest.mark.parametrize(("quorum", "counted", "threshold"), [("none", set(), 0), ("two", {TWO}, 1)])
def test_a_quorum_may_be_none_or_one_witness(quorum, counted, threshold):
    policy = LogPolicy.from_text(TEXT.replace("quorum most", f"quorum {quorum}"))
    assert (set(policy.counted), policy.threshold) == (counted, threshold)


def test_what_a_policy_writes_it_reads():
    named = (NamedWitness(ONE, "https://witness.example"), NamedWitness(TWO))
    for threshold in (0, 1, 2):
        policy = LogPolicy(LOG, named, (ONE, TWO) if threshold else (), threshold)
        assert LogPolicy.from_text(policy.to_text()) == policy


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (f"log {LOG.to_text()}\n", "", "names one log"),
        ("quorum most\n", "", "names one log and one quorum"),
        ("quorum most", "quorum most\nquorum one", "comes twice"),
        ("quorum most", "quorum nobody", "comes twice"),
        ("witness two", "witness one", "comes twice"),
        ("witness two", "witness none", "comes twice"),
        ("group most 2 one two three", "group most 4 one two three", "one to all"),
        ("group most 2 one two three", "group most 0 one two three", "one to all"),
        ("group most 2 one two three", "group most 2 one one", "one to all"),
        ("group most 2 one two three", "group most 2 one nobody", "stand above"),
        (TWO.to_text(), ONE.to_text(), "no two the same"),
        (TWO.to_text(), LOG.to_text(), "cosignature key"),
        (TWO.to_text(), TWO.to_text() + " ftp://witness.example", "has an address such as"),
        (TWO.to_text(), TWO.to_text() + " https://w.example another", "and perhaps an address"),
        (TWO.to_text(), TWO.to_text()[:-2], "line 5"),
        (LOG.to_text(), ONE.to_text(), "plain note key"),
    ],
)
def test_a_wrong_policy_is_refused_and_the_error_says_where(before, after, said):
    assert before in TEXT
    with pytest.raises(UsageError, match=said):
        LogPolicy.from_text(TEXT.replace(before, after, 1))


@pytest.mark.parametrize(
    "hidden",
    ["\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\xa0", "\u3000", "\u200b", "\u202e", "\ufeff", "\0"],
)
def test_a_policy_means_what_people_see_and_what_other_readers_of_c2sp_read(hidden):
    lines = TEXT.splitlines()
    for changed in (
        [*lines[:-1], f"# our witnesses{hidden}quorum none"],
        [*lines[:-2], f"group{hidden}most 2 one two three", lines[-1]],
        [*lines[:-2], f"group mo{hidden}st 1 one", f"quorum mo{hidden}st"],
        [hidden, *lines],
    ):
        with pytest.raises(UsageError, match="not seen"):
            LogPolicy.from_text("\n".join(changed))


def test_one_key_under_two_names_is_one_witness_and_is_refused():
    twin = NoteSigner("witness.example/twin", KeyKind.COSIGNATURE, WITNESSES[0].secret_bytes()).key
    with pytest.raises(UsageError, match="no two the same"):
        LogPolicy(LOG, (NamedWitness(ONE), NamedWitness(twin)), (ONE, twin), 2)


def test_a_policy_is_bounded():
    many = tuple(
        NamedWitness(NoteSigner(f"w{n}", KeyKind.COSIGNATURE, n.to_bytes(32, "big")).key)
        for n in range(100, 101 + MAX_WITNESSES)
    )
    LogPolicy(LOG, many[:-1])
    with pytest.raises(UsageError, match="at most 16 witnesses"):
        LogPolicy(LOG, many)
    with pytest.raises(UsageError, match="named count"):
        LogPolicy(LOG, (NamedWitness(ONE),), (TWO,), 1)
    for counted in [(ONE,), (ONE, ONE)]:
        with pytest.raises(UsageError, match="threshold is 0 to 1"):
            LogPolicy(LOG, (NamedWitness(ONE),), counted, 2)


@pytest.mark.parametrize(
    "address",
    [
        *("", "witness.example", "https://", "https:///path", "https://w.example?x=1", "https://w.example/#x"),
        *("https://me:secret@w.example", "https://w.example:0", "https://w.example:99999", "https://w\u00e9.example"),
        *(
            "file:///etc/passwd",
            "https://w.example?",
            "https://w.example#",
            "https://w.example/a b",
            "https://w.example/\x01",
            "https://[::1",
        ),
    ],
)
def test_what_is_no_address_of_a_witness_is_refused(address):
    with pytest.raises(UsageError, match="has an address such as"):
        NamedWitness(ONE, address)


@given(st.text(max_size=60) | st.sampled_from(TEXT.split("\n")).flatmap(lambda line: st.just(line + " x")))
def test_any_text_gives_a_policy_or_a_usage_error(text):
    for whole in (text, TEXT + text):
        try:
            policy = LogPolicy.from_text(whole)
        except UsageError:
            continue
        assert LogPolicy.from_text(policy.to_text()).threshold == policy.threshold
