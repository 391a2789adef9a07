"""The organisation's page as HTML: one file without scripts that loads nothing. `dashboard.py` says what is on it.

Jinja escapes every value; only our own plots and style sheet are markup.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from federation.audit.cells import Rate
from federation.audit.report import AuditReport
from federation.audit.wolf import text_of_wolves
from federation.consent.purposes import DAY_SECONDS
from federation.rates import Audited
from federation.rules.rulebook import Rulebook
from federation.statements import text_of_time
from federation.transparency import AttemptOutcome
from federation.verdict import Verdict
from server.coordinator.run_records import Outcome, RunRecord
from server.dashboard.dashboard import RECENT_DAYS, RULES_END_SECONDS, Alert, Dashboard, ReleaseState, Unreadable
from server.dashboard.log import LogState, Use, Witnessed
from server.dashboard.rules import moratoria_now, permissions
from server.dashboard.times import date, length, moment

_HERE: Final = Path(__file__).parent
_CSS: Final = (_HERE / "page.css").read_text("utf-8")
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()}'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)
"""The page's content security policy: its own style sheet and nothing else."""
_CHART_DAYS: Final = 30
_LARGEST_FNMR: Final = 0.1
"""That an audit may allow and its pass still be shown as good."""
_MOST_RUNS: Final = 20
_GOOD, _DOUBT, _BAD = "PASS", "INSUFFICIENT", "FAIL"
_COLOUR_OF_RUN: Final = {
    Outcome.RELEASED: _GOOD,
    Outcome.NOT_ENDED: _DOUBT,
    Outcome.INTERRUPTED: _DOUBT,
    Outcome.ABORTED: _BAD,
}
_COLOUR_OF_WITNESS: Final = {Witnessed.VALID: _GOOD, Witnessed.ABSENT: _DOUBT, Witnessed.WRONG: _BAD}
_REFUSED: Final = {
    AttemptOutcome.NOT_COVERED.value: "not enrolled, or no consent covers it",
    AttemptOutcome.LIMITED.value: "too many attempts",
    AttemptOutcome.REPLAYED.value: "a nonce or session that was used before",
    AttemptOutcome.PROHIBITED.value: "prohibited by the rules",
    AttemptOutcome.INVALID.value: "malformed, or not signed",
}


@dataclass(frozen=True)
class _Tile:
    name: str
    value: str
    note: str
    colour: str = ""


@dataclass(frozen=True)
class _UseRow:
    purpose: str
    requester: str
    recent: int
    recent_refused: int
    total: int
    total_refused: int


@dataclass(frozen=True)
class _MemberRow:
    name: str
    asked: int
    dropped: int
    last: int | None


@dataclass(frozen=True)
class _RuleRow:
    what: str
    of: str
    until: str
    state: str
    colour: str


def dashboard_page(dashboard: Dashboard) -> str:
    """Writes the page. Equal values give equal pages."""
    alerts = dashboard.alerts
    log = dashboard.log if isinstance(dashboard.log, LogState) else None
    runs = dashboard.runs[::-1] if isinstance(dashboard.runs, tuple) else ()
    det, drawn, no_det = Markup(), 0, ""
    if isinstance(dashboard.release, ReleaseState):
        det, drawn, no_det = _det(dashboard.release.bundle.papers.audit_report)
    bars, tallest = _bars(log, dashboard.now) if log else (Markup(), 0)
    return _template().render(
        d=dashboard,
        alerts=alerts,
        headline=_headline(alerts),
        tiles=list(_tiles(dashboard)),
        det=det,
        drawn=drawn,
        no_det=no_det,
        uses=_use_rows(log, dashboard.now) if log else [],
        refusals=list(_refusals(log, dashboard.now)) if log else [],
        bars=bars,
        tallest=tallest,
        chart_from=dashboard.now - (_CHART_DAYS - 1) * DAY_SECONDS,
        members=[_member(name, runs) for name in dashboard.members] if isinstance(dashboard.members, tuple) else [],
        runs=runs[:_MOST_RUNS],
        more_runs=max(len(runs) - _MOST_RUNS, 0),
        rules=list(_rule_rows(dashboard, dashboard.rules)) if isinstance(dashboard.rules, Rulebook) else [],
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "policy": POLICY,
        "css": _markup(_CSS),
        "recent_days": RECENT_DAYS,
        "colour_of_run": _COLOUR_OF_RUN,
        "colour_of_witness": _COLOUR_OF_WITNESS,
        "is_unreadable": lambda source: isinstance(source, Unreadable),
        "text_of_time": text_of_time,
        "moment": moment,
        "date": date,
        "length": length,
        "percent": _percent,
        "colour_of": _colour_of,
        "bounds": _bounds,
        "text_of_wolves": text_of_wolves,
        "rounded_up": _rounded_up,
        "runs_in_words": lambda count: f"{count} run{'' if count == 1 else 's'}",
    }
    return environment.get_template("page.html")


