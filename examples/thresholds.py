"""How true a stated false match rate is: `python -m examples.thresholds --london FOLDER`.

A site is a set of faces under the shipped profile that was made without it. Ten times, 24 of its people make a private
centre at the noise of epsilon 8 (or nobody does, and everything is public), and the others are verified: as devices do
it, with codes, every reference under a seed of its own, clean references against probes of other images. Each split
states a threshold before anybody is verified.

Columns: rates at the thresholds that were stated, all splits together, with 90 % intervals over people; in how many
splits the rate lies between half and twice the stated one, and inside the interval that is stated; how many templates
accept the mean of the other half of the people, at most over four ways to make it; and what would be accepted at a
threshold that nobody knows beforehand, the one of exactly the stated rate. Splits share people, so ten splits are not
ten times the evidence. Takes some minutes; embeddings are kept in build/cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from client.faces.datasets import face_folder, orl_faces
from client.faces.finding import FaceFinder
from client.faces.judging import sets_shown
from client.faces.measuring import Measured, faces_of, measure
from client.faces.models import load_mobilefacenet
from federation.audit.intervals import rate_of
from federation.errors import IntaglioError, UsageError
from federation.learning.threshold import adapter_of, choose_threshold, coupling_of
from federation.onebit import CodeSeed
from federation.onebit.code import hyperplanes
from federation.recognition.conditions import CLEAN
from federation.recognition.fusing import fused
from federation.recognition.mobilefacenet import bare_profile, shipped_profile
from federation.recognition.model import Adapter
from federation.recognition.profile import RecogniserProfile
from federation.recognition.profiles import PROBE, REFERENCE

CACHE: Final = Path("build/cache")
"""Embeddings that were computed before; biometric data."""
LENGTHS: Final = (1024, 2048)
RATES: Final = (0.01, 0.001)
IMAGES: Final = ((1, 1), (2, 1), (2, 2))
"""References and frames that are averaged."""
MEMBERS: Final = 24
NOISE: Final = 0.6 * math.sqrt(4 / 3)
"""Noise multiplier of epsilon 8 and delta 1e-5 for one release, with one of four organisations curious."""
_WIDTH: Final = 260
"""Of the table, in characters: a narrower one would hide columns."""
CONFIDENCE: Final = 0.95
"""Of each bound."""

app = typer.Typer(pretty_exceptions_show_locals=False)


@dataclass(frozen=True, eq=False)
class Site:
    """People at one place.

    Attributes:
        name: of the set.
        people: (n,) whom each image shows.
        early: (n,) whether an image may be a reference; the others may be probes.
        embeddings: by condition, (n, d).
    """

    name: str
    people: NDArray[np.intp]
    early: NDArray[np.bool_]
    embeddings: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, name: str, measured: Measured) -> Site:
        """From what a recogniser made of the images."""
        faces = measured.faces.faces
        _, people = np.unique([face.person for face in faces], return_inverse=True)
        rows = {condition: each.astype(np.float64) for condition, each in measured.embeddings.items()}
        return cls(name, people, np.array([face.early for face in faces]), rows)

    def fused(
        self, side: str, size: int, people: NDArray[np.intp], *, early: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Every `size` images that follow each other in a round, averaged, and whose they are."""
        rows, owners = [], []
        for one in people:
            mine = self.embeddings[side][(self.people == one) & (self.early == early)]
            if len(mine) >= size:
                starts = range(len(mine) if len(mine) > size else 1)
                rows += [fused(mine[(start + np.arange(size)) % len(mine)]) for start in starts]
                owners += [one] * len(starts)
        return np.array(rows).reshape(len(rows), self.embeddings[side].shape[1]), np.array(owners, int)


