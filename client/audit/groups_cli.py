"""`intaglio release score` and `intaglio release threshold`: for which groups of people a release keeps its rate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.bundles import read_as
from client.files import write_new_file
from client.terminal import JsonOption, progress_bar, show
from federation.commandline.extras import require_extra
from federation.errors import UsageError
from federation.groups import ThresholdFor
from federation.recognition.model import ModelRelease

ReleaseArgument = Annotated[Path, typer.Argument(help="Model release, as training or `public` wrote it.")]
GroupsOption = Annotated[str, typer.Option(help="What people are grouped by: names of columns, with commas between.")]


def score_command(
    release: ReleaseArgument,
    scores: Annotated[Path, typer.Argument(help="File to write, CSV; never overwritten.", show_default=False)],
    images: Annotated[Path, typer.Option(help="A sub-folder for each person, who agreed to be measured.")],
    labels: Annotated[Path, typer.Option(help="CSV: the first column names the folder, others say what they are.")],
    groups: GroupsOption,
    model: Annotated[
        Path | None,
        typer.Option(help="Recogniser: an .onnx file, its profile beside it.", show_default="the one that comes along"),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare labelled people's pictures as devices under a release would, and write the distances.

    Each person's first half of pictures are references, the others probes. Folders `reference` and `probe` inside hold
    the pictures of two cameras; else the release's camera condition is imitated. The people trained nothing and are not
    those of the release's audit, or each of both flatters. Labels are what people say of themselves. The file names
    nobody; it is as confidential as the pictures.

    Needs: the release, pictures, labels, intaglio[device]. Writes: SCORES.

    Example: intaglio release score release.json scores.csv --images faces --labels labels.csv --groups sex,age
    """
    require_extra("device")
    from client.audit.scoring import read_labels, write_scores  # noqa: PLC0415 - the rest needs no NumPy
    from client.faces.datasets import face_folder  # noqa: PLC0415 - the same
    from client.faces.judging import judging_recogniser  # noqa: PLC0415 - the same
    from client.faces.models import recogniser_for  # noqa: PLC0415 - the same

    if scores.exists():
        raise UsageError(f"{scores} exists and is not overwritten; choose another path")
    made = read_as(release, ModelRelease.from_bytes)
    recogniser = recogniser_for(made, judging_recogniser(images, face_folder(images), model), "reference")
    with progress_bar() as bar:
        task = bar.add_task("people")
        done = write_scores(
            scores,
            made,
            recogniser,
            images,
            read_labels(labels, names_of_groups(groups)),
            progress=lambda count, total: bar.update(task, completed=count, total=total),
        )
    for problem in done.problems:
        typer.echo(f"left out: {problem}", err=True)
    facts = {"scores": str(scores), "release": made.digest, "people": str(done.people)}
    show(facts | {"comparisons": str(done.comparisons)}, as_json=as_json)


def threshold_command(
    release: ReleaseArgument,
    new: Annotated[Path, typer.Argument(help="File to write; never overwritten.", show_default=False)],
    scores: Annotated[Path, typer.Option(help="Distances under this release, as `score` writes them.")],
    groups: GroupsOption,
    threshold_for: Annotated[
        ThresholdFor | None,
        typer.Option(
            help="Whose false match rate is kept.",
            show_default="worst-group where a group has 40 people, else everybody",
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Set a release's threshold so that every group of 40 people or more keeps the stated false match rate.

    Groups are made by every attribute, and by several together. The upper bound of each group's rate keeps what the
    release states; the threshold only becomes stricter. Smaller groups are named, are INSUFFICIENT and set nothing. The
    release says for whom its rate holds, and what a site should expect where all are alike. Audit it on other people.

    Needs: the release, scores of labelled people, intaglio[audit]. Writes: NEW.

    Example: intaglio release threshold release.json fair.json --scores scores.csv --groups sex,age
    """
    require_extra("audit")
    from client.audit.score_files import read_scores  # noqa: PLC0415 - the rest needs no NumPy
    from federation.audit.worst_group import for_groups  # noqa: PLC0415 - the same

    file, before = read_scores(scores, names_of_groups(groups)), read_as(release, ModelRelease.from_bytes)
    file.require_good(scores)
    made = for_groups(before, file.comparisons, scores=file.sha256, rule=threshold_for)
    write_new_file(new, made.to_bytes())
    held = made.held_for
    show(
        {
            "holds_for": held.text if held else "",
            "threshold_for": held.rule.value if held else "",
            "release": str(new),
            "digest": made.digest,
            "threshold": f"{made.threshold} of {made.code_length} bits, {before.threshold} before",
            "rate": made.rate.text,
            **{
                f"group {group.name}": f"{group.people} people, {group.errors} of {group.trials} comparisons, "
                f"FMR at most {100 * group.fmr_high:.3g} %{'' if group.sets_threshold else ', INSUFFICIENT'}"
                for group in (held.groups if held else ())
            },
        },
        as_json=as_json,
    )


def names_of_groups(text: str) -> list[str]:
    """Columns that somebody named.

    Raises:
        UsageError: none, or one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UsageError("--groups names columns, each once, with commas between")
    return names