def _headline(alerts: tuple[Alert, ...]) -> str:
    now, soon = sum(alert.now for alert in alerts), sum(not alert.now for alert in alerts)
    if now:
        things = "1 thing needs" if now == 1 else f"{now} things need"
        return f"{things} attention now{f', and {soon} soon' if soon else ''}"
    if soon:
        return f"{'1 thing needs' if soon == 1 else f'{soon} things need'} attention soon"
    return "Everything is in order"


def _tiles(dashboard: Dashboard) -> Iterator[_Tile]:
    """The few numbers to see first."""
    release, log, accounts, runs = dashboard.release, dashboard.log, dashboard.accounts, dashboard.runs
    if isinstance(release, ReleaseState):
        manifest = release.bundle.manifest
        audited, claims = manifest.audited, manifest.claims
        verdict = audited.verdict.value
        word = f"trial, {verdict.lower()}" if audited.is_trial else verdict.lower()
        note = f"{audited.text}; valid until {date(manifest.ends_at)}"
        yield _Tile("Release audit", word, note, _colour_of(audited))
        yield _Tile("Stated false match rate", _percent(claims.fmr), claims.rate.text)
    if isinstance(log, LogState):
        recent = _count(log, after_day=_recent_from(dashboard.now))
        refused = sum(recent.values()) - recent[AttemptOutcome.OPENED.value]
        yield _Tile(f"Requests, {RECENT_DAYS} days", f"{sum(recent.values()):,}", f"{refused:,} refused")
        valid = sum(witness.witnessed is Witnessed.VALID for witness in log.witnesses)
        age = length(dashboard.now - log.signed_at)
        note = f"signed {age} ago; {f'{valid} of {len(log.witnesses)} witnesses' if log.witnesses else 'no witness'}"
        yield _Tile("Log entries", f"{log.size:,}", note)
    if isinstance(accounts, tuple) and accounts:
        worst = max(accounts, key=lambda account: account.epsilon / account.cap_epsilon)
        note = f"of {worst.cap_epsilon:g}, for {worst.population}"
        yield _Tile("Epsilon spent", f"{_rounded_up(worst.epsilon):.2f}", note)
    if isinstance(runs, tuple) and runs:
        colour, began = _COLOUR_OF_RUN[runs[-1].outcome], runs[-1].attempts[-1].began_at
        yield _Tile("Last run", runs[-1].outcome.value, date(began), colour)


def _colour_of(audited: Audited) -> str:
    """Green is a pass for general use, at limits that mean something: who refuses most of its people is no success."""
    if audited.verdict is not Verdict.PASS:
        return str(audited.verdict.value)
    return _GOOD if audited.is_passed and audited.fnmr_limit <= _LARGEST_FNMR else _DOUBT


def _recent_from(now: int) -> int:
    return now // DAY_SECONDS - RECENT_DAYS


def _count(log: LogState, *, after_day: int = -1) -> Counter[str]:
    """Requests by outcome."""
    found = Counter[str]()
    for use, count in log.uses.items():
        if use.day > after_day:
            found[use.outcome] += count
    return found


def _use_rows(log: LogState, now: int) -> list[_UseRow]:
    def names(use: Use) -> tuple[str, str]:
        return use.purpose, use.requester

    rows = []
    for (purpose, requester), group in groupby(sorted(log.uses, key=names), names):
        uses = list(group)
        recent = [use for use in uses if use.day > _recent_from(now)]
        rows.append(_UseRow(purpose, requester, *_asked_and_refused(log, recent), *_asked_and_refused(log, uses)))
    return rows


def _asked_and_refused(log: LogState, uses: list[Use]) -> tuple[int, int]:
    refused = sum(log.uses[use] for use in uses if use.outcome != AttemptOutcome.OPENED.value)
    return sum(log.uses[use] for use in uses), refused


def _refusals(log: LogState, now: int) -> Iterator[tuple[str, int, int]]:
    recent, total = _count(log, after_day=_recent_from(now)), _count(log)
    for outcome, reason in _REFUSED.items():
        if total[outcome]:
            yield reason, recent[outcome], total[outcome]


