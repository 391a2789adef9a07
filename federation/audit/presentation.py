"""How often presentation attacks pass, and how often people are taken for one: the rates of ISO/IEC 30107-3.

* **APCER**, attack presentation classification error rate: attacks of one species that were taken for people. It is
  stated for each species and judged by the worst: a mean over species says nothing, since an attacker takes the best.
* **BPCER**, bona fide presentation classification error rate: people who were taken for an attack.
* **IAPMR**, impostor attack presentation match rate: attacks of one species that passed and then matched their target.

A photograph is made of one person, and his photographs pass or fail together. So people are what counts: no rate is
worth more independent trials than there are people whose faces were shown (`federation.audit.intervals`).

The limit of the APCER is the rate below which NIST SP 800-63A (revision 4, section 3.11) wants impostor attacks on
remote proofing to succeed. Here it is asked of the APCER of each species, which no IAPMR is above. A person who is
taken for an attack is turned away, so the BPCER has the limit of the false non-match rate.

Pure: no numerics. `federation.audit.attacks` counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from federation.audit.cells import Rate
from federation.errors import UsageError
from federation.statements import JsonValue, require_text
from federation.verdict import Verdict

MOST_APCER: Final = 0.07
NOT_MEASURED: Final = "not measured"
_LEAST_SHOWN: Final = 1e-5


class AttackLevel(Enum):
    """What an attack takes: FIDO's levels."""

    A = "A"
    """A picture, a printer or a screen: less than a day, no skill."""
    B = "B"
    """A few days, skill or money: a video of the target, a paper mask."""
    C = "C"
    """Weeks and experts: a mask of silicone, a film that obeys."""


@dataclass(frozen=True)
class SpeciesRates:
    """One species of presentation attack instruments.

    Attributes:
        name: of the species.
        level: what it takes.
        people: whose faces were shown.
        apcer: taken for a person.
        iapmr: taken for a person, and then for the target.
    """

    name: str
    level: AttackLevel
    people: int
    apcer: Rate
    iapmr: Rate

    def __post_init__(self) -> None:
        require_text("the name of a species", self.name, most=100)
        if type(self.people) is not int or not 0 < self.people <= self.apcer.trials:
            raise UsageError("a species was tried on somebody")
        if self.apcer.trials != self.iapmr.trials or self.iapmr.errors > self.apcer.errors:
            raise UsageError("whatever matches its target has passed before, of the same attacks")
        if any(rate.effective > self.people for rate in (self.apcer, self.iapmr)):
            raise UsageError("attacks count by the people whose faces they show")

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "apcer": self.apcer.to_json(),
            "iapmr": self.iapmr.to_json(),
            "level": self.level.value,
            "name": self.name,
            "people": self.people,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        rates = Rate.from_json(value["apcer"]), Rate.from_json(value["iapmr"])
        return cls(value["name"], AttackLevel(value["level"]), value["people"], *rates)


@dataclass(frozen=True)
class PadRates:
    """What was found about presentation attack detection.

    Attributes:
        species: in order of their names, each once; at least one.
        people: who were bona fide.
        bpcer: taken for an attack.
    """

    species: tuple[SpeciesRates, ...]
    people: int
    bpcer: Rate

    def __post_init__(self) -> None:
        names = [one.name for one in self.species]
        if not names or names != sorted(set(names)):
            raise UsageError("species stand in order of their names, each once, and there is one")
        if type(self.people) is not int or not 0 <= self.people <= self.bpcer.trials:
            raise UsageError("people who were bona fide are those of the presentations")
        if self.bpcer.effective > self.people:
            raise UsageError("presentations count by people")

    @property
    def worst(self) -> SpeciesRates:
        """The species that passes most often, the higher bound deciding among equals."""
        return max(self.species, key=lambda one: (one.apcer.value, one.apcer.high))

    @property
    def text(self) -> str:
        """The worst species and the price, for people to read."""
        worst = self.worst
        return (
            f"APCER {_text(worst.apcer)} of {worst.name!r}, the worst of {len(self.species)} species; "
            f"BPCER {_text(self.bpcer)} of {self.people} people"
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object, the same in a report and in a manifest."""
        return {
            "bpcer": self.bpcer.to_json(),
            "people": self.people,
            "species": [one.to_json() for one in self.species],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        species = tuple(SpeciesRates.from_json(one) for one in value["species"])
        return cls(species, value["people"], Rate.from_json(value["bpcer"]))


def judge_pad(rates: PadRates | None, most_bpcer: float) -> Verdict:
    """The worst verdict of every species at `MOST_APCER`, and of people turned away. Not measured is no pass."""
    if rates is None:
        return Verdict.INSUFFICIENT
    return Verdict.worst([*(one.apcer.judge(MOST_APCER) for one in rates.species), rates.bpcer.judge(most_bpcer)])


def text_of_pad(rates: PadRates | None) -> str:
    """The rates for people to read, or that there are none."""
    return NOT_MEASURED if rates is None else rates.text


def json_of_pad(rates: PadRates | None) -> JsonValue:
    """The JSON value: an object, or the text that says there is none."""
    return NOT_MEASURED if rates is None else rates.to_json()


def pad_of_json(value: Any) -> PadRates | None:  # noqa: ANN401 - foreign JSON
    """Reads what `json_of_pad` wrote; the caller compares the bytes."""
    return None if value == NOT_MEASURED else PadRates.from_json(value)


def _text(rate: Rate) -> str:
    if not rate.trials:
        return "not measured"
    shown = (each if each >= _LEAST_SHOWN else 0.0 for each in (rate.value, rate.low, rate.high))
    return "{:.3g} % ({:.3g} to {:.3g})".format(*(100 * each for each in shown))
