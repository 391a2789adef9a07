"""The organisation's page: what it runs, what that costs in privacy, how it is used, and what needs a person's eye.

Everything on it is public, or the organisation's own ledger. There is no view of a person: the log says nothing about
anybody, and no key id and no opening is read here. `dashboard_page` needs no script and asks nobody for anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from federation.audit.cells import Cell
from federation.bundle import Bundle
from federation.ledger import Account
from federation.purposes import DAY_SECONDS
from federation.statements import text_of_time
from federation.transparency import AttemptEntry, AttemptOutcome, LogEntry
from federation.verdict import Verdict

_WARN_DAYS = 14
_NEARLY_SPENT = 0.9
_LOG_STANDS_STILL_SECONDS = 3600
_MANY_REFUSALS = 0.5
_FEWEST_REQUESTS = 20
_PLOT_SIDE = 220


@dataclass(frozen=True)
class LogState:
    """How the log stands.

    Attributes:
        origin: its name.
        size: entries.
        signed_at: of the newest checkpoint, seconds since 1970.
        other_signatures: signature lines of the newest checkpoint that are not the log's own: witnesses.
        kinds: entries of each kind.
        attempts: requests by requester, purpose and outcome.
    """

    origin: str
    size: int
    signed_at: int
    other_signatures: int
    kinds: Mapping[str, int]
    attempts: Mapping[tuple[str, str, str], int]


def count_entries(entries: Iterable[LogEntry]) -> tuple[Counter[str], Counter[tuple[str, str, str]]]:
    """Entries of each kind; and requests by requester, purpose and outcome."""
    kinds, attempts = Counter[str](), Counter[tuple[str, str, str]]()
    for entry in entries:
        kinds[entry.kind.value] += 1
        if isinstance(entry, AttemptEntry):
            attempts[entry.requester, entry.purpose, entry.outcome.value] += 1
    return kinds, attempts


@dataclass(frozen=True)
class Dashboard:
    """What the page says.

    Attributes:
        bundle: the release that is served.
        log: of the matching service.
        accounts: of the privacy ledger; empty for an organisation that only verifies.
        members: names of the federation's members.
        pending: whether a training run was begun and has not ended.
        now: seconds since 1970.
    """

    bundle: Bundle
    log: LogState
    accounts: tuple[Account, ...]
    members: tuple[str, ...]
    pending: bool
    now: int

    @property
    def alerts(self) -> tuple[str, ...]:
        """What somebody should look at, most urgent first."""
        return tuple(text for text, raised in self._checks() if raised)

    def _checks(self) -> Iterable[tuple[str, bool]]:
        manifest, log = self.bundle.manifest, self.log
        until = text_of_time(manifest.ends_at)
        yield "The release is not valid now: nothing is served.", not manifest.begins_at <= self.now < manifest.ends_at
        yield (
            f"The release's audit ends on {until}: audit it again.",
            0 < manifest.ends_at - self.now < _WARN_DAYS * DAY_SECONDS,
        )
        yield "The audit failed, so the release is not served.", manifest.audit.verdict is Verdict.FAIL
        yield (
            "The audit could not tell enough: only trials of the lowest tier may use this release.",
            manifest.audit.verdict is Verdict.INSUFFICIENT,
        )
        yield (
            "The log's newest checkpoint is more than an hour old: devices refuse it.",
            self.now - log.signed_at > _LOG_STANDS_STILL_SECONDS,
        )
        yield "No witness has cosigned the newest checkpoint.", log.other_signatures == 0
        asked = sum(log.attempts.values())
        refused = asked - sum(n for (*_, outcome), n in log.attempts.items() if outcome == AttemptOutcome.OPENED.value)
        yield (
            f"{refused} of {asked} requests were refused.",
            asked >= _FEWEST_REQUESTS and refused > _MANY_REFUSALS * asked,
        )
        for account in self.accounts:
            yield (
                f"The budget of {account.population} is nearly spent.",
                account.epsilon > _NEARLY_SPENT * account.cap_epsilon,
            )
        yield "A training run was begun and has not ended; start it again, or end it.", self.pending


def dashboard_page(dashboard: Dashboard) -> str:
    """The page, as one HTML file without scripts that loads nothing."""
    sections = (
        _section("What needs a look", _list(dashboard.alerts) if dashboard.alerts else "<p>Nothing.</p>"),
        _section("Release", _release(dashboard.bundle)),
        _section("Use", _use(dashboard.log)),
        _section("Log", _log(dashboard.log)),
        _section("Privacy budget", _budget(dashboard.accounts)),
        _section("Federation", _list(dashboard.members) if dashboard.members else "<p>No members are known here.</p>"),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>intaglio: what runs here</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>What runs here</h1><p>As of {_text(text_of_time(dashboard.now))}. Nothing here is about a person.</p>"
        f"{''.join(sections)}</main></body></html>\n"
    )


def _release(bundle: Bundle) -> str:
    manifest, report = bundle.manifest, bundle.papers.audit_report
    claims = manifest.claims
    measured = claims.epsilon_lower_bound
    facts = (
        ("release", claims.digest.hex()),
        ("valid", f"{text_of_time(manifest.begins_at)} to {text_of_time(manifest.ends_at)}, {manifest.use.value} use"),
        ("false match rate", f"at most {claims.fmr:g} stated, at {claims.threshold} bits"),
        ("privacy", f"epsilon {claims.epsilon:g} for a {claims.privacy_unit} at delta {claims.delta:g}"),
        ("measured by attack", "nobody measured" if measured is None else f"epsilon at least {measured:.2f}"),
        ("audit", manifest.audit.verdict.value),
    )
    head = ("group", "people", "FMR, bounds", "FNMR, bounds", "verdict")
    rows = [
        (
            ", ".join(cell.labels) or "everybody",
            "?" if cell.people is None else str(cell.people),
            f"{cell.fmr.value:.4f} ({cell.fmr.low:.4f} to {cell.fmr.high:.4f})",
            f"{cell.fnmr.value:.4f} ({cell.fnmr.low:.4f} to {cell.fnmr.high:.4f})",
            cell.verdict(report.limits).value,
        )
        for cell in report.cells
    ]
    curves = "".join(_curve(cell) for cell in report.cells)
    return f'{_facts(facts)}{_table("Audit", head, rows)}<div class="plots">{curves}</div>'


def _curve(cell: Cell) -> str:
    """Detection error trade-off of a cell; both axes linear, from 0 to 1."""
    name = ", ".join(cell.labels) or "everybody"
    points = " ".join(f"{_PLOT_SIDE * fmr:.1f},{_PLOT_SIDE * (1 - fnmr):.1f}" for fmr, fnmr in cell.det)
    return (
        f'<figure><svg viewBox="-4 -4 {_PLOT_SIDE + 8} {_PLOT_SIDE + 8}" role="img" aria-label="{_text(name)}">'
        f'<rect class="frame" width="{_PLOT_SIDE}" height="{_PLOT_SIDE}"/><polyline class="curve" points="{points}"/>'
        f"</svg><figcaption>{_text(name)}: false non-match rate (up) against false match rate</figcaption></figure>"
    )


def _use(log: LogState) -> str:
    rows = [(*names, str(count)) for names, count in sorted(log.attempts.items())]
    return _table("Requests, counted from the log's entries", ("requester", "purpose", "outcome", "count"), rows)


def _log(log: LogState) -> str:
    facts = (
        ("log", log.origin),
        ("entries", str(log.size)),
        ("newest checkpoint", text_of_time(log.signed_at)),
        ("signature lines of others, not verified here", str(log.other_signatures)),
        *((kind, str(count)) for kind, count in sorted(log.kinds.items())),
    )
    return _facts(facts)


def _budget(accounts: tuple[Account, ...]) -> str:
    if not accounts:
        return "<p>No privacy ledger was given.</p>"
    rows = [
        (
            account.population,
            f"{_rounded_up(account.epsilon):.2f}",
            f"{account.cap_epsilon - _rounded_up(account.epsilon):.2f}",
            f"{account.delta:g}",
            str(len(account.runs)),
        )
        for account in accounts
    ]
    head = ("population", "epsilon spent", "epsilon left", "delta", "runs")
    return _table("Each population of the ledger", head, rows)


def _rounded_up(epsilon: float) -> float:
    """What was spent must not look like less than it is."""
    return math.ceil(epsilon * 100) / 100


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{body}</section>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>' for name, value in facts)}</dl>"


def _table(caption: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    top = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{_text(value)}</td>' for value in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><caption>{_text(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _text(value: str) -> str:
    return escape(value, quote=True)


_STYLE = """
:root{color-scheme:light dark;--line:#8886}
body{font:16px/1.5 system-ui,sans-serif;margin:0}
main{max-width:62rem;margin:auto;padding:1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;border-top:1px solid var(--line);padding-top:1rem}
dl div{display:flex;gap:1rem;flex-wrap:wrap}dt{min-width:12rem;opacity:.75}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;opacity:.75}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line)}
.plots{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:15rem}figcaption{font-size:.85rem}
.frame{fill:none;stroke:var(--line)}.curve{fill:none;stroke:#0a7a5c;stroke-width:2}
"""