def _bars(log: LogState, now: int) -> tuple[Markup, int]:
    """Requests a day as SVG, and the number of the tallest day. The tables have the numbers."""
    today = now // DAY_SECONDS
    days = range(today - _CHART_DAYS + 1, today + 1)
    served, refused = Counter[int](), Counter[int]()
    for use, count in log.uses.items():
        (served if use.outcome == AttemptOutcome.OPENED.value else refused)[use.day] += count
    tallest = max(served[day] + refused[day] for day in days)
    shapes = []
    for column, day in enumerate(days):
        top = 100.0
        for name, counts in (("served", served), ("refused", refused)):
            tall = 100 * counts[day] / max(tallest, 1)
            top -= tall
            if tall:
                x, y = 10 * column + 1, f"{top:.2f}"
                shapes.append(f'<rect class="{name}" x="{x}" y="{y}" width="8" height="{tall:.2f}"/>')
    label = f"Requests on each of the last {_CHART_DAYS} days, {tallest} on the busiest one."
    svg = (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {10 * _CHART_DAYS} 100" preserveAspectRatio="none">'
        f'<path class="axis" d="M0 100H{10 * _CHART_DAYS}"/>{"".join(shapes)}</svg>'
    )
    return _markup(svg), tallest


def _det(report: AuditReport) -> tuple[Markup, int, str]:
    """The plot, how many groups are in it, and why there is none."""
    if not any(len(cell.det) > 1 for cell in report.cells):
        return Markup(), 0, "The audit brought no DET curves."
    try:
        from federation.audit import plots  # noqa: PLC0415 - matplotlib is an extra, and all the rest does without
    except ImportError:
        return Markup(), 0, "DET curves are drawn where matplotlib is installed: intaglio[audit]."
    return _markup(_without_styles(plots.det_plot(report))), len(plots.drawn_cells(report)), ""


def _without_styles(svg: str) -> str:
    """Writes inline styles as the attributes that SVG has for them: the page's policy allows no inline style."""

    def attributes(style: re.Match[str]) -> str:
        pairs = (declaration.partition(":") for declaration in style[1].split(";") if declaration.strip())
        return "".join(f' {name.strip()}="{value.strip()}"' for name, _, value in pairs)

    return re.sub(r' style="([^"<>]*)"', attributes, svg)


def _member(name: str, runs: tuple[RunRecord, ...]) -> _MemberRow:
    """What the records say of a member, by the name that it has in them."""
    attempts = [attempt for run in runs for attempt in run.attempts]
    return _MemberRow(
        name,
        asked=sum(any(name in attempt.asked for attempt in run.attempts) for run in runs),
        dropped=sum(any(name == out.member for out in run.drop_outs) for run in runs),
        last=max((a.began_at for a in attempts if any(name in made.members for made in a.sums)), default=None),
    )


def _rule_rows(dashboard: Dashboard, book: Rulebook) -> Iterator[_RuleRow]:
    now = dashboard.now
    for moratorium in moratoria_now(book, now):
        begun = moratorium.begins_at <= now
        state = "stops" if begun else f"begins {date(moratorium.begins_at)}"
        yield _RuleRow(f"Moratorium {moratorium.identifier}", moratorium.reason, "it is lifted", state, _BAD)
    for each in permissions(book, now, dashboard.deployment):
        if each.is_replaced:
            state, colour = "replaced", ""
        elif now < each.begins_at:
            state, colour = f"begins {date(each.begins_at)}", _DOUBT
        elif each.ends_at <= now:
            state, colour = "ended", _BAD
        elif each.ends_at - now < RULES_END_SECONDS:
            state, colour = "ends soon", _DOUBT
        else:
            state, colour = "in force", _GOOD
        yield _RuleRow(each.what, each.where, date(each.ends_at), state, colour)


def _percent(rate: float | None) -> str:
    """Three digits, no exponent."""
    if rate is None or math.isnan(rate):
        return "none"
    shown = 100 * rate
    digits = max(0, 2 - math.floor(math.log10(shown))) if shown else 0
    number = f"{shown:.{digits}f}"
    return f"{number.rstrip('0').rstrip('.') if digits else number} %"


def _bounds(rate: Rate) -> str:
    return f"{_percent(rate.low)} to {_percent(rate.high)}" if rate.trials else "nothing is known"


def _rounded_up(epsilon: float) -> float:
    """What was spent must not look like less than it is."""
    return math.ceil(epsilon * 100) / 100


def _markup(ours: str) -> Markup:
    """Text that this package wrote itself and that must not be escaped."""
    return Markup(ours)  # noqa: S704 - style sheet and plots; matplotlib escapes the labels in them
