"""`intaglio models profile`: measures a recogniser and writes its profile. Mounted by `client.cli`."""

from __future__ import annotations

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
    from client.faces.measuring import Estimate
    from client.faces.profiling import Profiled

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
    terms: Annotated[str, typer.Option(help="Licence of the sets of faces, consent, and whom to credit.")] = _UNKNOWN,
    origin: Annotated[str, typer.Option(help="Where the model comes from.")] = _UNKNOWN,
    licence: Annotated[str, typer.Option(help="On what terms it may be used.")] = _UNKNOWN,
    training: Annotated[str, typer.Option(help="What it was trained on, and with whose consent.")] = _UNKNOWN,
) -> None:
    """Measure a recogniser on faces and write its profile, without which no model of your own is used.

    Tries how faces are to be cut for it, the order of colours and their scale; then measures where its embeddings lie,
    its error rates with 95 % intervals over people, and its time. It takes a few minutes for a thousand images. Images
    stay where they are; the profile holds means over all people and no number of any one of them.

    Needs: the model, and folders of faces. Writes: FILE.profile.json beside the model.

    Example: intaglio models profile own.onnx --faces people
    """
    # Here and not above: the detector and a recogniser take seconds to load, and other commands need neither.
    from client.faces.models import MOBILEFACENET_NAME, profile_beside  # noqa: PLC0415 - see the line before
    from client.faces.profiling import profile_of  # noqa: PLC0415 - see above

    if output is None and str(model) == MOBILEFACENET_NAME:
        raise UsageError(f"name the --output: {MOBILEFACENET_NAME} comes with a profile, which is not overwritten")
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("faces", total=None)
        done = profile_of(
            model,
            faces,
            provenance=Provenance(origin, licence, training),
            terms=terms,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    out = Console()
    for table in _tables(done):
        out.print(table)
    place = output or profile_beside(model)
    replace_file(place, done.profile.to_bytes())
    out.print(
        f"{done.finding_milliseconds:.0f} ms of processor time to read an image and find its face, "
        f"{done.measured.milliseconds:.1f} ms for an embedding"
    )
    for problem in done.problems[:_SHOWN]:
        out.print(f"left out: {problem}", highlight=False)
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
    columns = ("EER %", *(f"TAR % at FMR {100 * rate:g} %" for rate in done.measured.false_match_rates))
    rates = Table("probes", "people", "genuine", "impostor", *columns, title="Clean references, 95 % over people")
    for rate in done.measured.rates:
        cells = [_percent(estimate) for estimate in (rate.eer, *rate.tar)]
        rates.add_row(rate.condition, str(rate.people), str(rate.genuine), str(rate.impostor), *cells)
    tables.append(rates)
    moments = Table("condition", "people", "norm of the mean", "spread after centring", title="Embeddings")
    for each in done.profile.moments:
        moments.add_row(each.condition, str(each.people), f"{each.mean_norm:.3f}", f"{each.spread:.4f}")
    tables.append(moments)
    return tables


def _images(done: Profiled) -> list[int]:
    """Images of each set of the profile, in its order."""
    return [done.images[faces.name] for faces in done.profile.sets]


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.2f} ({100 * estimate.low:.2f} to {100 * estimate.high:.2f})"