@dataclass(frozen=True, eq=False)
class Split:
    """What was stated, and what came of it, in bits.

    Attributes:
        bits: the threshold.
        low: of the stated interval.
        high: of the stated interval.
        distances: (r, p) of codes.
        owners: (r,) of the references.
        claimants: (p,) of the probes.
        strings: (s, 4) distances from references to the mean of the other half, made in four ways.
    """

    bits: int
    low: float
    high: float
    distances: NDArray[np.int64]
    owners: NDArray[np.intp]
    claimants: NDArray[np.intp]
    strings: NDArray[np.int64]

    @property
    def genuine(self) -> NDArray[np.bool_]:
        """Which comparisons are of one person."""
        return np.asarray(self.owners[:, None] == self.claimants)

    @property
    def fmr(self) -> float:
        """At the threshold that was stated."""
        return float((self.distances[~self.genuine] <= self.bits).mean())


@dataclass(frozen=True)
class Row:
    """One line of the table: see the top. Rates in per cent with bounds; counts as texts "accepted of all"."""

    site: str
    probes: str
    centre: str
    images: str
    bits: int
    stated: float
    threshold: str
    weight: float
    fmr: tuple[float, float, float]
    impostors: str
    within: str
    covered: str
    interval: tuple[float, float]
    tar: tuple[float, float, float]
    genuine: str
    string: float
    tar_at_stated: float
    each: tuple[str, ...]


@app.command()
def main(
    london: Annotated[Path | None, typer.Option(help="the London set, a sub-folder for each person")] = None,
    splits: Annotated[int, typer.Option(min=1)] = 10,
    *,
    each: Annotated[bool, typer.Option("--each", help="print every split's FMR with its interval, too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as JSON")] = False,
) -> None:
    """Prints the table."""
    console = Console(stderr=True)
    sites = sites_of(london, console)
    jobs = [(site, condition, private) for site in sites for condition in ("mask", CLEAN) for private in (False, True)]
    rows = [row for job in track(jobs, console=console) for row in rows_of(*job, splits=splits)]
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    Console(width=max(Console().width, _WIDTH)).print(_table(rows, splits))
    for row in rows if each else ():
        what = f"{row.site}, {row.probes}, {row.centre}, {row.images}, {row.bits} bits, stated {100 * row.stated:g} %"
        print(f"{what}: {'; '.join(row.each)}")


def sites_of(london: Path | None, console: Console) -> list[Site]:
    """ORL, and London where somebody has it.

    Raises:
        typer.Exit: one cannot be read; the console says why.
    """
    folders = {"orl": orl_faces()} | ({"london": london} if london else {})
    try:
        return [site_of(name, folder, console) for name, folder in folders.items()]
    except IntaglioError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error


def site_of(name: str, folder: Path, console: Console) -> Site:
    """A set of faces, embedded; see `CACHE`."""
    bare, others = bare_profile(), sets_shown(face_folder(folder)) - {name}
    if others:
        raise UsageError(f"{folder} has pictures of {', '.join(others)}, which judge no profile without {name}")
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        faces = faces_of([folder], FaceFinder(), lambda done, all_: bar.update(task, completed=done, total=all_), CACHE)
    return Site.of(name, measure(faces, bare, load_mobilefacenet(bare).embed, CACHE))


def rows_of(site: Site, condition: str, private: bool, *, splits: int) -> Iterator[Row]:  # noqa: FBT001 - a column
    """All lines of one site, condition and centre."""
    profile = shipped_profile(site.name)
    for references, frames in IMAGES:
        held = [
            _held_out(site, condition, private, np.random.default_rng(split), profile, (references, frames))
            for split in range(splits)
        ]
        if not len(held[0].owners):
            continue  # nobody has so many images
        for bits in LENGTHS:
            sized = RecogniserProfile(**{**_fields(profile), "code_length": bits})
            for rate in RATES:
                yield _row(site, condition, private, (references, frames), rate, sized, held)


def _fields(profile: RecogniserProfile) -> dict[str, Any]:
    return {name: getattr(profile, name) for name in profile.__dataclass_fields__}


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """Bits in which the longest codes of held-out people differ, under one adapter."""

    weight: float
    owners: NDArray[np.intp]
    claimants: NDArray[np.intp]
    differ: dict[int, NDArray[np.int64]]
    strings: dict[int, NDArray[np.int64]]


