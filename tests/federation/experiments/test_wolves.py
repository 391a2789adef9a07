"""What a stolen wallet is worth without a face: made-up people for whom the answer is known beforehand."""

import hashlib
import json
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from scipy import stats

from federation.audit.audit import audit_scores
from federation.audit.cells import Limits, Rate
from federation.audit.comparing import compare
from federation.audit.comparisons import Comparisons, Sides
from federation.audit.report import AuditReport
from federation.audit.strings import FixedStrings, wolf_rates
from federation.audit.wolf import WolfRates
from federation.errors import MalformedMessageError, UsageError
from federation.experiments.wolves import Owner, owners_of, try_fixed_strings
from federation.onebit import CodeSeed, binary_code, hamming_distance
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from federation.verdict import Verdict
from tests.bundles import a_release
from tests.federation.audit.audits import tried

BITS = 2048


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def bits_of(cosine):
    """The Hamming distance that is expected of two vectors at this cosine."""
    return round(BITS * np.arccos(cosine) / np.pi)


def draws(seed):
    """Code seeds that are the same in every run."""
    numbers = count()
    return lambda size: hashlib.shake_256(b"%d %d" % (seed, next(numbers))).digest(size)


def owner(name, templates, images=None):
    """Somebody whose images are also what others would try."""
    return Owner(name, np.atleast_2d(templates), {"face": np.atleast_2d(templates if images is None else images)})


def rates(owners, threshold, seed=0, **options):
    strings = try_fixed_strings(owners, threshold=threshold, bits=BITS, random_bytes=draws(seed), **options)
    return wolf_rates(strings, -1.0, -threshold, 0.95)


