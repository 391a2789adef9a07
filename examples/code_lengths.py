"""What the length of a code costs: error rates of exact cosines, 2048 bits and 1024 bits on the same faces.

`python -m examples.code_lengths --london FOLDER`. Everything is public: the shipped profile that was made without the
faces, no private centre. Clean references, each under a code seed of its own as enrolled templates have, against probes
of other images, with as many averaged as the column says. Intervals are bootstrap percentiles over people, of the
difference to the row above, and know nothing of other people.

The rule that was set before anything was measured (ADR 160): 1024 bits unless they cost more than one point of TAR at
FMR 0.1 %. Takes a minute; embeddings are kept in build/cache.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from examples.thresholds import IMAGES, RATES, Site, differences, sites_of
from federation.learning.threshold import public_adapter
from federation.recognition.conditions import CLEAN
from federation.recognition.mobilefacenet import shipped_profile
from federation.recognition.profiles import PROBE, REFERENCE

FALSE_MATCH_RATES = RATES

app = typer.Typer(pretty_exceptions_show_locals=False)


@dataclass(frozen=True)
class Row:
    """Rates of one kind of score.

    Attributes:
        site: name of the set of faces.
        people: how many were compared.
        probes: "clean", or the condition that degraded them.
        images: references and frames that were averaged.
        score: "cosine", or the bits of a code.
        eer: equal error rate.
        tar: acceptance rate of genuine pairs at each of `FALSE_MATCH_RATES`.
        tar_cost: 95 % interval, at each of them, of the TAR of the next longer score minus this one; of cosines 0.
    """

    site: str
    people: int
    probes: str
    images: str
    score: str
    eer: float
    tar: tuple[float, ...]
    tar_cost: tuple[tuple[float, float], ...]


@app.command()
def main(
    london: Annotated[Path | None, typer.Option(help="the London set, a sub-folder for each person")] = None,
    draws: Annotated[int, typer.Option(min=10, help="bootstrap draws")] = 500,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as JSON")] = False,
) -> None:
    """Prints error rates by code length."""
    console = Console(stderr=True)
    sites = sites_of(london, console)
    jobs = [(site, condition, images) for site in sites for condition in (CLEAN, "mask") for images in IMAGES]
    rows = [row for job in track(jobs, console=console) for row in rates(*job, draws)]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    columns = (f"TAR % at FMR {100 * fmr:g} %" for fmr in FALSE_MATCH_RATES)
    table = Table("site", "people", "probes", "images", "score", "EER %", *columns)
    for row in rows:
        cells = [
            f"{100 * tar:.1f}" + (f" (costs {100 * low:.1f} to {100 * high:.1f})" if row.score != "cosine" else "")
            for tar, (low, high) in zip(row.tar, row.tar_cost, strict=True)
        ]
        table.add_row(row.site, str(row.people), row.probes, row.images, row.score, f"{100 * row.eer:.2f}", *cells)
    Console().print(table)


def rates(site: Site, condition: str, images: tuple[int, int], draws: int) -> list[Row]:
    """The rows of one site, condition of the probes and numbers of images; none where nobody has so many."""
    people = np.unique(site.people)
    references, owner = site.fused(CLEAN, images[0], people, early=True)
    seen, claimant = site.fused(condition, images[1], people, early=False)
    if not len(owner) or not len(claimant):
        return []
    adapter = public_adapter(shipped_profile(site.name), condition)
    templates, probes = adapter.apply(references, REFERENCE), adapter.apply(seen, PROBE)
    genuine = owner[:, None] == claimant
    scores = {"cosine": templates @ probes.T}
    scores |= {str(bits): -wrong.astype(np.float64) for bits, wrong in differences(templates, probes).items()}
    random = np.random.default_rng(0)
    size = int(people.max()) + 1
    weights = [np.bincount(random.choice(people, len(people)), minlength=size) for _ in range(draws)]
    counted = {kind: _rates(score, genuine, ~genuine, np.ones(genuine.shape)) for kind, score in scores.items()}
    resampled = {
        kind: np.array(
            [_rates(score, genuine, ~genuine, np.outer(weight[owner], weight[claimant]))[1:] for weight in weights]
        )
        for kind, score in scores.items()
    }
    rows, longer = [], resampled["cosine"]
    for kind in ("cosine", *sorted((kind for kind in scores if kind != "cosine"), key=lambda kind: -int(kind))):
        eer, *tars = counted[kind]
        low, high = np.percentile(longer - resampled[kind], [2.5, 97.5], axis=0)
        longer = resampled[kind]
        costs = tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
        both = len(np.intersect1d(owner, claimant))
        rows.append(Row(site.name, both, condition, f"{images[0]}, {images[1]}", kind, eer, tuple(tars), costs))
    return rows


def _rates(
    scores: NDArray[np.float64],
    genuine: NDArray[np.bool_],
    impostor: NDArray[np.bool_],
    weights: NDArray[np.float64] | NDArray[np.int64],
) -> tuple[float, ...]:
    """EER, then TAR at each of `FALSE_MATCH_RATES`, of weighted pairs; higher scores are more similar."""
    levels = np.unique(scores)[::-1]
    places = np.searchsorted(-levels, -scores)
    accepted = []
    for pairs in (genuine, impostor):
        mass = np.bincount(places[pairs], weights[pairs].astype(np.float64), minlength=len(levels))
        accepted.append(np.cumsum(mass) / mass.sum())
    tar, fmr = accepted
    crossing = int(np.argmin(np.abs(1 - tar - fmr)))
    at = (max(int(np.searchsorted(fmr, rate, side="right")) - 1, 0) for rate in FALSE_MATCH_RATES)
    return float((1 - tar[crossing] + fmr[crossing]) / 2), *(float(tar[place]) for place in at)


if __name__ == "__main__":
    app()
