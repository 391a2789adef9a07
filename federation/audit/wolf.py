"""What a thief gets who holds a wallet, its passphrase and no face: the rates at which fixed strings are accepted.

The thief knows the hyperplanes of the wallet, so he may send the code of any vector he likes, and he will not send the
face of a stranger. He sends the string that most people accept. The false match rate is about strangers' faces, and
so it is no bound for him. Two strings are measured (the biometric's *wolves*: Doddington et al., "Sheep, goats, lambs
and wolves", ICSLP 1998; the best of all strings is the wolf attack probability of Une, Otsuka and Imai, ICB 2007):

* **the mean** of a domain's vectors, which needs nobody's image in particular. Where vectors have a common direction,
  it lies near everybody. A release for general use keeps its rate to ten times the stated false match rate;
* **the best single image** of everybody's, which is what a collection of faces gives. The people of an audit are few
  for that, so a release is kept back only when even its lower bound is above ten times the stated rate.

Both are chosen on one half of the people and counted on the other, and the other way round: a string always fits the
people that it was chosen on.

Pure: no numerics. `federation.audit.strings` counts, `federation.experiments.wolves` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

from federation.audit.cells import Rate
from federation.errors import RefusedError, UsageError
from federation.statements import JsonValue
from federation.verdict import Verdict

WOLF_FACTOR: Final = 10
"""How many times the stated false match rate the mean's rate may be, in general use."""
NOT_MEASURED: Final = "not measured"
_LEAST_SHOWN: Final = 1e-5
FEWEST_PEOPLE: Final = 4
"""Two on each side: of one person nothing follows about others."""


@dataclass(frozen=True)
class WolfRates:
    """Rates at which templates accept fixed strings that were chosen on other people, at one threshold.

    Attributes:
        mean: of the mean of the other half's vectors.
        best: of the single image that the other half accepts most.
        people: whose templates were tried. No rate is worth more independent trials than these.
    """

    mean: Rate
    best: Rate
    people: int

    def __post_init__(self) -> None:
        if type(self.people) is not int or self.people < FEWEST_PEOPLE:
            raise UsageError(f"fixed strings are tried on at least {FEWEST_PEOPLE} people")
        if any(not rate.effective <= self.people <= rate.trials for rate in (self.mean, self.best)):
            raise UsageError("fixed strings are tried on every person, and people are what counts")
        if any(not rate.low <= rate.value <= rate.high for rate in (self.mean, self.best)):
            raise UsageError("the rate of a fixed string lies inside its bounds")

    @property
    def text(self) -> str:
        """Both rates for people to read."""
        return f"{_text(self.mean)} by the domain's mean, {_text(self.best)} by the best image, of {self.people} people"

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object, the same in a report and in a manifest."""
        return {"best": self.best.to_json(), "mean": self.mean.to_json(), "people": self.people}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(Rate.from_json(value["mean"]), Rate.from_json(value["best"]), value["people"])


def judge_wolves(rates: WolfRates | None, stated_fmr: float) -> Verdict:
    """Whether the mean's bounds keep ten times the stated false match rate, and the best image is not surely above it.

    What nobody measured is no pass.
    """
    if rates is None:
        return Verdict.INSUFFICIENT
    limit = WOLF_FACTOR * stated_fmr
    return Verdict.FAIL if rates.best.low > limit else rates.mean.judge(limit)


def require_tame(rates: WolfRates | None, stated_fmr: float, *, general: bool) -> None:
    """Returns when no string is accepted at more than ten times the stated false match rate (`judge_wolves`).

    Args:
        rates: what was measured, if anybody did.
        stated_fmr: of the release.
        general: for general use it must be known; a trial is kept back only when it is known to be worse.

    Raises:
        RefusedError: it is accepted more often, or nobody can tell and the use is general.
    """
    verdict = judge_wolves(rates, stated_fmr)
    if verdict is Verdict.PASS or (verdict is Verdict.INSUFFICIENT and not general):
        return
    limit = f"{WOLF_FACTOR} times the stated false match rate of {stated_fmr:g}"
    if rates is None:
        raise RefusedError(
            f"nobody measured what a stolen wallet is worth without a face; general use needs at most {limit}"
        )
    worse = max(rates.mean, rates.best, key=lambda rate: rate.low) if verdict is Verdict.FAIL else rates.mean
    raise RefusedError(
        f"without a face, a stolen wallet is accepted at {worse.value:.3g} ({worse.low:.3g} to {worse.high:.3g}); "
        f"{'general use needs' if general else 'even a trial may have'} at most {limit}"
    )


def text_of_wolves(rates: WolfRates | None) -> str:
    """Both rates for people to read, or that there are none."""
    return NOT_MEASURED if rates is None else rates.text


def json_of_wolves(rates: WolfRates | None) -> JsonValue:
    """The JSON value: an object, or the text that says there is none."""
    return NOT_MEASURED if rates is None else rates.to_json()


def wolves_of_json(value: Any) -> WolfRates | None:  # noqa: ANN401 - foreign JSON
    """Reads what `json_of_wolves` wrote; the caller compares the bytes."""
    return None if value == NOT_MEASURED else WolfRates.from_json(value)


def _text(rate: Rate) -> str:
    shown = (each if each >= _LEAST_SHOWN else 0.0 for each in (rate.value, rate.low, rate.high))
    return "{:.3g} % ({:.3g} to {:.3g})".format(*(100 * each for each in shown))