def sides_of(names):
    """The halves as the documentation states them: in order of the SHA-256 of the names."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return order[: len(order) // 2], order[len(order) // 2 :]


# -------------------------------------------------------------------------------------------------- known answers


def test_in_a_centred_domain_no_fixed_string_does_better_than_a_stranger():
    dimension, fmr = 16, 0.1
    vectors = unit(np.random.default_rng(2).normal(size=(300, dimension)))
    # The cosine of two random directions is distributed as 2 B - 1 with B of Beta((d - 1) / 2, (d - 1) / 2).
    shape = (dimension - 1) / 2
    threshold = bits_of(2 * stats.beta(shape, shape).isf(fmr) - 1)
    found = rates([owner(f"p{number}", vector) for number, vector in enumerate(vectors)], threshold, seed=2)
    for rate in (found.mean, found.best):
        assert rate.low < fmr < rate.high
        assert rate.high < 0.16


def test_with_a_common_direction_the_mean_opens_every_wallet_and_no_image_opens_many():
    cosine, dimension = 0.8, 64
    own = np.random.default_rng(2).normal(size=(30, dimension))
    own[:, 0] = 0
    vectors = cosine * np.eye(dimension)[0] + np.sqrt(1 - cosine**2) * unit(own)
    threshold = bits_of(cosine) + 65  # everybody lies nearer to the mean, and nearly nobody to anybody else
    found = rates([owner(f"p{number}", vector) for number, vector in enumerate(vectors)], threshold)
    assert (found.mean.trials, found.people) == (30, 30)
    assert found.mean.value > 0.9
    assert found.best.value < 0.2
    assert found.mean.judge(0.1) is Verdict.FAIL


def test_the_mean_is_one_of_people_however_many_pictures_somebody_has():
    """In each half somebody has two hundred that look elsewhere. Over pictures the mean would be theirs."""
    names, (common, elsewhere) = [f"p{number}" for number in range(20)], np.eye(16)[:2]
    loud = {side[0] for side in sides_of(names)}
    owners = [owner(name, common, np.tile(elsewhere, (200, 1)) if name in loud else common) for name in names]
    found = rates(owners, bits_of(0.9))
    assert (found.mean.errors, found.mean.trials, found.people) == (20, 20, 20)


def the_best_image_on_everybody(owners, threshold):
    """What somebody would report who chooses and counts on the same people. Shares no code with the measurement."""
    seeds = {one.name: CodeSeed(hashlib.sha256(one.name.encode()).digest()) for one in owners}
    accepted = []
    for one in owners:
        image = one.strings["face"][0]
        others = [other for other in owners if other is not one]
        distances = [
            hamming_distance(*(binary_code(each, seeds[other.name], BITS) for each in (other.templates[0], image)))
            for other in others
        ]
        accepted.append(np.mean([distance <= threshold for distance in distances]))
    return max(accepted)


def two_families(names):
    """Everybody of one half lies near one direction, and of the other half near another one."""
    random, axes = np.random.default_rng(3), np.eye(64)
    return [
        owner(name, unit(axes[side] + 0.3 * unit(random.normal(size=64))))
        for side, half in enumerate(sides_of(names))
        for name in half
    ]


def test_a_string_that_fits_the_people_it_was_chosen_on_is_counted_on_others():
    owners, threshold = two_families([f"p{number}" for number in range(20)]), 500
    found = rates(owners, threshold)
    assert (found.mean.errors, found.best.errors) == (0, 0)
    assert the_best_image_on_everybody(owners, threshold) > 0.45


def test_the_halves_depend_on_names_alone_so_nobody_draws_them_again():
    owners = two_families([f"p{number}" for number in range(10)])
    one, two = (
        try_fixed_strings(people, threshold=500, bits=BITS, random_bytes=draws(seed))
        for seed, people in ((1, owners), (2, owners[::-1]))
    )

    def met(strings):
        names = strings.pairs.names
        return {(names[a], names[b]) for a, b in zip(strings.pairs.first, strings.pairs.second, strict=True)}

    assert met(one) == met(two)
    assert (one.scores != two.scores).any()  # code seeds are drawn


def test_nobodys_own_image_is_tried_on_them():
    """An image that fits its owner alone must not be chosen over one that fits others at least sometimes."""
    axes = np.eye(64)
    chosen_on, tried_on = sides_of([f"p{number}" for number in range(8)])
    # p: its image fits itself alone. q: its image fits not itself but half of r's templates. The others fit nobody.
    vectors = {
        chosen_on[0]: (axes[0], axes[0]),
        chosen_on[1]: (axes[1], axes[2]),
        chosen_on[2]: (np.stack([axes[2], axes[3]]), axes[4]),
        chosen_on[3]: (axes[5], axes[6]),
    }
    vectors |= {name: (axes[2], axes[10 + number]) for number, name in enumerate(tried_on)}
    found = rates([owner(name, *both) for name, both in vectors.items()], 100)
    assert found.best.errors == len(tried_on)


def worth(owners, seeds, threshold, string, whose):
    """Of a string: how many of those whose image it is not accept it, by share of their templates, and how near."""
    shares, distances = [], []
    for one in owners:
        if one.name != whose:
            apart = distances_of(one, seeds, string)
            shares.append(sum(distance <= threshold for distance in apart) / len(apart))
            distances.append(sum(apart) / len(apart))
    return -sum(shares) / len(shares), sum(distances) / len(distances)


def distances_of(one, seeds, string):
    return [
        hamming_distance(binary_code(template, seed, BITS), binary_code(string, seed, BITS))
        for template, seed in zip(one.templates, seeds[one.name], strict=True)
    ]


def chosen_by_hand(owners, seeds, threshold):
    """The mean over people, of one way of making strings, and the one image, that are worth most. With loops."""
    ways = sorted({way for one in owners for way in one.strings})
    means = [np.mean([one.strings[way].mean(axis=0) for one in owners if way in one.strings], axis=0) for way in ways]
    images = [(one.name, image) for one in owners for rows in one.strings.values() for image in rows if image.any()]
    return [
        min(candidates, key=lambda candidate: worth(owners, seeds, threshold, candidate[1], candidate[0]))[1]
        for candidates in ([("", mean) for mean in means], images)
    ]


def test_strings_are_chosen_by_who_accepts_and_then_by_how_near_they_lie_and_all_are_told_of_the_other_half():
    """Five people, so one half is larger; each has another number of templates, of images and of ways to make them."""
    random, names, threshold = np.random.default_rng(12), ["nora", "anna", "sven", "bert", "ida"], 830
    common, owners = np.eye(64)[0], []
    for number, name in enumerate(names):
        rows = unit(common + 1.5 * unit(random.normal(size=(2 + number, 64))))
        ways = {"probe": rows[1:], "reference": -rows[:1] if number % 2 else rows[:2]}
        if number == 3:
            ways["probe"] = np.zeros((2, 64))  # on the centre: no string
        if number == 4:
            del ways["reference"]
        owners.append(Owner(name, rows[: 1 + number % 3], ways))
    made = try_fixed_strings(owners, threshold=threshold, bits=BITS, random_bytes=draws(3))
    halves, source = sides_of(names), draws(3)
    seeds = {name: [CodeSeed(source(32)) for _ in range(1 + names.index(name) % 3)] for half in halves for name in half}
    expected, by_name = [], {one.name: one for one in owners}
    for side, (here, there) in enumerate((halves, halves[::-1]), 1):
        strings = chosen_by_hand([by_name[name] for name in here], seeds, threshold)
        for kind, string in zip(("mean", "best"), strings, strict=True):
            for name in there:
                apart = distances_of(by_name[name], seeds, string)
                expected += [(kind, f"{kind} of side {side}", name, distance) for distance in apart]
    told = [
        ("best" if best else "mean", made.pairs.names[string], made.pairs.names[who], int(score))
        for best, string, who, score in zip(made.best, made.pairs.first, made.pairs.second, made.scores, strict=True)
    ]
    assert sorted(told) == sorted(expected)
    assert len(told) == 2 * (1 + 2 + 3 + 1 + 2)


# ------------------------------------------------------------------------------------------------ camera profiles


def captures(people, images=3, seed=4):
    """A domain with a common direction that only the probes' centre takes away."""
    random, common = np.random.default_rng(seed), np.eye(32)[0]
    rows, names, profiles, digests = [], [], [], []
    for name in people:
        own = unit(random.normal(size=32) * (np.arange(32) > 0))
        for image in range(images):
            for profile in (REFERENCE, PROBE):
                rows.append(unit(0.8 * common + 0.6 * unit(own + 0.2 * unit(random.normal(size=32)))))
                names.append(name)
                profiles.append(profile)
                digests.append(f"{name} {image}")
    return EmbeddingSet(np.array(rows, dtype=np.float32), np.array(names), np.array(profiles), np.array(digests))