def _held_out(
    site: Site,
    condition: str,
    private: bool,  # noqa: FBT001 - see `rows_of`
    random: np.random.Generator,
    profile: RecogniserProfile,
    images: tuple[int, int],
) -> _HeldOut:
    people = random.permutation(np.unique(site.people))
    members, others = people[:MEMBERS], people[MEMBERS:]
    shift, weight = np.zeros(profile.directions), 0.0
    if private:
        shift, weight = _private_centre(site, condition, profile, members, random)
    adapter = adapter_of(profile, condition, shift, weight)
    references, owners = site.fused(CLEAN, images[0], others, early=True)
    probes, claimants = site.fused(condition, images[1], others, early=False)
    if not len(owners) or not len(claimants):
        nobody = np.empty(0, int)
        return _HeldOut(weight, nobody, nobody, {}, {})
    templates = adapter.apply(references, REFERENCE)
    strings = _strings(adapter, (references, owners), (probes, claimants), others)
    vectors = np.concatenate([adapter.apply(probes, PROBE), *strings])
    wrong = differences(templates, vectors)
    half = np.isin(owners, others[::2])
    count = len(probes)
    tried = {
        bits: np.where(half[:, None], each[:, count + 4 :], each[:, count : count + 4]) for bits, each in wrong.items()
    }
    return _HeldOut(weight, owners, claimants, {bits: each[:, :count] for bits, each in wrong.items()}, tried)


def _strings(
    adapter: Adapter,
    references: tuple[NDArray[Any], NDArray[Any]],
    probes: tuple[NDArray[Any], NDArray[Any]],
    people: NDArray[np.intp],
) -> list[NDArray[np.float64]]:
    """The means of one half of the people, made in four ways, and those of the other half."""
    made = []
    for half in (people[::2], people[1::2]):
        ways = []
        for rows, owners in (references, probes):
            for through in (REFERENCE, PROBE):
                mine = [
                    adapter.apply(rows[owners == one], through).mean(axis=0) for one in half if (owners == one).any()
                ]
                ways.append(np.mean(mine, axis=0))
        made.append(np.stack(ways))
    return made


def _private_centre(
    site: Site,
    condition: str,
    profile: RecogniserProfile,
    members: NDArray[np.intp],
    random: np.random.Generator,
) -> tuple[NDArray[np.float64], float]:
    """The noisy mean offset of the members from the public centres, and how far it can be trusted."""
    subspace, clip = profile.subspace.array, profile.clips.centre_thousandths / 1000
    reference, probe = (profile.condition(side).centre.array for side in (CLEAN, condition))
    offsets = []
    for one in members:
        mine = site.people == one
        clean, seen = (site.embeddings[side][mine].mean(axis=0) @ subspace.T for side in (CLEAN, condition))
        offset = (clean - reference + seen - probe) / 2
        offsets.append(offset * min(1.0, clip / float(np.linalg.norm(offset))))
    noise = clip * NOISE / len(members)
    shift = np.mean(offsets, axis=0) + noise * random.standard_normal(len(reference))
    return shift, max(0.0, 1 - len(shift) * noise**2 / float(shift @ shift))


@cache
def _planes(place: int, size: int) -> NDArray[np.float32]:
    """Hyperplanes of the longest codes; shorter codes have the first of them."""
    return hyperplanes(CodeSeed(place.to_bytes(32, "little")), size, max(LENGTHS)).astype(np.float32)


def differences(templates: NDArray[np.float64], vectors: NDArray[np.float64]) -> dict[int, NDArray[np.int64]]:
    """By length of a code, (t, v) bits in which codes differ, every template under a seed of its own."""
    found = {bits: np.empty((len(templates), len(vectors)), np.int64) for bits in LENGTHS}
    seen = vectors.astype(np.float32).T
    for place, template in enumerate(templates.astype(np.float32)):
        planes = _planes(place, len(template))
        wrong = (planes @ seen > 0) != (planes @ template > 0)[:, None]
        for bits in LENGTHS:
            found[bits][place] = np.count_nonzero(wrong[:bits], axis=0)
    return found


