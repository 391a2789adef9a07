"""What a federation is worth, beside what costs no privacy: `python -m examples.federation_worth --train FOLDER`.

Public sets of faces (--public, in folders) make a recogniser's profile. Of the people of --train some train and others
are verified, in ten splits; or those of --test are verified. Rows:

* **frozen**: the recogniser alone; **public**: the profile's adapter and threshold, which ask nobody;
* **epsilon 1, 2, 4, 8**: a federated run of four organisations, one of them curious, of as many people as there are.
  What it asks for is decided by its plan, as in a product's run; where that is nothing it is the public release;
* **not private**: the same without noise. **N of one's own**: one organisation's people, without noise and shown to
  nobody. Both once more with **scatter**: how pictures of a person differ there joins what the public sets say of it,
  and centres are their own for each camera. No run of a federation asks for that, since it is 1700 numbers.

Columns: equal error rate, and the true accept rate where exactly 1 % and 0.1 % of impostors are accepted, which nobody
knows beforehand; then the threshold that is released for 1 %, which was set without the people who are verified: what
it accepts of impostors and of owners. All of codes of the profile's length, one reference and one frame, early clean
pictures against late ones of the condition. Intervals are of 90 %, over people; they know that splits share people.

With --experiments: ways to make epsilon 2 with 100 people worth more (`examples.worth_experiments`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from client.faces.degradation import Condition
from client.faces.finding import FaceFinder
from client.faces.measuring import Measured, faces_of, measure
from client.faces.models import load_mobilefacenet
from client.faces.priors import Geometry, PublicSet
from client.faces.profiling import made_of
from examples.thresholds import CACHE, CONFIDENCE, differences
from federation.audit.cells import Rate
from federation.audit.intervals import rate_of
from federation.errors import IntaglioError, UsageError
from federation.learning.evaluation import DetCurve
from federation.learning.moments import Shift, moments_sum
from federation.learning.pairs import pair_sum
from federation.learning.releasing import ReleaseTerms, observed_of
from federation.privacy.plan import Adaptation, PrivacyPlan
from federation.recognition.conditions import CLEAN
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import bare_profile
from federation.recognition.model import Adapter
from federation.recognition.profile import RecogniserProfile
from federation.recognition.profiles import PROBE, REFERENCE

ORGANISATIONS: Final = 4
DELTA: Final = 1e-5
STATED: Final = 0.01
RATES: Final = (0.01, 0.001)
OWN: Final = (6, 31)
_MANY: Final = 50_000
_BITS: Final = 1024

Numbers = NDArray[np.float64]
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@dataclass(frozen=True, eq=False)
class Crowd:
    """People whom no profile knows.

    Attributes:
        people: (n,) whom each picture shows, as numbers from 0.
        early: (n,) whether it may be a reference.
        clean: (n, d) embeddings of it.
        seen: (n, d) of the same under the condition.
    """

    people: NDArray[np.intp]
    early: NDArray[np.bool_]
    clean: Numbers
    seen: Numbers

    @classmethod
    def of(cls, measured: Measured, condition: str) -> Crowd:
        """From what a recogniser made of the pictures."""
        _, people = np.unique(measured.people, return_inverse=True)
        rows = measured.embeddings
        return cls(people, measured.early, rows[CLEAN].astype(float), rows[condition].astype(float))

    @property
    def count(self) -> int:
        """How many people."""
        return int(self.people.max()) + 1

    def embeddings(self, people: NDArray[np.intp]) -> EmbeddingSet:
        """All that an organisation with these people has."""
        mine = np.isin(self.people, people)
        names = np.array([f"{one:05}" for one in self.people[mine]])
        pictures = np.array([f"{place:064}" for place in np.flatnonzero(mine)])
        return EmbeddingSet(
            np.concatenate([self.clean[mine], self.seen[mine]]).astype(np.float32),
            np.concatenate([names, names]),
            np.array([REFERENCE] * len(names) + [PROBE] * len(names)),
            np.concatenate([pictures, pictures]),
        )

    def public_set(self, people: NDArray[np.intp], condition: str) -> PublicSet:
        """The same, for what sets of faces are measured by."""
        mine = np.isin(self.people, people)
        _, place = np.unique(self.people[mine], return_inverse=True)
        return PublicSet("own", place, {CLEAN: self.clean[mine], condition: self.seen[mine]})


@dataclass(frozen=True, eq=False)
class Setting:
    """What all rows have in common.

    Attributes:
        terms: of every release.
        public: the sets that its profile is made of.
        crowd: who trains.
        tested: who is verified.
    """

    terms: ReleaseTerms
    public: tuple[PublicSet, ...]
    crowd: Crowd
    tested: Crowd

    @property
    def condition(self) -> str:
        """Of the probes."""
        return self.terms.condition


Made = tuple[Adapter, int | None]
"""An adapter, and the threshold that is released with it."""
Way = Callable[[Setting, NDArray[np.intp], np.random.Generator], Made]
"""Makes it from the people who train, in an order by chance."""


def frozen(setting: Setting, _train: NDArray[np.intp], _random: np.random.Generator) -> Made:
    """Nothing."""
    return Adapter.identity(setting.terms.profile.dimension), None


def public(setting: Setting, _train: NDArray[np.intp], _random: np.random.Generator) -> Made:
    """What the profile knows."""
    nothing = Shift.nothing(setting.terms.profile.directions)
    return setting.terms.adapter(nothing), setting.terms.threshold(nothing, None, members=0).bits


def plan_of(setting: Setting, epsilon: float, people: int) -> PrivacyPlan:
    """Of a run."""
    profile = setting.terms.profile
    return PrivacyPlan.for_epsilon(
        epsilon,
        delta=DELTA,
        people=people,
        organisations=ORGANISATIONS,
        dimension=profile.dimension,
        directions=profile.directions,
        centre_clip=profile.clips.centre_thousandths / 1000,
    )


def released(epsilon: float | None, own: int | None = None) -> Way:
    """A run's release: with noise for `epsilon` or without; of everybody, or of one organisation's `own` people."""

    def way(setting: Setting, train: NDArray[np.intp], random: np.random.Generator) -> Made:
        people = train if own is None else train[:own]
        plan = plan_of(setting, epsilon or 8.0, len(people) if epsilon else _MANY)
        parts = np.array_split(people, 1 if own else ORGANISATIONS)
        organisations = [setting.crowd.embeddings(part) for part in parts]
        shift, observed, terms = Shift.nothing(plan.directions), None, setting.terms

        def total(sums: list[Numbers], multiplier: float) -> tuple[Numbers, float]:
            noise = plan.noise_with(multiplier, plan.organisations) if epsilon else 0.0
            return np.sum(sums, axis=0) + noise * random.standard_normal(len(sums[0])), noise

        if plan.adaptation is Adaptation.CENTRE:
            sums = [moments_sum(each, terms.public_centre, plan) for each in organisations]
            made, noise = total(sums, plan.moments_noise_multiplier)
            shift = Shift.of(made, plan, noise_multiplier=noise, people=len(people))
        if plan.checks_threshold:
            question = terms.question(shift)
            sums = [pair_sum(each, question, len(np.unique(each.people))) for each in organisations]
            made, noise = total(sums, plan.threshold_noise_multiplier)
            observed = observed_of(made, people=len(people), noise_multiplier=noise)
        return terms.adapter(shift), terms.threshold(shift, observed, members=len(people)).bits

    return way


def with_scatter(own: int | None) -> Way:
    """Own centres for each camera, and a whitening that own people joined. Without noise."""

    def way(setting: Setting, train: NDArray[np.intp], _random: np.random.Generator) -> Made:
        people = train if own is None else train[:own]
        subspace = setting.terms.profile.subspace.array
        mine = setting.crowd.public_set(people, setting.condition).in_subspace(subspace)
        joined = Geometry.of([*setting.public, mine], setting.condition)
        alone = Geometry.of([mine], setting.condition)
        whitening = joined.whitening
        centres = {REFERENCE: whitening @ alone.reference, PROBE: whitening @ alone.probe}
        return Adapter(centres, whitening @ subspace), None

    return way


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the table. Rates with bounds.

    Attributes:
        name: of the way.
        people: who trained it, at most over splits.
        eer: mean over splits.
        tar: for each of `RATES`.
        fmr: at the released threshold; None without one.
        owners: accepted there.
    """

    name: str
    people: int
    eer: float
    tar: tuple[Rate, ...]
    fmr: Rate | None
    owners: Rate | None