LOPSIDED = replace(
    a_release(), adapter=Adapter({REFERENCE: np.zeros(32), PROBE: 0.8 * np.eye(32)[0]}, None), threshold=500
)


def test_a_thief_takes_whichever_camera_profile_serves_him_best():
    owners = owners_of(captures([f"p{number}" for number in range(16)]), LOPSIDED)
    assert sorted(owners[0].strings) == sorted(
        f"{camera} through {profile}" for camera in (REFERENCE, PROBE) for profile in (REFERENCE, PROBE)
    )
    assert rates(owners, LOPSIDED.threshold).mean.value == 1.0
    honest = f"{PROBE} through {PROBE}"
    as_strangers = [replace(one, strings={honest: one.strings[honest]}) for one in owners]
    assert rates(as_strangers, LOPSIDED.threshold).mean.value < 0.1  # what the false match rate is about


def test_templates_are_of_reference_images_and_of_a_few_of_each_person():
    embeddings = captures(["p0", "p1"], images=9)
    owners = owners_of(embeddings, LOPSIDED)
    mine = embeddings.select((embeddings.people == "p0") & (embeddings.profiles == REFERENCE))
    np.testing.assert_allclose(owners[0].templates, LOPSIDED.adapt(mine.embeddings[:5], REFERENCE), atol=1e-6)
    assert sum(map(len, owners[0].strings.values())) == 2 * 2 * 9


