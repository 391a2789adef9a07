"""`intaglio audit`: does a verifier serve every group of people? For scores of any system. Mounted by `client.cli`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from client.audit.groups_cli import names_of_groups
from client.bundles import read_as
from client.files import write_new_file
from client.terminal import JsonOption, read_file
from federation.audit.cells import MOST_REPLICATES, REPLICATES, Cell, Limits, Rate
from federation.audit.comparing import compare
from federation.audit.presentation import MOST_APCER
from federation.audit.report import AuditReport
from federation.audit.searching import false_match_in_search
from federation.commandline.commands import Commands
from federation.errors import MalformedMessageError, UsageError
from federation.recognition.model import ModelRelease
from federation.verdict import Verdict

_EXIT = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INSUFFICIENT: 3}
_FMR, _FNMR, _TOLERANCE = 0.001, 0.05, 2.0  # where the limits come from: ADR 0112
_SCORES = "scores"
_SEARCHED = 1000


class _ScoresByDefault(TyperGroup):
    """`intaglio audit FILE` is short for `intaglio audit scores FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the command in front unless there is one, or help is wanted."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [_SCORES, *args]
        return super().parse_args(ctx, args)


audit_app = Commands(
    cls=_ScoresByDefault,
    help="""Audit a verifier's scores for every group of people: `intaglio audit SCORES.csv --groups sex,age`.

    Exit codes: 0 PASS, 1 FAIL, 3 INSUFFICIENT (the data cannot tell: no pass), 2 usage, bad rows.""",
)

ReportOption = Annotated[Path | None, typer.Option(help="Also write a page for people to read; not overwritten.")]


@audit_app.command(_SCORES)
def audit_scores_command(
    scores: Annotated[Path, typer.Argument(help="CSV or Parquet, a row for each comparison.", metavar="SCORES")],
    groups: Annotated[str, typer.Option(help="Columns to group people by, with commas between. All are crossed.")],
    release: Annotated[
        Path | None,
        typer.Option(
            help="Model release that the scores are of, as `release score` wrote them. It says the threshold, the limit"
            " of the rate, that small scores mean alike, and what is tested."
        ),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="The verifier's threshold.")] = None,
    fmr: Annotated[
        float | None,
        typer.Option(help="Or: find the threshold for this false match rate.", show_default=f"{_FMR:g}"),
    ] = None,
    max_fmr: Annotated[
        float | None,
        typer.Option(
            help="Limit of each group's false match rate.",
            show_default=f"twice --fmr; --release's; else {_FMR:g}",
        ),
    ] = None,
    max_fnmr: Annotated[float, typer.Option(help="Limit of each group's false non-match rate.")] = _FNMR,
    max_failure_to_enrol: Annotated[
        float | None, typer.Option(help="Limit of each group's failure to enrol.", show_default="reported, not judged")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of each bound of a rate.")] = 0.95,
    expect: Annotated[
        list[str] | None, typer.Option(help="Groups that have to be there, as sex=f,m,x; repeatable.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="What is tested.", show_default="the file's name")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws of people.")] = 0,
    replicates: Annotated[int, typer.Option(min=0, max=MOST_REPLICATES, help="How many draws of people.")] = REPLICATES,
    report: ReportOption = None,
    *,
    distance: Annotated[bool, typer.Option("--distance", help="Small scores mean alike.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that cannot be read.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge every group of people by the scores that a verifier gave. Works on the scores of any system.

    Columns: score, same, the groups (NAME, or NAME_a and NAME_b), and where known person_a, person_b, failed, wolf, and
    of presentation attacks pad, species and level. Without person columns, comparisons count as independent, and bounds
    are too narrow when people repeat.

    A model release is audited with --release: `release build` takes what --json printed.

    Needs: a file with scores. Writes: the page where --report says.

    Exit codes: 0 PASS, 1 FAIL, 3 INSUFFICIENT (the data cannot tell: no pass), 2 usage or bad rows, 70 a bug,
    130 interrupted.

    Example: intaglio audit scores scores.csv --groups sex,age --fmr 0.001
    """
    if threshold is not None and fmr is not None:
        raise UsageError("--threshold and --fmr exclude each other: an audit has one threshold")
    if release is not None:
        if (threshold, fmr, subject) != (None, None, None):
            raise UsageError("--release says threshold, rate and subject: leave out --threshold, --fmr and --subject")
        tested = read_as(release, ModelRelease.from_bytes)
        threshold, subject, distance = float(tested.threshold), f"release {tested.digest}", True
        max_fmr = tested.fmr if max_fmr is None else max_fmr
    stated = None if threshold is not None else (fmr if fmr is not None else _FMR)
    limit = max_fmr if max_fmr is not None else (_FMR if stated is None else min(_TOLERANCE * stated, 0.5))
    names = names_of_groups(groups)
    # Here and not above: scipy takes long to load, and most commands of this program need none.
    from client.audit.score_files import read_scores  # noqa: PLC0415 - see the line before
    from federation.audit.audit import audit_scores  # noqa: PLC0415 - see above

    file = read_scores(scores, names)
    if not skip_bad:
        file.require_good(scores)
    result = audit_scores(
        file.comparisons,
        strings=file.strings,
        presentations=file.presentations,
        limits=Limits(limit, max_fnmr, max_failure_to_enrol, confidence),
        threshold=threshold,
        stated_fmr=stated,
        distance=distance,
        expected=dict(_expected(text) for text in expect or []),
        subject=subject or scores.name.encode(errors="backslashreplace").decode(),
        input_sha256=file.sha256,
        bad_rows=len(file.bad),
        replicates=replicates,
        seed=seed,
    )
    _finish(result, report, as_json=as_json)


@audit_app.command("show")
def audit_show(
    audit: Annotated[Path, typer.Argument(help="What `intaglio audit SCORES --json` printed.", metavar="AUDIT.json")],
    report: ReportOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Print an audit again, or write its page. Ends with the audit's own exit code.

    Needs: an audit that `audit scores --json` printed. Writes: the page where --report says.

    Exit codes: 0 PASS, 1 FAIL, 3 INSUFFICIENT (the data cannot tell: no pass), 2 usage or bad rows, 70 a bug,
    130 interrupted.

    Example: intaglio audit show audit.json --report audit.html
    """
    _finish(_read_report(audit), report, as_json=as_json)


@audit_app.command("diff")
def audit_diff(
    old: Annotated[Path, typer.Argument(help="The earlier audit, as JSON.", metavar="OLD.json")],
    new: Annotated[Path, typer.Argument(help="The later audit, as JSON.", metavar="NEW.json")],
) -> None:
    """Compare the worst-treated groups of two audits. FAIL when a worst one got worse than its old upper bound.

    Needs: two audits that `audit scores --json` printed. Writes: nothing.

    Exit codes: 0 PASS, 1 FAIL, 3 INSUFFICIENT (the data cannot tell: no pass), 2 usage or bad rows, 70 a bug,
    130 interrupted.

    Example: intaglio audit diff old.json new.json
    """
    comparison = compare(_read_report(old), _read_report(new))
    for change in comparison.changes:
        typer.echo(f"{change.verdict.value:<13} {change.reason}")
    for name in comparison.missing:
        typer.echo(f"{Verdict.INSUFFICIENT.value:<13} {name} was measured before and is not now")
    typer.echo(f"{comparison.verdict.value}")
    raise typer.Exit(_EXIT[comparison.verdict])


def _finish(result: AuditReport, page: Path | None, *, as_json: bool) -> None:
    """Prints the audit, writes its page, and ends with its exit code."""
    if page is not None:
        from client.audit.page import render  # noqa: PLC0415 - matplotlib takes a second to load

        write_new_file(page, render(result).encode())
    typer.echo(result.to_bytes() if as_json else _text(result))  # UTF-8, whatever a terminal writes
    raise typer.Exit(_EXIT[result.outcome])


def _text(result: AuditReport) -> str:
    """The audit for a terminal."""
    scale = "distance" if result.distance else "score"
    chosen = "" if result.stated_fmr is None else f", found for a false match rate of {result.stated_fmr:g}"
    lines = [
        f"{result.subject}: {result.counts.comparisons} comparisons, threshold {scale} {result.threshold:.6g}{chosen}",
        f"limits: FMR {result.limits.fmr:g}, FNMR {result.limits.fnmr:g}; bounds at {result.limits.confidence:g}",
    ]
    if result.overall.people is None:
        lines.append("no people named: comparisons count as independent")
    lines += [
        f"{count} comparisons {why}"
        for count, why in (
            (result.counts.bad, "left out as bad rows"),
            (result.counts.undeclared, "with somebody who declares no group"),
            (result.counts.across, "of impostors from two groups, not judged"),
            (result.counts.failed, "without a score"),
        )
        if count
    ]
    width = max(len(cell.name) for cell in (*result.cells, result.overall))
    lines += ["", f"{'':<{width}}  {'people':>6}  {'FMR (low to high)':<30}  {'FNMR (low to high)':<30}  verdict"]
    lines += [_line(cell, width, cell.verdict(result.limits).value) for cell in result.cells]
    lines += [_line(result.overall, width, "not judged"), ""]
    lines += [*_of_strings(result), "", *_of_attacks(result), ""]
    if result.verdict is Verdict.INSUFFICIENT:
        needed = math.ceil(math.log(1 - result.limits.confidence) / math.log1p(-result.limits.fmr))
        lines.append(
            f"a group without a false match passes at {needed} independent impostor comparisons, with some at more"
        )
    if worst := result.worst("fmr"):
        share = false_match_in_search(worst.fmr.high, _SEARCHED)
        lines.append(
            f"a search among {_SEARCHED} would wrongly match people of {worst.name} up to {100 * share:.3g} % of "
            "the time; intaglio cannot search"
        )
    worst_of_all = result.worst_cell.name
    if result.outcome is not result.verdict:
        is_wolf = result.wolf is not None and result.wolf_verdict is result.outcome
        worst_of_all = "a fixed string without a face" if is_wolf else "presentation attack detection"
    lines.append(f"{result.outcome.value}: worst is {worst_of_all}")
    return "\n".join(lines)


def _of_strings(result: AuditReport) -> list[str]:
    """What fixed strings without a face are accepted at, for a terminal."""
    if result.wolf is None:
        return ["fixed strings without a face: not measured, which is no pass for a release"]
    mean, best, people = result.wolf.mean, result.wolf.best, result.wolf.people
    return [
        f"fixed strings without a face, chosen on one half of {people} people and tried on the other (low to high)",
        f"mean of the domain  {_range(mean):<30}  {result.wolf_verdict.value} at a limit of {result.wolf_limit:g}",
        f"best single image   {_range(best):<30}  not judged",
    ]


def _of_attacks(result: AuditReport) -> list[str]:
    """How often presentation attacks passed, for a terminal."""
    if result.pad is None:
        return ["presentation attacks: not measured"]
    pad = result.pad
    width = max(20, *(len(one.name) for one in pad.species))
    head = f"{'presentation attacks':<{width}}  level  people  {'APCER (low to high)':<30}  {'IAPMR (low to high)':<30}"
    limit = f"limits: APCER {MOST_APCER:g} for each species, BPCER {result.limits.fnmr:g}"
    lines = [f"{head}  verdict"]
    for one in pad.species:
        what = f"{one.name:<{width}}  {one.level.value:<5}  {one.people:>6}"
        verdict = one.apcer.judge(MOST_APCER).value
        lines.append(f"{what}  {_range(one.apcer):<30}  {_range(one.iapmr):<30}  {verdict}")
    refused = f"people taken for an attack, BPCER, of {pad.people}: {_range(pad.bpcer)}"
    return [*lines, f"{refused}  {pad.bpcer.judge(result.limits.fnmr).value}; {limit}"]


def _line(cell: Cell, width: int, verdict: str) -> str:
    people = "?" if cell.people is None else str(cell.people)
    return f"{cell.name:<{width}}  {people:>6}  {_range(cell.fmr):<30}  {_range(cell.fnmr):<30}  {verdict}"


def _range(rate: Rate) -> str:
    return f"{rate.value:.2e} ({rate.low:.2e} to {rate.high:.2e})" if rate.trials else "no comparisons"


def _expected(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    listed = [value.strip() for value in values.split(",") if value.strip()]
    if not equals or not listed:
        raise UsageError(f"--expect {text}: write it as NAME=VALUE,VALUE")
    return name.strip(), listed


def _read_report(path: Path) -> AuditReport:
    try:
        return AuditReport.from_bytes(read_file(path).removesuffix(b"\n"))
    except MalformedMessageError as error:
        raise UsageError(f"{path}: {error}; make it with intaglio audit SCORES --json") from error