@dataclass(frozen=True, eq=False)
class Compared:
    """Distances of one split, and the released threshold."""

    distances: NDArray[np.int64]
    owners: NDArray[np.intp]
    claimants: NDArray[np.intp]
    bits: int | None

    @classmethod
    def of(cls, made: Made, crowd: Crowd, people: NDArray[np.intp]) -> Compared:
        """Early clean pictures of these people against late ones under the condition."""
        adapter, bits = made
        mine = np.isin(crowd.people, people)
        early, late = mine & crowd.early, mine & ~crowd.early
        templates = adapter.apply(crowd.clean[early], REFERENCE)
        found = differences(templates, adapter.apply(crowd.seen[late], PROBE))[_BITS]
        return cls(found, crowd.people[early], crowd.people[late], bits)

    @property
    def genuine(self) -> NDArray[np.bool_]:
        """(r, p) which comparisons are of one person."""
        return np.asarray(self.owners[:, None] == self.claimants)

    def at_rate(self, rate: float) -> int:
        """The largest threshold that accepts at most this share of impostors."""
        impostors = np.sort(self.distances[~self.genuine])
        return int(impostors[math.floor(rate * len(impostors))]) - 1

    @property
    def eer(self) -> float:
        """Equal error rate."""
        return DetCurve.of(
            -self.distances[self.genuine].astype(float), -self.distances[~self.genuine].astype(float)
        ).eer