def test_a_template_is_averaged_of_as_many_references_as_the_release_is_for():
    embeddings = captures(["p0", "p1"], images=5)
    release = replace(LOPSIDED, references=2)
    mine = embeddings.select((embeddings.people == "p0") & (embeddings.profiles == REFERENCE)).embeddings
    pairs = np.stack([(mine[0] + mine[1]) / 2, (mine[2] + mine[3]) / 2])
    pairs /= np.linalg.norm(pairs, axis=1, keepdims=True)
    np.testing.assert_allclose(owners_of(embeddings, release)[0].templates, release.adapt(pairs, REFERENCE), atol=1e-6)


def test_somebody_without_a_reference_image_is_named_as_a_fault():
    embeddings = captures(["p0", "p1"])
    probes = embeddings.select((embeddings.people != "p0") | (embeddings.profiles == PROBE))
    with pytest.raises(UsageError, match="a reference image and so a template"):
        owners_of(probes, LOPSIDED)


# ---------------------------------------------------------------------------------------------------- the trying


def test_every_template_has_a_code_seed_of_its_own():
    given = []
    source = draws(5)
    owners = [owner(f"p{number}", unit(np.random.default_rng(number).normal(size=(3, 16)))) for number in range(4)]
    try_fixed_strings(
        owners, threshold=500, bits=BITS, random_bytes=lambda size: given.append(source(size)) or given[-1]
    )
    assert len(given) == len(set(given)) == 12
    assert set(map(len, given)) == {32}


def test_decisions_are_those_of_codes_of_the_releases_length():
    owners = [owner(f"p{number}", unit(np.random.default_rng(number).normal(size=64))) for number in range(6)]
    for bits in (1024, 2048):
        strings = try_fixed_strings(owners, threshold=10, bits=bits, random_bytes=draws(6))
        assert (strings.scores == strings.scores.astype(int)).all()
        assert strings.scores.mean() == pytest.approx(bits / 2, rel=0.1)


def test_two_people_of_one_name_are_never_one_person():
    """Two organisations that both have an anna tell them apart, or nothing is measured."""
    random = np.random.default_rng(7)
    north, south = (
        [owner(name, unit(random.normal(size=16))) for name in ("anna", "bert", place)] for place in ("nora", "sven")
    )
    with pytest.raises(UsageError, match="two people have one name"):
        try_fixed_strings([*north, *south], threshold=500, bits=BITS)
    apart = [
        replace(one, name=f"{place}/{one.name}") for place, people in (("n", north), ("s", south)) for one in people
    ]
    assert rates(apart, 500).people == 6


def test_fewer_than_four_people_say_nothing():
    owners = [owner(f"p{number}", np.eye(16)[number]) for number in range(3)]
    with pytest.raises(UsageError, match="need 4 people"):
        try_fixed_strings(owners, threshold=500, bits=BITS)


def test_an_image_on_the_centre_is_no_string():
    nothing = np.zeros(16)
    owners = [owner(f"p{n}", np.eye(16)[n], np.stack([nothing, np.eye(16)[n]])) for n in range(4)]
    assert rates(owners, 10).best.errors == 0
    with pytest.raises(UsageError, match="every vector is zero"):
        rates([replace(one, strings={"face": nothing[None]}) for one in owners], 10)


# ------------------------------------------------------------------------------------------------------ intervals


def test_many_templates_of_a_person_do_not_narrow_the_bounds():
    one, many = (wolf_rates(tried(4, each=each), -1, -1, 0.95).mean for each in (1, 50))
    assert one.value == many.value == 0.1
    assert many.effective <= 40
    assert many.high == pytest.approx(one.high, rel=0.05)
    none = wolf_rates(tried(0, each=50), -1, -1, 0.95).mean
    assert none.high == pytest.approx(1 - 0.05 ** (1 / 40), rel=1e-4)


