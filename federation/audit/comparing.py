"""What two audits of one system say together: did the worst-treated people come off worse?

An average can improve while one cell gets worse, so the worst cells are compared and nothing else (Raji and Buolamwini,
"Actionable auditing", 2019: what audits named in public is what got better). Beside them, the rates of fixed strings: a
release that is kinder to its owners may be so to thieves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from federation.audit.cells import Rate
from federation.audit.report import AuditReport
from federation.audit.wolf import WolfRates
from federation.errors import UsageError
from federation.verdict import Verdict

RATES: Final = ("fmr", "fnmr")


@dataclass(frozen=True)
class Change:
    """What became of the worst cell's rate.

    Attributes:
        rate: ``fmr``, ``fnmr``, ``wolf_mean`` or ``wolf_best``.
        old_cell: the worst cell of the old report, or empty without data.
        new_cell: the worst cell of the new one, or empty without data.
        old: its rate then, or None.
        new: its rate now, or None.
        verdict: FAIL when the new rate lies above the upper bound of the old one, INSUFFICIENT when nobody can tell.
        reason: the same in words.
    """

    rate: str
    old_cell: str
    new_cell: str
    old: Rate | None
    new: Rate | None
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Comparison:
    """All changes.

    Attributes:
        changes: one for each of `RATES`, and where the old report tried fixed strings, one for each kind of them.
        missing: cells that had data in the old report and have none in the new one.
    """

    changes: tuple[Change, ...]
    missing: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """FAIL if a worst cell got worse, INSUFFICIENT if something cannot be told or is no longer there."""
        verdicts = [change.verdict for change in self.changes]
        return Verdict.worst([*verdicts, Verdict.INSUFFICIENT] if self.missing else verdicts)


def compare(old: AuditReport, new: AuditReport) -> Comparison:
    """Compares the worst cells of two reports.

    Raises:
        UsageError: the reports cut people into groups in different ways, or take bounds at different confidence.
    """
    if old.attributes != new.attributes:
        raise UsageError("the reports group people by different attributes; audit both by the same ones")
    if old.limits.confidence != new.limits.confidence:
        raise UsageError("the reports take bounds at different confidence; audit both with the same")
    tested = {cell.labels for cell in new.cells if cell.fmr.trials and cell.fnmr.trials}
    missing = [cell.name for cell in old.cells if cell.fmr.trials and cell.fnmr.trials and cell.labels not in tested]
    changes = [_change(name, old, new) for name in RATES]
    if old.wolf is not None:
        changes += [_wolf_change(kind, old.wolf, new.wolf) for kind in ("mean", "best")]
    return Comparison(tuple(changes), tuple(missing))


def _wolf_change(kind: str, before: WolfRates, after: WolfRates | None) -> Change:
    name, then = f"wolf_{kind}", getattr(before, kind)
    if after is None:
        reason = "fixed strings without a face were tried before and are not now"
        return Change(name, "everybody", "", then, None, Verdict.INSUFFICIENT, reason)
    now = getattr(after, kind)
    worse = now.value > then.high
    reason = (
        f"the {kind} string without a face is accepted at {now.value:.4g}, {'above' if worse else 'within'} the upper "
        f"bound {then.high:.4g} of the old report"
    )
    return Change(name, "everybody", "everybody", then, now, Verdict.FAIL if worse else Verdict.PASS, reason)


def _change(name: str, old: AuditReport, new: AuditReport) -> Change:
    before, after = old.worst(name), new.worst(name)
    if before is None or after is None:
        reason = f"one report has no comparisons for the {name}"
        return Change(
            name,
            before.name if before else "",
            after.name if after else "",
            getattr(before, name, None),
            getattr(after, name, None),
            Verdict.INSUFFICIENT,
            reason,
        )
    then, now = getattr(before, name), getattr(after, name)
    worse = now.value > then.high
    reason = f"the worst cell's {name} is {now.value:.4g} ({after.name}), " + (
        f"above the upper bound {then.high:.4g} of the old report ({before.name})"
        if worse
        else f"within the upper bound {then.high:.4g} of the old report ({before.name}: {then.value:.4g})"
    )
    return Change(name, before.name, after.name, then, now, Verdict.FAIL if worse else Verdict.PASS, reason)