def row_of(name: str, people: int, splits: list[Compared]) -> Row:
    """All splits together."""
    known = [(each, each.bits) for each in splits if each.bits is not None]
    return Row(
        name,
        people,
        float(np.mean([each.eer for each in splits])),
        tuple(_accepted([(each, each.at_rate(rate)) for each in splits], genuine=True) for rate in RATES),
        _accepted(known, genuine=False) if known else None,
        _accepted(known, genuine=True) if known else None,
    )


def _accepted(splits: list[tuple[Compared, int]], *, genuine: bool) -> Rate:
    margins, first, second = [], [], []
    for each, bits in splits:
        rows, columns = np.nonzero(each.genuine == genuine)
        margins.append(bits - each.distances[rows, columns])
        first.append(each.owners[rows])
        second.append(each.claimants[columns])
    joined = [np.concatenate(parts) for parts in (margins, first, second)]
    return rate_of(joined[0].astype(float), 0.0, joined[1], joined[2], CONFIDENCE)


def ways(epsilons: list[float], trained: int) -> Iterator[tuple[str, int, Way]]:
    """(name, people, way) of every row."""
    yield "frozen", 0, frozen
    yield "public", 0, public
    for epsilon in epsilons:
        yield f"epsilon {epsilon:g}", trained, released(epsilon)
    yield "not private", trained, released(None)
    yield "not private, scatter", trained, with_scatter(None)
    for own in (own for own in OWN if own <= trained):
        yield f"{own} of one's own", own, released(None, own)
        yield f"{own} of one's own, scatter", own, with_scatter(own)


def measured_rows(
    setting: Setting, chosen: list[tuple[str, int, Way]], *, splits: int, train: int, console: Console
) -> list[Row]:
    """Every way in every split."""
    found: dict[str, list[Compared]] = {name: [] for name, _, _ in chosen}
    apart = setting.tested is not setting.crowd
    for split in track(range(splits), "splits", console=console, transient=True):
        order = np.random.default_rng(split).permutation(setting.crowd.count)
        test = np.arange(setting.tested.count) if apart else order[train:]
        for place, (name, _, way) in enumerate(chosen):
            made = way(setting, order[:train], np.random.default_rng([split, place]))
            found[name].append(Compared.of(made, setting.tested, test))
    return [row_of(name, people, found[name]) for name, people, _ in chosen]


