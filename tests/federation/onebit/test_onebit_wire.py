"""Bytes of the match: any of them give a value or the one error, and what parses serialises to itself."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError
from federation.onebit import Material, SessionKey, check_probe, check_template, wire
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048
from federation.onebit.wire import PaddedTemplate, Probe, Reply

PARSERS = {"template": PaddedTemplate, "probe": Probe, "reply": Reply}
PRIMES = sorted({*ONEBIT_2048.data_primes, *ONEBIT_1024.data_primes})


@pytest.fixture(scope="module")
def messages(owner, parameters):
    """One honest message of each kind."""
    probe = SessionKey.generate(parameters).encrypt(owner.padded)
    reply = Material.draw(parameters).answer(owner.template, probe, b"transcript", 20).reply
    return {"template": owner.template, "probe": probe, "reply": reply}


@pytest.mark.parametrize("prime", PRIMES)
@given(data=st.data())
def test_packing_is_the_integer_of_all_residues(prime, data):
    residues = data.draw(st.lists(st.integers(0, prime - 1), min_size=4, max_size=4))
    packed = wire.pack_residues(np.array(residues, np.uint64), prime)
    bits = prime.bit_length()
    assert packed == sum(r << bits * i for i, r in enumerate(residues)).to_bytes(bits // 2, "little")
    assert wire.unpack_residues(packed, prime).tolist() == residues


@pytest.mark.parametrize("prime", PRIMES)
@pytest.mark.parametrize("place", range(4))
def test_a_residue_equal_to_its_prime_is_refused_wherever_it_stands(prime, place):
    residues = np.full(4, prime - 1, np.uint64)
    wire.unpack_residues(wire.pack_residues(residues, prime), prime)
    residues[place] = prime
    with pytest.raises(MalformedMessageError, match="not below its prime"):
        wire.unpack_residues(wire.pack_residues(residues, prime), prime)


def test_messages_begin_with_their_documented_bytes(messages, parameters):
    number = {2048: 1, 1024: 2}[parameters.slots]
    for kind, value in (("template", 1), ("probe", 2), ("reply", 3)):
        assert messages[kind][:8] == b"ITG2" + bytes([value, number, 0, 0])


def test_messages_have_the_stated_lengths_and_round_trip(messages, parameters):
    lengths = {
        "template": wire.template_length(parameters),
        "probe": wire.probe_length(parameters),
        "reply": wire.reply_length(20, parameters),
    }
    assert {kind: len(message) for kind, message in messages.items()} == lengths
    assert wire.template_length(parameters) == {2048: 296, 1024: 168}[parameters.slots]
    for kind, message in messages.items():
        assert PARSERS[kind].from_bytes(message, parameters).to_bytes(parameters) == message
        assert wire.parameters_of(message) == parameters


@pytest.mark.parametrize("kind", PARSERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_give_a_message_or_the_one_error(kind, data, messages, parameters):
    honest = bytearray(messages[kind])
    for place in data.draw(st.lists(st.integers(0, len(honest) - 1), max_size=4)):
        honest[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(honest), 0, 7, 8, 80, len(honest) - 16, len(honest) - 1]))
    mutated = bytes(honest[:cut]) + data.draw(st.binary(max_size=17))
    try:
        parsed = PARSERS[kind].from_bytes(mutated, parameters)
    except MalformedMessageError:
        return
    assert parsed.to_bytes(parameters) == mutated


@pytest.mark.parametrize("kind", PARSERS)
@given(data=st.binary(max_size=400))
def test_short_bytes_behind_a_good_preamble_are_malformed_or_serialise_identically(kind, data, parameters):
    preamble = b"ITG2" + bytes([[*PARSERS].index(kind) + 1, {2048: 1, 1024: 2}[parameters.slots], 0, 0])
    for foreign in (data, preamble + data):
        try:
            parsed = PARSERS[kind].from_bytes(foreign, parameters)
        except MalformedMessageError:
            continue
        assert parsed.to_bytes(parameters) == foreign


@pytest.mark.parametrize("kind", PARSERS)
def test_one_kind_or_set_is_not_taken_for_another(kind, messages, parameters):
    other = ONEBIT_1024 if parameters is ONEBIT_2048 else ONEBIT_2048
    with pytest.raises(MalformedMessageError, match=f"not a {kind} message of this version and parameter set"):
        PARSERS[kind].from_bytes(messages[kind], other)
    for name, message in messages.items():
        if name != kind:
            with pytest.raises(MalformedMessageError, match=f"not a {kind} message"):
                PARSERS[kind].from_bytes(message, parameters)


def test_a_table_has_one_entry_at_least_and_one_for_each_distance_below_m_at_most(messages, parameters):
    reply = Reply.from_bytes(messages["reply"], parameters)
    for entries, well_formed in ((0, False), (1, True), (parameters.slots, True), (parameters.slots + 1, False)):
        table = np.zeros((entries, 16), np.uint8)
        data = dataclasses.replace(reply, table=table).to_bytes(parameters)
        if well_formed:
            assert Reply.from_bytes(data, parameters).table.shape == (entries, 16)
        else:
            with pytest.raises(MalformedMessageError, match="does not fit its table"):
                Reply.from_bytes(data, parameters)


def test_the_quick_checks_of_the_service_agree_with_the_parsers(messages):
    check_template(messages["template"])
    check_probe(messages["probe"])
    for foreign in (b"", messages["probe"], messages["template"][:-1], b"ITG1" + messages["template"][4:]):
        with pytest.raises(MalformedMessageError, match=r"template|version"):
            check_template(foreign)
    for foreign in (b"", messages["template"], messages["probe"][:-1], b"ITG1" + messages["probe"][4:]):
        with pytest.raises(MalformedMessageError, match=r"probe|version"):
            check_probe(foreign)


@given(data=st.binary(max_size=20))
def test_any_bytes_name_a_parameter_set_or_are_malformed(data):
    try:
        assert wire.parameters_of(data) in {ONEBIT_2048, ONEBIT_1024}
    except MalformedMessageError:
        return
    assert data.startswith(b"ITG2")
    assert len(data) >= 8


def test_what_a_message_prints_is_no_secret(messages, parameters):
    shown = repr(PaddedTemplate.from_bytes(messages["template"], parameters))
    assert shown == "PaddedTemplate()"
