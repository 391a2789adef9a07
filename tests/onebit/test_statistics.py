"""Statistics of the one-bit match: what is masked is uniform, and equal decisions look equal whatever the score.

Every test rejects at 1e-6, and is shown to reject when the guard that it watches is removed. A is not among those: B
alone makes the masked coefficients uniform, and what A's removal breaks is shown as a forgery.
"""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from client.datasets import face_folder, orl_faces
from client.faces import FaceAligner
from client.models import load_recogniser
from federation.onebit import BITS, CodeSeed, binary_code, hamming_distance, wire
from federation.onebit.matcher import prepare
from federation.onebit.transcript import PadFunction
from tests.onebit import variants
from tests.onebit.variants import (
    HEAD,
    Q0,
    SEAL,
    SLOTS,
    N,
    T,
    answer,
    draw,
    evaluated,
    padded,
    slot_values,
)

SIGNIFICANCE = 1e-6
TAU = 63


def uniform_p(values, modulus, bins=64):
    """Chi-square p-value of the hypothesis that integers are uniform below `modulus`."""
    edges = np.linspace(0, modulus, bins + 1)
    return stats.chisquare(np.histogram(np.asarray(values, float), edges)[0]).pvalue


# ---------------------------------------------------------------------- masks


def masked_heads(wallet, device, reference, codes, **weakened):
    """(sessions, 4): (y_0..y_3) as the device decrypts them."""
    return np.array(
        [
            wallet.masked_distance(answer(reference, draw(reference, **weakened), device.encrypt(code), 0).reply)
            for code in codes
        ]
    )


