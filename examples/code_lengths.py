"""What the length of a code costs: error rates of exact cosines, 2048 bits and 1024 bits on the same faces.

Every pair of a reference and a probe of two captures is scored, under a code seed for each reference, as enrolled
templates have. Embeddings are centred for each camera profile on these very people: that flatters every column alike.
Intervals are bootstrap percentiles over people, of the difference to the row above, and know nothing of other people.
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

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.embedding import embed_folder
from client.faces.models import load_recogniser
from federation.errors import IntaglioError
from federation.onebit import CodeSeed, binary_code
from federation.onebit.code import hyperplanes
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE

CACHE = Path("build/cache")
"""Embeddings that were computed before; biometric data."""
LENGTHS = (2048, 1024)
FALSE_MATCH_RATES = (0.01, 0.001)

app = typer.Typer(pretty_exceptions_show_locals=False)


@dataclass(frozen=True)
class Row:
    """Rates of one kind of score.

    Attributes:
        probes: "clean", or the condition that degraded them.
        score: "cosine", or the bits of a code.
        eer: equal error rate.
        tar: acceptance rate of genuine pairs at each of `FALSE_MATCH_RATES`.
        tar_cost: 95 % interval, at each of them, of the TAR of the next longer score minus this one; of cosines 0.
    """

    probes: str
    score: str
    eer: float
    tar: tuple[float, ...]
    tar_cost: tuple[tuple[float, float], ...]


@app.command()
def main(
    data: Annotated[Path | None, typer.Option(help="a sub-folder of images for each person [default: ORL]")] = None,
    model: Annotated[Path | None, typer.Option(help="an .onnx recogniser [default: the shipped one]")] = None,
    condition: Annotated[Condition, typer.Option(help="what the probe camera does")] = Condition.MASK,
    draws: Annotated[int, typer.Option(min=10, help="bootstrap draws")] = 500,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as JSON")] = False,
) -> None:
    """Prints error rates by code length."""
    console = Console(stderr=True)
    try:
        embedded = embed_folder(face_folder(data or orl_faces()), load_recogniser(model), condition, cache=CACHE)
    except IntaglioError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    faces = embedded.embeddings
    rows = []
    for name, profile in (("clean", REFERENCE), (condition.value, PROBE)):
        rows += rates(faces, name, profile, draws, console)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    people = len(set(faces.people))
    table = Table("probes", "score", "EER %", *(f"TAR % at FMR {100 * fmr:g} %" for fmr in FALSE_MATCH_RATES))
    for row in rows:
        cells = [
            f"{100 * tar:.1f}" + (f" (costs {100 * low:.1f} to {100 * high:.1f})" if row.score != "cosine" else "")
            for tar, (low, high) in zip(row.tar, row.tar_cost, strict=True)
        ]
        table.add_row(row.probes, row.score, f"{100 * row.eer:.2f}", *cells)
    Console().print(f"{people} people")
    Console().print(table)


def rates(faces: EmbeddingSet, name: str, profile: str, draws: int, console: Console) -> list[Row]:
    """The rows for one camera profile of probes against clean references."""
    references, probes = _centred(faces, REFERENCE), _centred(faces, profile)
    owner, claimant = (_people(faces, kind) for kind in (REFERENCE, profile))
    genuine = owner[:, None] == claimant[None, :]
    if profile == REFERENCE:
        np.fill_diagonal(genuine, val=False)
    impostor = owner[:, None] != claimant[None, :]
    scores = {"cosine": references @ probes.T}
    for bits in LENGTHS:
        similar = np.empty(genuine.shape)
        for place, vector in enumerate(track(references, description=f"{name}, {bits} bits", console=console)):
            seed = CodeSeed(place.to_bytes(32, "little"))
            codes = probes @ hyperplanes(seed, probes.shape[1], bits).T > 0
            similar[place] = -np.count_nonzero(codes != binary_code(vector, seed, bits), axis=1)
        scores[str(bits)] = similar
    random = np.random.default_rng(0)
    people = np.unique(owner)
    weights = [np.bincount(random.integers(0, len(people), len(people)), minlength=len(people)) for _ in range(draws)]
    counted = {kind: _rates(score, genuine, impostor, np.ones(genuine.shape)) for kind, score in scores.items()}
    resampled = {
        kind: np.array(
            [_rates(score, genuine, impostor, np.outer(weight[owner], weight[claimant]))[1:] for weight in weights]
        )
        for kind, score in scores.items()
    }
    rows, longer = [], resampled["cosine"]
    for kind, (eer, *tars) in counted.items():
        low, high = np.percentile(longer - resampled[kind], [2.5, 97.5], axis=0)
        longer = resampled[kind]
        costs = tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
        rows.append(Row(name, kind, eer, tuple(tars), costs))
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


def _centred(faces: EmbeddingSet, profile: str) -> NDArray[np.float64]:
    vectors = faces.embeddings[faces.profiles == profile].astype(np.float64)
    vectors = vectors - vectors.mean(axis=0)
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _people(faces: EmbeddingSet, profile: str) -> NDArray[np.intp]:
    _, numbers = np.unique(faces.people, return_inverse=True)
    return numbers[faces.profiles == profile]


if __name__ == "__main__":
    app()