def test_the_upper_bound_covers_the_true_rate_of_people_and_one_that_counts_templates_does_not():
    random, truth, runs = np.random.default_rng(8), 0.1, 300
    missed = naive = 0
    for accepted in random.binomial(40, truth, runs):
        rate = wolf_rates(tried(accepted, each=5), -1, -1, 0.95).mean
        missed += rate.high < truth
        naive += stats.binomtest(int(5 * accepted), 200).proportion_ci(0.90, method="exact").high < truth
    assert missed / runs <= 0.07
    assert naive / runs > 0.12


@pytest.mark.parametrize(
    ("errors", "people", "message"),
    [(0, 3, "at least 4 people"), (0, 99, "people are what counts"), (0, 10, "people are what counts")],
)
def test_rates_that_count_templates_for_people_are_none(errors, people, message):
    with pytest.raises(UsageError, match=message):
        WolfRates(*[Rate(errors, 50, 11.0, 0.0, 0.2)] * 2, people)


# ------------------------------------------------------------------------------------------- strings of anybody


def changed(**sides):
    good = tried(0, people=8)
    first = [good.pairs.names[code] for code in good.pairs.first]
    second = [good.pairs.names[code] for code in good.pairs.second]
    first, second, best = (
        sides[name](list(column)) if name in sides else column
        for name, column in (("string", first), ("owner", second), ("best", good.best.tolist()))
    )
    return FixedStrings(good.scores, np.array(best), Sides.of(first, second))


def put(position, value):
    return lambda column: [*column[:position], value, *column[position + 1 :]]


def called(old, new):
    return lambda column: [new if name == old else name for name in column]