def test_the_four_masked_coefficients_are_uniform_at_every_distance(wallet, device, reference, flipped):
    for distance in (0, 1, BITS // 2):
        values = masked_heads(wallet, device, reference, [flipped(distance)] * 40)
        assert uniform_p(values, T, bins=16) > SIGNIFICANCE
    unmasked = masked_heads(wallet, device, reference, [flipped(0)] * 10, offset=np.zeros(N, np.uint64))
    assert uniform_p(unmasked, T, bins=16) < SIGNIFICANCE


def slot_correlations(wallet, reference, probe, traits, masks):
    """z-scores of the slots of E, as numbers on the circle, with each trait (slots,) of template or probe."""
    values = slot_values(wallet.decrypt(evaluated(reference, masks, probe)))
    circle = np.concatenate([np.cos(2 * np.pi * values / T), np.sin(2 * np.pi * values / T)])
    return np.array([[np.corrcoef(row, trait)[0, 1] * np.sqrt(SLOTS) for trait in traits] for row in circle])


def test_no_masked_coefficient_knows_template_or_probe(wallet, device, reference, template_code, flipped):
    """All 8192 coefficients before the switch, of which the reply shows four."""
    code = flipped(900)
    probe = device.encrypt(code)
    traits = [slot_values(SEAL.pack(bits))[0] for bits in (template_code, code, template_code ^ code)]
    sessions = [draw(reference) for _ in range(3)]
    coefficients = [wallet.decrypt(evaluated(reference, masks, probe)) for masks in sessions]
    assert uniform_p(np.concatenate(coefficients), T) > SIGNIFICANCE
    scores = np.concatenate([slot_correlations(wallet, reference, probe, traits, masks) for masks in sessions])
    limit = stats.norm.isf(SIGNIFICANCE / 2 / scores.size)
    assert abs(scores).max() < limit

    bare = draw(reference, offset=padded(sessions[0].offset[:HEAD]))
    assert abs(slot_correlations(wallet, reference, probe, traits, bare)).max() > limit


def test_without_b_equal_codes_leave_no_mask_at_all(wallet, device, reference, template_code):
    bare = draw(reference, offset=np.zeros(N, np.uint64))
    coefficients = wallet.decrypt(evaluated(reference, bare, device.encrypt(template_code)))
    assert uniform_p(coefficients, T) < SIGNIFICANCE


# ---------------------------------------------------------------------- replies for equal decisions


def observed(wallet, reply, token):
    """Everything of a reply that a device can see, or work out with its key, as named samples of numbers."""
    parsed = wire.Reply.from_bytes(reply)
    y = wallet.masked_distance(reply)
    pad = np.frombuffer(PadFunction(b"transcript")(np.array(y, "<u4").tobytes()), np.uint8)
    opened = np.flatnonzero(((parsed.table ^ pad) == np.frombuffer(token, np.uint8)).all(axis=1))
    return {
        "length": [len(reply)],
        "head": parsed.head,
        "second": parsed.second[::64],
        "third": parsed.third[::64],
        "table": parsed.table[::8].ravel(),
        "digest": list(parsed.token_digest),
        "opened entry": opened,
        "y": y,
        "ring head": wallet.head_phase(reply).astype(float),
        "whole residues": [float(parsed.second.astype(float).mean()), float(parsed.third.astype(float).mean())],
    }


def compare_distances(wallet, device, reference, flipped, sessions, reply_for):
    """{what: p-value of the hypothesis that distances 0 and tau give one distribution}."""
    samples = ({}, {})
    for sample, distance in zip(samples, (0, TAU), strict=True):
        for _ in range(sessions):
            challenge = reply_for(reference, device.encrypt(flipped(distance)))
            for name, values in observed(wallet, challenge.reply, challenge.token).items():
                sample.setdefault(name, []).extend(float(value) for value in values)
    return {name: stats.ks_2samp(samples[0][name], samples[1][name]).pvalue for name in samples[0]}


def test_accepting_replies_do_not_show_the_distance(wallet, device, reference, flipped):
    p_values = compare_distances(
        wallet, device, reference, flipped, 40, lambda known, probe: prepare(known, TAU).answer(probe, b"transcript")
    )
    assert {name for name, p in p_values.items() if p < SIGNIFICANCE} == set()


def test_without_the_shuffle_the_opened_entry_is_the_distance(wallet, device, reference, flipped):
    p_values = compare_distances(
        wallet,
        device,
        reference,
        flipped,
        15,
        lambda known, probe: answer(known, draw(known), probe, TAU, shuffled=False),
    )
    assert {name for name, p in p_values.items() if p < SIGNIFICANCE} == {"opened entry"}


def test_what_the_server_receives_for_one_decision_does_not_depend_on_the_score(device, reference, flipped):
    """It receives a ciphertext and its own token, or its own token's absence."""
    residues = {}
    for distance in (0, TAU, TAU + 1, BITS):
        probe = device.encrypt(flipped(distance))
        challenge = prepare(reference, TAU).answer(probe, b"transcript")
        assert device.open_reply(challenge.reply, b"transcript") == (challenge.token if distance <= TAU else None)
        residues[distance] = wire.SeededMessage.from_bytes(probe, wire.Kind.CIPHERTEXT).residues[0].astype(float)
    assert stats.ks_2samp(residues[0], residues[TAU]).pvalue > SIGNIFICANCE
    assert uniform_p(residues[BITS], Q0) > SIGNIFICANCE


def test_every_part_of_a_reply_is_uniform(device, reference, flipped):
    replies = [
        wire.Reply.from_bytes(prepare(reference, TAU).answer(device.encrypt(flipped(distance)), b"t").reply)
        for distance in [0, TAU, BITS] * 10
    ]
    for name in ("head", "second", "third"):
        assert uniform_p(np.concatenate([getattr(reply, name) for reply in replies]), Q0, bins=12) > SIGNIFICANCE
    assert uniform_p(np.concatenate([reply.table.ravel() for reply in replies]), 256) > SIGNIFICANCE


# ---------------------------------------------------------------------- renewed templates


def linkage(mated, non_mated, bins=20):
    """D_sys of Gomez-Barrero et al. (IEEE TIFS 2018), section IV-B: 0 cannot be linked, 1 always. Equal priors.

    The local measure at a score s is 2 LR / (1 + LR) - 1 where LR = p(s | mated) / p(s | non-mated) exceeds 1, else 0;
    the global one is its mean over mated scores. On finite samples it is biased upward, hence the permutation test.
    """
    edges = np.histogram_bin_edges(np.concatenate([mated, non_mated]), bins)
    p, q = (np.histogram(scores, edges)[0] / len(scores) for scores in (mated, non_mated))
    with np.errstate(divide="ignore", invalid="ignore"):
        local = np.where(p > q, 2 * p / (p + q) - 1, 0)
    return float(np.sum(local * p))


def linkage_p(mated, non_mated, permutations=999):
    """Share of relabelled samples whose D_sys is at least that of the true labels."""
    random = np.random.default_rng(0)
    pooled, seen = np.concatenate([mated, non_mated]), linkage(mated, non_mated)
    shuffles = (random.permutation(pooled) for _ in range(permutations))
    at_least = sum(linkage(s[: len(mated)], s[len(mated) :]) >= seen for s in shuffles)
    return (1 + at_least) / (1 + permutations)


def synthetic_faces(people=30, captures=2, dimension=128):
    """(people, captures, dimension): captures of one person lie at about 35 degrees."""
    random = np.random.default_rng(6)
    faces = random.normal(size=(people, 1, dimension))
    return faces + 0.45 * random.normal(size=(people, captures, dimension))


def template_distances(faces, renewed):
    """Distances of the templates of two captures under two seeds, or one: of one person, and of two people."""
    first = CodeSeed(bytes(32))
    second = CodeSeed(b"\1" * 32) if renewed else first
    old = [binary_code(face[0], first) for face in faces]
    new = [binary_code(face[1], second) for face in faces]
    distances = np.array([[hamming_distance(a, b) for b in new] for a in old], float)
    same = np.eye(len(faces), dtype=bool)
    return distances[same], distances[~same]


def test_renewed_templates_of_one_face_cannot_be_linked():
    assert linkage_p(*template_distances(synthetic_faces(), renewed=True)) > 0.01


def test_without_a_new_seed_two_templates_of_one_face_are_linked():
    mated, non_mated = template_distances(synthetic_faces(), renewed=False)
    assert linkage(mated, non_mated) > 0.95
    assert linkage_p(mated, non_mated) <= 0.001


def orl_embeddings():
    """(40, 2, 128): two images of everybody in the ORL faces (AT&T Laboratories Cambridge), centred."""
    aligner, recogniser = FaceAligner(), load_recogniser()
    people = face_folder(orl_faces()).people.values()
    chips = np.stack([aligner.chip(image.read_bytes()) for images in people for image in images[:2]])
    embeddings = recogniser.embed(chips).astype(float)
    return (embeddings - embeddings.mean(axis=0)).reshape(-1, 2, embeddings.shape[1])


@pytest.mark.slow
def test_renewal_unlinks_templates_of_real_faces():
    faces = orl_embeddings()
    assert linkage_p(*template_distances(faces, renewed=True)) > 0.01
    mated, non_mated = template_distances(faces, renewed=False)
    assert linkage(mated, non_mated) > 0.8
    assert linkage_p(mated, non_mated) <= 0.001


def test_the_linkage_measure_knows_its_ends():
    zeros, ones = np.zeros(50), np.ones(50)
    assert linkage(zeros, zeros) == 0
    assert linkage(zeros, ones) == 1


# ---------------------------------------------------------------------- the index


def test_the_table_of_guards_names_real_tests():
    named = set(re.findall(r"test_\w+", variants.__doc__))
    sources = (path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    real = {
        node.name for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
    }
    assert named
    assert named <= real
