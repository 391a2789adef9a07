"""`intaglio models profile`: measures a recogniser and writes its profile. Mounted by `client.cli`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from client.files import replace_file
from federation.errors import UsageError
from federation.recognition.profile import Provenance

if TYPE_CHECKING:
    from client.faces.profiling import Profiled
    from client.faces.rates import Estimate, Rates

_SUFFIX = ".profile.json"
_UNKNOWN = "not stated by whoever made this profile"
_SHOWN = 6


def models_profile(
    model: Annotated[Path, typer.Argument(help="An .onnx file, or mobilefacenet.")],
    faces: Annotated[
        list[Path],
        typer.Option(help="A set of faces: a sub-folder of images for each person. May be given several times."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Where the profile goes.", show_default="beside the model, where --model looks")
    ] = None,
    terms: Annotated[
        list[str] | None,
        typer.Option(
            help="Licence of a set of faces, consent, and whom to credit: as many as --faces, in their order.",
            show_default=_UNKNOWN,
        ),
    ] = None,
    origin: Annotated[str, typer.Option(help="Where the model comes from.")] = _UNKNOWN,
    licence: Annotated[str, typer.Option(help="On what terms it may be used.")] = _UNKNOWN,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for embeddings, which makes another run fast; biometric data.")
    ] = None,
    training: Annotated[str, typer.Option(help="What it was trained on, and with whose consent.")] = _UNKNOWN,
) -> None:
    """Measure a recogniser on faces and write its profile, without which no model of your own is used.

    Tries how faces are to be cut for it, the order of colours and their scale; then measures in which directions
    embeddings lie, their centres, how pictures of one person differ, how far apart different people lie, its error
    rates with 95 % intervals over people, and its time. It takes a few minutes for a thousand images. Images stay where
    they are; the profile holds means over all people and no number of any one of them.

    Of several sets, one profile more is written for each that leaves it out: only that one may judge the set. A good
    profile needs 5 sets of at least 40 people, and two sittings of everybody.

    Needs: the model, and folders of faces. Writes: FILE.profile.json beside the model, and
    FILE-without-SET.profile.json.

    Example: intaglio models profile own.onnx --faces people
    """
    # Here and not above: the detector and a recogniser take seconds to load, and other commands need neither.
    from client.faces.models import MOBILEFACENET_NAME, profile_beside  # noqa: PLC0415 - see the line before
    from client.faces.profiling import profile_of  # noqa: PLC0415 - see above

    if output is None and str(model) == MOBILEFACENET_NAME:
        raise UsageError(f"name the --output: {MOBILEFACENET_NAME} comes with a profile, which is not overwritten")
    if terms and len(terms) != len(faces):
        raise UsageError(f"name the --terms of each of the {len(faces)} sets of --faces, in their order")
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("faces", total=None)
        done = profile_of(
            model,
            faces,
            provenance=Provenance(origin, licence, training),
            terms=terms or [_UNKNOWN] * len(faces),
            cache=cache,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    out = Console()
    for table in _tables(done):
        out.print(table)
    place = output or profile_beside(model)
    for name, profile in done.without.items():
        beside = place.with_name(f"{place.name.removesuffix(_SUFFIX)}-without-{name}{_SUFFIX}")
        replace_file(beside, profile.to_bytes())
        out.print(f"to judge {name}: profile {profile.digest} in {beside}")
    replace_file(place, done.profile.to_bytes())
    out.print(
        f"{done.finding_milliseconds:.0f} ms of processor time to read an image and find its face, "
        f"{done.milliseconds:.1f} ms for an embedding"
    )
    for problem in done.problems[:_SHOWN]:
        out.print(f"left out: {problem}", highlight=False)
    for lack in done.lacks:
        out.print(f"a better profile needs {lack}", highlight=False)
    out.print(f"profile {done.profile.digest} in {place}")


def _tables(done: Profiled) -> list[Table]:
    tables = []
    if done.tried:
        tried = Table("cut", "colours", "(value - mean) / divisor", "apart", title="Ways to feed it, the best first")
        for way in done.tried[:_SHOWN]:
            mean, divisor = (f"{number / 1000:g}" for number in way.scale)
            tried.add_row(way.alignment, way.colours.value, f"{mean}, {divisor}", f"{way.decidability:.2f}")
        tables.append(tried)
    found = Table("set", "people", "images", "no face", title="Failure to enrol")
    for faces, images in zip(done.profile.sets, _images(done), strict=True):
        found.add_row(faces.name, str(faces.people), str(images), f"{images - faces.images}")
    tables.append(found)
    tables.append(_rates("Cosines of embeddings, clean references, 95 % over people", {"all": done.rates}))
    if done.judged:
        title = f"Codes of {done.profile.code_length} bits through the public adapter that the other sets make"
        tables.append(_rates(title, {judged.faces: judged.rates for judged in done.judged}))
    known = Table("condition", "people", "norm of the mean", "mean distance", "spread", title="Embeddings")
    for each in done.profile.conditions:
        cells = ["not measured"] * 2
        if each.prior is not None:
            distances = each.prior.at_weights[0]
            spread = math.exp(distances.log_spread_millionths / 1e6)
            cells = [f"{distances.mean_millionths / 1e6:.4f}", f"{spread:.4f}"]
        known.add_row(each.name, str(each.people), f"{each.mean_norm:.3f}", *cells)
    tables.append(known)
    return tables


def _rates(title: str, sets: Mapping[str, tuple[Rates, ...]]) -> Table:
    from client.faces.rates import FALSE_MATCH_RATES  # noqa: PLC0415 - see `models_profile`

    columns = ("EER %", *(f"TAR % at FMR {100 * rate:g} %" for rate in FALSE_MATCH_RATES))
    table = Table("set", "probes", "people", "genuine", "impostor", *columns, title=title)
    for name, rates in sets.items():
        for rate in rates:
            cells = [_percent(estimate) for estimate in (rate.eer, *rate.tar)]
            table.add_row(name, rate.condition, str(rate.people), str(rate.genuine), str(rate.impostor), *cells)
    return table


def _images(done: Profiled) -> list[int]:
    """Images of each set of the profile, in its order."""
    return [done.images[faces.name] for faces in done.profile.sets]


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.2f} ({100 * estimate.low:.2f} to {100 * estimate.high:.2f})"