FAULTS = {
    "a person meets both strings": ({"owner": put(0, "p1")}, "1 people meet both strings of the kind mean"),
    "one string for all": ({"string": called("best 0", "best 1")}, "there are 1 strings of the kind best"),
    "three strings": ({"string": put(0, "mean 3")}, "there are 3 strings of the kind mean"),
    "a string that is somebody": ({"string": called("mean 0", "p1")}, "nobody's face"),
    "a string of two kinds": ({"best": put(0, True)}, "called mean and best"),
    "uneven halves": ({"string": lambda names: ["mean 1"] * 4 + names[4:]}, "halves of at least 4"),
    "others for the best image": ({"owner": put(8, "p99")}, "on the same people"),
    "no name": ({"owner": put(0, "")}, "have names"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_strings_that_were_not_chosen_on_one_half_and_tried_on_the_other_are_refused(fault):
    sides, message = FAULTS[fault]
    with pytest.raises(UsageError, match=message):
        changed(**sides)


@pytest.mark.parametrize("more", ["mean", "best"])
def test_one_more_person_meets_both_kinds_of_string_or_none(more):
    """Halves of 4 and 5 will do, of the same nine people."""
    good = tried(0, people=8)
    kinds = {kind: (f"{kind} 0", kind == "best") for kind in ("mean", "best")}

    def with_nine(*added):
        first = [good.pairs.names[code] for code in good.pairs.first] + [kinds[kind][0] for kind in added]
        second = [good.pairs.names[code] for code in good.pairs.second] + ["p8"] * len(added)
        best = [*good.best.tolist(), *(kinds[kind][1] for kind in added)]
        return FixedStrings(np.zeros(len(best)), np.array(best), Sides.of(first, second))

    assert len(with_nine(*kinds).owners) == 9
    with pytest.raises(UsageError, match="on the same people"):
        with_nine(more)


def test_halves_of_three_and_five_are_none():
    good = tried(0, people=8)
    first = [good.pairs.names[code] for code in good.pairs.first]
    moved = [name[:-1] + ("1" if at % 8 == 0 else name[-1]) for at, name in enumerate(first)]
    second = [good.pairs.names[code] for code in good.pairs.second]
    with pytest.raises(UsageError, match="are tried on 3 and 5 people: halves"):
        FixedStrings(good.scores, good.best, Sides.of(moved, second))


def test_a_score_that_is_no_number_is_refused():
    good = tried(0, people=8)
    with pytest.raises(UsageError, match="not a finite number"):
        FixedStrings(np.full(16, np.nan), good.best, good.pairs)
    with pytest.raises(UsageError, match="one entry for each"):
        FixedStrings(good.scores[1:], good.best, good.pairs)


def test_the_repr_shows_no_score_and_no_name():
    assert repr(tried(0, people=8)) == "FixedStrings(16 comparisons, 8 people)"
    assert "0." not in repr(owner("p", np.full(16, 0.25)))


# ------------------------------------------------------------------------------------------------------ the report


def comparisons(people=40):
    """Everybody against themselves and a neighbour, without an error."""
    names = [f"p{number}" for number in range(people)] * 25
    others = [f"p{(number + 1) % people}" for number in range(people)] * 25
    return Comparisons.of(
        [0.0] * len(names) + [9.0] * len(names),
        [True] * len(names) + [False] * len(names),
        {"group": ["all"] * 2 * len(names)},
        people=(names * 2, names + others),
    )


def report(strings=None, **options):
    defaults = {"limits": Limits(0.01, 0.1), "threshold": 1.0, "distance": True, "replicates": 0}
    return audit_scores(comparisons(), strings=strings, **defaults | options)


def test_what_nobody_measured_is_no_pass():
    plain = report()
    assert (plain.wolf, plain.wolf_verdict) == (None, Verdict.INSUFFICIENT)
    assert json.loads(plain.to_bytes())["wolf"] == "not measured"
    assert AuditReport.from_bytes(plain.to_bytes()) == plain


@pytest.mark.parametrize(("accepted", "verdict"), [(0, "PASS"), (2, "INSUFFICIENT"), (20, "FAIL")])
def test_the_means_bounds_are_judged_by_ten_times_the_false_match_rate(accepted, verdict):
    found = report(tried(accepted))
    assert found.wolf_limit == 0.1
    assert found.wolf_verdict.value == verdict
    assert found.verdict is report().verdict  # of groups: a trial may be served whatever a string is accepted at
    assert found.outcome is Verdict.worst([found.verdict, found.wolf_verdict])
    assert AuditReport.from_bytes(found.to_bytes()) == found


def test_the_limit_is_of_the_rate_that_is_stated_where_the_threshold_was_found_for_it():
    assert report(tried(0), threshold=None, stated_fmr=0.002).wolf_limit == 0.02


def test_each_kind_of_string_has_rates_of_its_own_and_words_for_them():
    few, many = tried(2), tried(20)
    mixed = FixedStrings(np.where(few.best, many.scores, few.scores), few.best, few.pairs)
    found = report(mixed).wolf
    assert (found.mean.errors, found.best.errors, found.people) == (2, 20, 40)
    mean, best = (f"{100 * r.value:.3g} % ({100 * r.low:.3g} to {100 * r.high:.3g})" for r in (found.mean, found.best))
    assert found.text == f"{mean} by the domain's mean, {best} by the best image, of 40 people"


@pytest.mark.parametrize("kind", ["mean", "best"])
def test_the_rate_of_each_string_lies_inside_its_bounds(kind):
    good = dict.fromkeys(("mean", "best"), Rate(5, 50, 10.0, 0.05, 0.2))
    assert WolfRates(**good, people=10).people == 10
    for wrong in (Rate(5, 50, 10.0, 0.11, 0.2), Rate(5, 50, 10.0, 0.05, 0.09)):
        with pytest.raises(UsageError, match="lies inside its bounds"):
            WolfRates(**good | {kind: wrong}, people=10)


@pytest.mark.parametrize("kind", ["mean", "best"])
def test_either_string_was_tried_on_everybody_and_people_are_what_counts(kind):
    good = dict.fromkeys(("mean", "best"), Rate(5, 50, 10.0, 0.05, 0.2))
    for wrong in (Rate(5, 50, 11.0, 0.05, 0.2), Rate(1, 9, 9.0, 0.05, 0.2)):
        with pytest.raises(UsageError, match="tried on every person, and people are what counts"):
            WolfRates(**good | {kind: wrong}, people=10)


def test_a_comparison_of_strings_says_both_numbers_and_a_change_within_the_bound_is_none():
    before, after, worse = report(tried(2)), report(tried(3)), report(tried(20))
    high = f"{before.wolf.mean.high:.4g}"
    for new, rate, verdict, word in ((after, "0.075", Verdict.PASS, "within"), (worse, "0.5", Verdict.FAIL, "above")):
        changes = {change.rate: change for change in compare(before, new).changes}
        for kind in ("mean", "best"):
            change = changes[f"wolf_{kind}"]
            assert change.verdict is verdict
            assert change.reason == (
                f"the {kind} string without a face is accepted at {rate}, {word} the upper "
                f"bound {high} of the old report"
            )
    gone = compare(before, report()).changes
    assert [change.verdict for change in gone if "wolf" in change.rate] == [Verdict.INSUFFICIENT] * 2


def test_scores_of_similarity_are_accepted_above_the_threshold():
    strings = tried(4)
    turned = FixedStrings(-strings.scores, strings.best, strings.pairs)
    one, other = report(strings).wolf, wolf_rates(turned, 1.0, -1.0, 0.95)
    assert one == other


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.update(wolf_verdict="PASS"),
        lambda value: value["wolf"]["mean"].update(errors=1),
        lambda value: value["wolf"]["mean"].update(errors="20"),
        lambda value: value["wolf"]["best"].update(low="0.9", high="0.1"),
        lambda value: value["wolf"].update(people=41),
        lambda value: value["wolf"].update(people=True),
        lambda value: value["wolf"].update(surprise=1),
        lambda value: value["wolf"].pop("best"),
        lambda value: value.update(wolf="not measured"),
        lambda value: value.update(wolf=[]),
        lambda value: value.pop("wolf"),
    ],
    ids=["verdict", "errors", "text", "bounds", "people", "truth", "field", "half", "hidden", "list", "gone"],
)
def test_changed_rates_of_strings_are_refused(damage):
    value = json.loads(report(tried(20, people=40)).to_bytes())
    damage(value)
    with pytest.raises(MalformedMessageError, match="audit report"):
        AuditReport.from_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def test_strings_are_tried_on_people_of_this_audit():
    with pytest.raises(UsageError, match="on 2 people who are in no comparison"):
        report(tried(0, people=42))
    with pytest.raises(UsageError, match="have to name them"):
        audit_scores(
            Comparisons.of([0.0], [True], {"g": ["a"]}), strings=tried(0), limits=Limits(0.1, 0.1), threshold=1.0
        )
    someone = tried(0, people=8)
    renamed = [name if name != "mean 0" else "p9" for name in someone.pairs.names]
    named = FixedStrings(someone.scores, someone.best, Sides(tuple(renamed), someone.pairs.first, someone.pairs.second))
    with pytest.raises(UsageError, match="name of a person"):
        report(named)


def test_an_audit_that_is_kinder_to_thieves_than_the_last_one_is_a_step_back():
    few, many = report(tried(2)), report(tried(20))
    assert compare(few, few).verdict is Verdict.PASS
    worse = compare(few, many)
    assert worse.verdict is Verdict.FAIL
    assert {change.rate: change.verdict for change in worse.changes if "wolf" in change.rate} == {
        "wolf_mean": Verdict.FAIL,
        "wolf_best": Verdict.FAIL,
    }
    assert "the mean string without a face is accepted at 0.5, above" in worse.changes[2].reason
    assert compare(many, few).verdict is Verdict.PASS
    assert compare(few, report()).verdict is Verdict.INSUFFICIENT
    assert compare(report(), few).verdict is Verdict.PASS