@app.command()
def main(
    train: Annotated[Path, typer.Option(help="People of whom some train, a sub-folder of pictures each.")],
    public_sets: Annotated[list[Path], typer.Option("--public", help="Public sets for the profile; may be repeated.")],
    test: Annotated[Path | None, typer.Option(help="People who are verified [default: others of --train].")] = None,
    condition: Annotated[Condition, typer.Option(help="What the probe camera does.")] = Condition.MASK,
    epsilon: Annotated[list[float] | None, typer.Option(help="May be repeated [default: 1, 2, 4 and 8].")] = None,
    splits: Annotated[int, typer.Option(min=1)] = 10,
    people: Annotated[int | None, typer.Option(min=4, help="Who train [default: six in ten, or all].")] = None,
    *,
    experiments: Annotated[bool, typer.Option("--experiments", help="Print the second table.")] = False,
) -> None:
    """Print the table."""
    console = Console(stderr=True)
    try:
        setting = setting_of(train, test, public_sets, condition.value, console)
        most = setting.crowd.count if test else round(0.6 * setting.crowd.count)
        trained = min(people or most, most)
        chosen = list(ways(epsilon or [1.0, 2.0, 4.0, 8.0], trained))
        if experiments:
            from examples.worth_experiments import experimental_ways  # noqa: PLC0415 - it builds on this module

            chosen = experimental_ways(trained)
        rows = measured_rows(setting, chosen, splits=splits, train=trained, console=console)
    except IntaglioError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    tested = setting.tested.count if test else setting.crowd.count - trained
    names = " and ".join(each.name for each in setting.public)
    title = f"{train.name}, {condition.value}: {tested} people verified, {splits} splits; public: {names}"
    Console(width=170).print(table_of(rows, title))


def setting_of(train: Path, test: Path | None, public_sets: list[Path], condition: str, console: Console) -> Setting:
    """Embeds all pictures, or remembers them, and makes the profile.

    Raises:
        UsageError: folders cannot be used, or share a picture.
    """
    folders = [*public_sets, train, *([test] if test else [])]
    names = [folder.name.lower() for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError("two folders have one name; sets of faces are told apart by it")
    bare = bare_profile()
    with console.status("faces"):
        faces = faces_of(folders, FaceFinder(), lambda _done, _total: None, CACHE)
        measured = measure(faces, bare, load_mobilefacenet(bare).embed, CACHE)
        sets = measured.public_sets(names)[: len(public_sets)]
        profile = _profile(sets, dict.fromkeys(names, "for measurement"))
    crowd = Crowd.of(measured.of_set(len(public_sets)), condition)
    tested = Crowd.of(measured.of_set(len(public_sets) + 1), condition) if test else crowd
    inside = tuple(each.in_subspace(profile.subspace.array) for each in sets)
    return Setting(ReleaseTerms(profile, condition, STATED, 1, 1), inside, crowd, tested)


def _profile(sets: list[PublicSet], terms: dict[str, str]) -> RecogniserProfile:
    """The profile of these sets, made once: a minute."""
    rows = b"".join(embeddings.tobytes() for each in sets for _, embeddings in sorted(each.embeddings.items()))
    kept = CACHE / f"{hashlib.sha256(rows + repr(terms).encode()).hexdigest()}.profile.json"
    if kept.is_file():
        return RecogniserProfile.from_bytes(kept.read_bytes())
    profile = made_of(bare_profile(), sets, terms)
    kept.write_bytes(profile.to_bytes())
    return profile


def table_of(rows: list[Row], title: str) -> Table:
    """For a terminal and for docs."""
    table = Table(title=title)
    for name in ("", "people", "EER %", "TAR % at FMR 1 %", "TAR % at FMR 0.1 %", "FMR % at tau", "TAR % at tau"):
        table.add_column(name)
    for row in rows:
        shown = [_text(rate) for rate in (*row.tar, row.fmr, row.owners)]
        table.add_row(row.name, str(row.people) if row.people else "", f"{100 * row.eer:.2f}", *shown)
    return table


def _text(rate: Rate | None) -> str:
    if rate is None:
        return ""
    digits = ".1f" if rate.value > 0.1 else ".2f"  # noqa: PLR2004 - two digits that mean something
    return f"{100 * rate.value:{digits}} ({100 * rate.low:{digits}} to {100 * rate.high:{digits}})"


if __name__ == "__main__":
    app()
