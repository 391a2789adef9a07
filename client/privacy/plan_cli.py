"""`intaglio privacy plan`: from a promise to noise and back, and what both mean in the hands of an attacker."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.terminal import JsonOption
from federation.errors import UsageError
from federation.promise import FALSE_ACCUSATIONS, NOBODY_ASKED, percent_up
from federation.rates import exact_percent

if TYPE_CHECKING:
    from federation.privacy.plan import PrivacyPlan
    from federation.privacy.planning import Circumstance, Exposure

# The accountant takes seconds to load: commands import it when they run.


class Recipe(StrEnum):
    """What a run asks for before the threshold."""

    MOMENTS = "moments"
    SCALES = "scales"


EpsilonOption = Annotated[
    float | None, typer.Option("--epsilon", help="For each person, all rounds.", show_default="8")
]
NoiseOption = Annotated[
    float | None, typer.Option("--noise-multiplier", help="Of one round, instead of --epsilon: says what it is worth.")
]
DeltaOption = Annotated[float, typer.Option("--delta", help="Probability that the promise fails; below 1/people.")]
PeopleOption = Annotated[int, typer.Option("--people", min=2, help="Who train, over all organisations.")]
OrganisationsOption = Annotated[int, typer.Option("--organisations", min=2)]
DirectionsOption = Annotated[
    int, typer.Option("--directions", min=2, max=1024, help="Of an embedding that the recogniser uses.")
]
ColludersOption = Annotated[int, typer.Option("--colluders", min=0, help="Organisations that may help a curious one.")]
DropoutsOption = Annotated[int, typer.Option("--dropouts", min=0, help="Organisations that may leave a round.")]
RecipeOption = Annotated[Recipe, typer.Option("--recipe", help="What a run asks for before the threshold.")]
StepsOption = Annotated[int, typer.Option("--steps", min=1, max=64, help="Of the recipe scales.")]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="Runs on the same people, all together.")]


@dataclass(frozen=True)
class Federation:
    """Who takes part, and what they are asked: everything of a plan but its promise."""

    delta: float
    people: int
    organisations: int
    directions: int
    colluders: int
    dropouts: int
    steps: int

    def plan(self, epsilon: float) -> PrivacyPlan:
        """Of one round.

        Raises:
            UsageError: no such plan can be.
        """
        from federation.privacy.plan import PrivacyPlan  # noqa: PLC0415 - see the top

        tuned = 0
        if self.steps:
            from federation.recognition.mobilefacenet import TUNABLE as tuned  # noqa: N811, PLC0415 - see the top
        return PrivacyPlan.for_epsilon(
            epsilon,
            delta=self.delta,
            people=self.people,
            organisations=self.organisations,
            dimension=self.directions,  # of the others nobody is asked anything
            directions=self.directions,
            colluders=self.colluders,
            dropouts=self.dropouts,
            tuned=tuned,
            steps=self.steps,
        )


def plan_of(
    epsilon: float | None, noise_multiplier: float | None, rounds: int, federation: Federation
) -> tuple[float, PrivacyPlan]:
    """The promise for all rounds together, and the plan of one round."""
    from federation.privacy.planning import epsilon_of_releases, noise_multiplier_for  # noqa: PLC0415 - see the top

    delta = federation.delta
    if noise_multiplier is not None:
        if epsilon is not None:
            raise UsageError("choose --epsilon or --noise-multiplier; each follows from the other")
        one = _rounded_up(epsilon_of_releases(noise_multiplier, delta))
        promise = _rounded_up(epsilon_of_releases(noise_multiplier, delta, releases=rounds))
        return promise, federation.plan(one)
    promise = 8.0 if epsilon is None else epsilon
    if rounds == 1:
        return promise, federation.plan(promise)
    # Rounded down, so that it can be typed into a run's configuration and the rounds still keep the promise.
    one = _rounded_down(epsilon_of_releases(noise_multiplier_for(promise, delta, releases=rounds), delta))
    while epsilon_of_releases(federation.plan(one).noise_multiplier, delta, releases=rounds) > promise:
        one -= 0.001
    return promise, federation.plan(one)


def privacy_plan(
    epsilon: EpsilonOption = None,
    noise_multiplier: NoiseOption = None,
    at_most: Annotated[
        str | None, typer.Option(help="Share of the members that an attacker may find, such as 5%, instead of both.")
    ] = None,
    false_accusations: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Share of the innocents that such an attacker accuses.")
    ] = FALSE_ACCUSATIONS,
    prior: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Share of members among the suspects, before anybody looks.")
    ] = 0.01,
    evaluation_epsilon: Annotated[
        float | None, typer.Option(help="Of a private evaluation of the same people, which is counted, too.")
    ] = None,
    delta: DeltaOption = 1e-5,
    people: PeopleOption = 24,
    organisations: OrganisationsOption = 4,
    directions: DirectionsOption = 58,
    colluders: ColludersOption = 1,
    dropouts: DropoutsOption = 0,
    recipe: RecipeOption = Recipe.MOMENTS,
    steps: StepsOption = 4,
    rounds: RoundsOption = 1,
    images: Annotated[int, typer.Option(min=1, help="Of one person, for the last table.")] = 10,
    *,
    as_json: JsonOption = False,
) -> None:
    """From a promise to noise, or from noise to a promise, and what each means in the hands of an attacker.

    Needs: nothing. Writes: nothing.

    Example: intaglio privacy plan --epsilon 8 --people 300
    """
    federation = Federation(
        delta, people, organisations, directions, colluders, dropouts, steps if recipe is Recipe.SCALES else 0
    )
    evaluation = _evaluation(evaluation_epsilon, delta)
    if at_most is not None:
        if epsilon is not None or noise_multiplier is not None:
            raise UsageError("choose --at-most, --epsilon or --noise-multiplier; each follows from the others")
        made = _plan_at_most(_share(at_most), false_accusations, rounds, federation, evaluation)
    else:
        made = plan_of(epsilon, noise_multiplier, rounds, federation)
    meaning = _Meaning(*made, federation, rounds, evaluation, (false_accusations, prior), images)
    if as_json:
        typer.echo(json.dumps(meaning.facts(), indent=1))
    else:
        meaning.show(Console(highlight=False))


def _evaluation(epsilon: float | None, delta: float) -> tuple[float, ...]:
    """Noise multiplier of a private evaluation, where there is to be one."""
    if epsilon is None:
        return ()
    from federation.privacy.planning import noise_multiplier_for  # noqa: PLC0415 - see the top

    return (noise_multiplier_for(epsilon, delta),)


def _share(text: str) -> float:
    """A share from ``5%`` or ``0.05``."""
    try:
        share = float(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise UsageError(f"a share of the members is written 5% or 0.05, not {text}")
    return share


def _plan_at_most(
    at_most: float, false_accusations: float, rounds: int, federation: Federation, evaluation: tuple[float, ...]
) -> tuple[float, PrivacyPlan]:
    """The promise with the largest epsilon of a thousandth's grid under which no attacker finds more, and its plan.

    Raises:
        UsageError: the evaluation alone lets an attacker find more, or no epsilon in range is so small.
    """
    from federation.privacy.planning import epsilon_of_releases  # noqa: PLC0415 - see the top
    from federation.privacy.tradeoff import noise_for_detected, trade_off  # noqa: PLC0415 - see the top

    precision = noise_for_detected(at_most, false_accusations) ** -2 - sum(noise**-2 for noise in evaluation)
    if precision <= 0:
        raise UsageError("the evaluation alone lets an attacker find more; plan a smaller --evaluation-epsilon")
    promise = _rounded_down(epsilon_of_releases(1 / math.sqrt(precision), federation.delta))
    while True:
        if promise <= 0:
            raise UsageError(f"no epsilon keeps attackers below {at_most:g} at delta {federation.delta:g}")
        made = plan_of(promise, None, rounds, federation)
        released = made[1].noise_multipliers * rounds + evaluation
        if not released or trade_off(released).rates(false_accusations).detected <= at_most:
            return made
        promise = round(promise - 0.001, 3)


@dataclass(frozen=True)
class _Meaning:
    """A plan, and what it means.

    Attributes:
        promise: epsilon of all rounds.
        plan: of one of them.
        federation: who takes part.
        rounds: on the same people.
        evaluation: noise multiplier of a private evaluation, where there is one.
        attacker: share of innocents that it accuses, and share of members among its suspects.
        images: of one person, for the last table.
    """

    promise: float
    plan: PrivacyPlan
    federation: Federation
    rounds: int
    evaluation: tuple[float, ...]
    attacker: tuple[float, float]
    images: int

    @property
    def released(self) -> tuple[float, ...]:
        """Noise multipliers of everything that is released about one person."""
        return self.plan.noise_multipliers * self.rounds + self.evaluation

    @cached_property
    def everybody(self) -> tuple[Circumstance, ...]:
        """Whom it means what; nobody where nothing is released."""
        from federation.privacy.planning import circumstances  # noqa: PLC0415 - see the top

        if not self.released:
            return ()
        return circumstances(self.released, self.federation.delta, false_accusations=self.attacker[0])

    @cached_property
    def accused(self) -> float | None:
        """Of those who are accused, the largest share that are members."""
        from federation.privacy.tradeoff import trade_off  # noqa: PLC0415 - see the top

        accuses, prior = self.attacker
        return trade_off(self.released).precision(accuses, prior=prior) if self.released else None

    @cached_property
    def exposures(self) -> tuple[Exposure, ...]:
        """What each party sees of one round."""
        from federation.privacy.planning import exposures  # noqa: PLC0415 - see the top

        return exposures(self.plan)

    @cached_property
    def as_images(self) -> dict[int, float]:
        """What the promise would be to a person if it were for an image."""
        from federation.privacy.gaussian import epsilon_of_a_person  # noqa: PLC0415 - see the top

        counts = sorted({1, 2, 5, self.images})
        return {count: epsilon_of_a_person(self.promise, self.federation.delta, count) for count in counts}

    def facts(self) -> dict[str, object]:
        """As `--json` prints it."""
        from federation.privacy.plan import epsilon_of_gaussians  # noqa: PLC0415 - see the top
        from federation.privacy.planning import epsilon_of_releases  # noqa: PLC0415 - see the top

        plan, federation = self.plan, self.federation
        share, total = (plan.noise_with(plan.noise_multiplier, count) for count in (1, federation.organisations))
        of_what, noise = ("gradient", plan.scales_noise_norm) if plan.tuned else ("centre", plan.centre_noise_norm)
        all_rounds = epsilon_of_releases(plan.noise_multiplier, federation.delta, releases=self.rounds)
        return {
            "epsilon": self.promise,
            "delta": federation.delta,
            "rounds": self.rounds,
            "epsilon_of_one_round": plan.epsilon,
            "epsilon_of_all_rounds": all_rounds,
            "epsilon_of_everything": epsilon_of_gaussians(self.released, federation.delta),
            "attacks": self.everybody[0].attacks.to_json() if self.everybody else None,
            "members_among_the_accused": self.accused,
            "circumstances": [asdict(one) for one in self.everybody],
            "noise_multiplier_of_one_round": plan.noise_multiplier,
            "releases_of_one_round": dict(plan.events),
            "noise_share_of_one_organisation": share,
            "noise_in_the_total": total,
            "epsilon_in_two_organisations": max([self.as_images[2], *(one.epsilon for one in self.everybody[1:2])]),
            "adapts": plan.adaptation.value,
            "checks_threshold": plan.checks_threshold,
            f"noise_on_the_{of_what}": noise,
            "noise_on_a_share_of_distances": plan.share_noise,
            "observers": [
                asdict(seen) | {"epsilon": seen.epsilon if math.isfinite(seen.epsilon) else None}
                for seen in self.exposures
            ],
            "epsilon_of_a_person_if_images_were_the_unit": self.as_images,
        }

    def show(self, console: Console) -> None:
        """For people to read: first what is promised and what that means, then how."""
        plan, facts = self.plan, self.facts()
        releases = ", ".join(f"{name} {noise:.3f}" for name, noise in plan.events)
        gate = (
            f"planned noise on the average gradient {plan.scales_noise_norm:.2f} clips, deployed up to 0.1"
            if plan.tuned
            else f"planned noise on the centre {plan.centre_noise_norm:.2f}, learnt up to 0.4 from 24 people"
        )
        people = f"for each person, add or remove one, {'all rounds together' if self.rounds > 1 else 'the whole run'}"
        share, total = facts["noise_share_of_one_organisation"], facts["noise_in_the_total"]
        spent = facts["epsilon_of_all_rounds"]
        checked = "checked by the people" if plan.checks_threshold else "the public one"
        lines = (
            ("promise", f"epsilon {self.promise:g} at delta {self.federation.delta:g} {people}"),
            *self._words(),
            (
                "rounds",
                f"{self.rounds}, each with epsilon {plan.epsilon:g}; the accountant's total is {spent:.3f}",
            ),
            ("noise", f"multiplier {plan.noise_multiplier:.3f} a round ({releases})"),
            ("shares", f"each of {plan.organisations} organisations adds {share:.3f}; the total carries {total:.3f}"),
            ("adapts", f"{plan.adaptation.value}; {gate}"),
            (
                "tau",
                f"{checked}; planned noise on a share of distances {plan.share_noise:.3f}, up to 0.09 from 60 people",
            ),
        )
        for name, words in lines:
            console.print(f"{name:>7}  {words}", markup=False, soft_wrap=True)
        if self.everybody:
            console.print(self._table_of_everybody())
        table = Table("who looks", "at what", "noise left", "epsilon", title="One round, seen by")
        for seen in self.exposures:
            left = "no protection" if math.isinf(seen.epsilon) else _shown(seen.epsilon)
            table.add_row(seen.observer, seen.sees, f"{seen.noise_multiplier:.3f}", left)
        console.print(table)
        title = f"If epsilon {self.promise:g} were for an image"
        table = Table("images of a person", "epsilon of the person", title=title)
        for count, of_person in self.as_images.items():
            table.add_row(str(count), f"{of_person:.1f}")
        console.print(table)

    def _words(self) -> Iterator[tuple[str, str]]:
        """What the promise means."""
        if not self.everybody:
            yield "means", f"{NOBODY_ASKED} Nothing is charged: it could not help."
            return
        if self.evaluation:
            yield "and", f"a private evaluation; everything together has epsilon {_shown(self.everybody[0].epsilon)}"
        yield "means", self.everybody[0].attacks.text
        if self.accused is not None:
            accused = f"of those whom that attacker accuses, at most {percent_up(self.accused)} are members"
            yield "", f"Where one suspect in {1 / self.attacker[1]:.4g} is a member: {accused}."

    def _table_of_everybody(self) -> Table:
        found = f"finds at most, accusing {exact_percent(self.attacker[0])} %"
        table = Table("who", "epsilon", found, "right at even odds", title="The same noise means")
        for one in self.everybody:
            shares = (percent_up(share) for share in (one.attacks.detected, one.attacks.right))
            table.add_row(one.who, _shown(one.epsilon), *shares)
        return table


def _shown(epsilon: float) -> str:
    """Rounded up: no promise looks better than it is."""
    return f"{math.ceil(round(100 * epsilon, 6)) / 100:.2f}"


def _rounded_up(epsilon: float) -> float:
    return math.ceil(1000 * epsilon) / 1000


def _rounded_down(epsilon: float) -> float:
    return math.floor(1000 * epsilon) / 1000