def _row(
    site: Site,
    condition: str,
    private: bool,  # noqa: FBT001 - see `rows_of`
    images: tuple[int, int],
    rate: float,
    profile: RecogniserProfile,
    held: list[_HeldOut],
) -> Row:
    bits = profile.code_length
    splits = []
    for each in held:
        stated = choose_threshold(
            profile,
            condition,
            weight=each.weight,
            references=images[0],
            frames=images[1],
            fmr=rate,
            observed=None,
            members=MEMBERS if private else 0,
            coupling=coupling_of(profile, condition),
        )
        low, high = stated.fmr_low, stated.fmr_high
        splits.append(Split(stated.bits, low, high, each.differ[bits], each.owners, each.claimants, each.strings[bits]))
    impostors, genuine = (_pooled(splits, genuine=kind) for kind in (False, True))
    true = float(np.quantile(np.concatenate([each.distances[~each.genuine] for each in splits]), rate, method="lower"))
    return Row(
        site=site.name,
        probes=condition,
        centre="private" if private else "public",
        images=f"{images[0]}, {images[1]}",
        bits=bits,
        stated=rate,
        threshold=f"{min(each.bits for each in splits)} to {max(each.bits for each in splits)}",
        weight=float(np.mean([each.weight for each in held])),
        fmr=_percent(impostors),
        impostors=f"{impostors.errors} of {impostors.trials}",
        within=f"{sum(rate / 2 <= each.fmr <= 2 * rate for each in splits)} of {len(splits)}",
        covered=f"{sum(each.low <= each.fmr <= each.high for each in splits)} of {len(splits)}",
        interval=(
            100 * float(np.mean([each.low for each in splits])),
            100 * float(np.mean([each.high for each in splits])),
        ),
        tar=_percent(genuine),
        genuine=f"{genuine.errors} of {genuine.trials}",
        string=100 * max(np.concatenate([each.strings <= each.bits for each in splits]).mean(axis=0).tolist()),
        tar_at_stated=100 * float(np.concatenate([each.distances[each.genuine] <= true for each in splits]).mean()),
        each=tuple(_text(_percent(_pooled([each], genuine=False))) for each in splits),
    )


def _pooled(splits: list[Split], *, genuine: bool) -> Any:  # noqa: ANN401 - `federation.audit.cells.Rate`
    """Rate of acceptance at each split's threshold, with bounds that know that splits share people."""
    margins, first, second = [], [], []
    for each in splits:
        rows, columns = np.nonzero(each.genuine == genuine)
        margins.append(each.bits - each.distances[rows, columns])
        first.append(each.owners[rows])
        second.append(each.claimants[columns])
    return rate_of(
        np.concatenate(margins).astype(float), 0.0, np.concatenate(first), np.concatenate(second), CONFIDENCE
    )


def _percent(rate: Any) -> tuple[float, float, float]:  # noqa: ANN401 - see `_pooled`
    return 100 * rate.value, 100 * rate.low, 100 * rate.high


def _table(rows: list[Row], splits: int) -> Table:
    table = Table(title=f"Thresholds stated by a profile made without the site, {splits} splits", show_lines=False)
    for name in (
        "site", "probes", "centre", "images", "bits", "stated %", "threshold", "w", "FMR %", "accepted impostors",
        "within x2", "inside", "interval stated %", "TAR %", "accepted owners", "mean string %", "TAR at true rate %",
    ):  # fmt: skip
        table.add_column(name)
    for row in rows:
        table.add_row(
            row.site, row.probes, row.centre, row.images, str(row.bits), f"{100 * row.stated:g}", row.threshold,
            f"{row.weight:.2f}", _text(row.fmr), row.impostors, row.within, row.covered,
            f"{row.interval[0]:.2g} to {row.interval[1]:.2g}", _text(row.tar), row.genuine, f"{row.string:.1f}",
            f"{row.tar_at_stated:.1f}",
        )  # fmt: skip
    return table


def _text(rate: tuple[float, float, float]) -> str:
    return "{:.3g} ({:.3g} to {:.3g})".format(*rate)


if __name__ == "__main__":
    app()
