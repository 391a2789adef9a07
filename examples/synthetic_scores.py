"""Writes made-up scores of made-up people, with one group that is treated badly, as a file that `intaglio audit` reads.

Nobody's data: people are random numbers. Each has a likeness to others, so that comparisons depend on people as real
ones do. In the group ``f`` and ``60+`` people look more alike to this verifier. At the end stand the rows of strings
that were fixed without a face: the mean of each half of the people, and its best image, against the other half.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import pyarrow as pa
import typer
from pyarrow import csv

_SEXES: Final = np.array(["f", "m"])
_AGES: Final = np.array(["18-39", "40-59", "60+"])
_SPREAD = 0.3
_GENUINE = 0.1
_LIKENESS: Final = {"mean": 0.6, "best": 0.9}
"""Of a fixed string, to everybody."""
_BLOCK = 500_000

app = typer.Typer(add_completion=False)


@app.command()
def main(
    output: Annotated[Path, typer.Argument(help="CSV file to write.")],
    comparisons: Annotated[int, typer.Option(min=1, help="How many rows.")] = 200_000,
    each: Annotated[int, typer.Option(min=2, help="People in each of the six groups.")] = 200,
    excess: Annotated[float, typer.Option(help="How much more alike the badly treated people look.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same file.")] = 1,
) -> None:
    """Write made-up scores with one badly treated group."""
    rng = np.random.default_rng(seed)
    people = 6 * each
    cell = np.arange(people) % 6
    sex, age = _SEXES[cell % 2], _AGES[cell // 2]
    likeness = rng.normal(0, _SPREAD, people) + excess * ((sex == "f") & (age == "60+"))
    names = np.array([f"p{number}" for number in range(people)])
    with output.open("wb") as file:
        for start in range(0, comparisons, _BLOCK):
            first = rng.integers(0, people, min(_BLOCK, comparisons - start))
            same = rng.random(len(first)) < _GENUINE
            # Another person of the same group stands some multiple of six further on.
            second = np.where(same, first, (first + 6 * rng.integers(1, each, len(first))) % people)
            score = np.where(same, 6 - likeness[first], likeness[first] + likeness[second])
            columns = {
                "score": (score + rng.normal(0, 1, len(first))).round(5),
                "same": same.astype(int),
                "sex_a": sex[first],
                "sex_b": sex[second],
                "age_a": age[first],
                "age_b": age[second],
                "person_a": names[first],
                "person_b": names[second],
                "wolf": np.full(len(first), ""),
            }
            csv.write_csv(pa.table(columns), file, csv.WriteOptions(include_header=start == 0))
        for kind, likeness_of_string in _LIKENESS.items():
            columns = {
                "score": (likeness_of_string + likeness + rng.normal(0, 1, people)).round(5),
                "same": np.zeros(people, dtype=int),
                **dict.fromkeys(("sex_a", "sex_b", "age_a", "age_b"), np.full(people, "")),
                "person_a": np.array([f"{kind} of half {number % 2}" for number in range(people)]),
                "person_b": names,
                "wolf": np.full(people, kind),
            }
            csv.write_csv(pa.table(columns), file, csv.WriteOptions(include_header=False))
    typer.echo(f"{output}: {comparisons} comparisons of {people} people")


if __name__ == "__main__":
    sys.exit(app())
