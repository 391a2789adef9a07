"""The page of an audit, for people who have to decide: one HTML file, no script, no request to anywhere.

Jinja escapes every value; only our own plots and style sheet are markup. The page is well-formed XML too, so that a
strict parser can check it. Equal reports give equal pages.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from federation.audit import plots
from federation.audit.cells import Estimate, Rate
from federation.audit.presentation import MOST_APCER
from federation.audit.report import AuditReport
from federation.audit.searching import false_match_in_search
from federation.verdict import Verdict

_HERE: Final = Path(__file__).parent
_SEARCHED: Final = (100, 1_000, 10_000, 100_000, 1_000_000)

MEASURES: Final = {
    "fmr_max_over_min": ("False matches, worst over best", "1 is equal. NIST FRVT part 3."),
    "fmr_max_over_geometric_mean": ("False matches, worst over geometric mean", "1 is equal. NIST FRVT part 8."),
    "fmr_gini": ("False matches, Gini coefficient", "0 is equal, 1 is all errors in one group."),
    "fnmr_max_over_min": ("False non-matches, worst over best", "1 is equal."),
    "fnmr_max_over_geometric_mean": ("False non-matches, worst over geometric mean", "1 is equal."),
    "fnmr_gini": ("False non-matches, Gini coefficient", "0 is equal."),
    "fairness_discrepancy_rate": (
        "Fairness discrepancy rate",
        "1 is equal. Differences, not ratios: small rates look fair. De Freitas Pereira and Marcel.",
    ),
    "inequity_ratio": ("Inequity ratio", "1 is equal. Both worst-over-best ratios, multiplied as square roots. NIST."),
    "garbe": ("GARBE", "0 is equal. Mean of both Gini coefficients. Howard et al."),
    "skewed_error_ratio": ("Skewed error ratio", "1 is equal. Worst over best mean of both rates. Wang and Deng."),
}
"""Title and one line for each differential."""


def render(report: AuditReport) -> str:
    """Writes the page.

    Args:
        report: holds no scores and no names, so the page does not either.

    Returns:
        A complete HTML document that refers to nothing outside itself.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    verdicts = [cell.verdict(report.limits) for cell in report.cells]
    worst = report.worst("fmr")
    return environment.get_template("page.html").render(
        r=report,
        verdict=report.verdict.value,
        headline=_headline(report),
        tally={verdict.value: verdicts.count(verdict) for verdict in Verdict},
        worst=worst,
        measures={name: shown for name, shown in MEASURES.items() if report.differentials[name].value is not None},
        undefined=[title for name, (title, _) in MEASURES.items() if report.differentials[name].value is None],
        searches=[
            (size, false_match_in_search(worst.fmr.value, size), false_match_in_search(worst.fmr.high, size))
            for size in _SEARCHED
        ]
        if worst
        else [],
        needed=math.ceil(math.log(1 - report.limits.confidence) / math.log1p(-report.limits.fmr)),
        drawn=len(plots.drawn_cells(report)),
        css=_markup((_HERE / "page.css").read_text("utf-8")),
        det=_markup(plots.det_plot(report)),
        fmr_bounds=_markup(plots.bounds_plot(report, "fmr", "false match rate")),
        fnmr_bounds=_markup(plots.bounds_plot(report, "fnmr", "false non-match rate")),
        most_apcer=MOST_APCER,
        percent=_percent,
        bounds=_bounds,
        number=_number,
        range=_range,
    )


def _headline(report: AuditReport) -> str:
    """The verdict as a sentence that claims no more than the data do."""
    failed = sum(cell.verdict(report.limits) is Verdict.FAIL for cell in report.cells)
    unknown = sum(cell.verdict(report.limits) is Verdict.INSUFFICIENT for cell in report.cells)
    total = len(report.cells)
    if failed:
        return f"{failed} of {total} groups {'gets' if failed == 1 else 'get'} more errors than the limits allow"
    if unknown:
        return f"The data cannot tell for {unknown} of {total} groups whether the limits are kept"
    return f"The limits are kept for {'the one group' if total == 1 else f'all {total} groups'} that were tested"


def _percent(rate: float | None) -> str:
    """Three digits, no exponent."""
    if rate is None or math.isnan(rate):
        return "none"
    shown = 100 * rate
    if shown == 0:
        return "0 %"
    digits = max(0, 2 - math.floor(math.log10(shown)))
    return f"{shown:.{digits}f}".rstrip("0").rstrip(".") + " %" if digits else f"{shown:.0f} %"


def _bounds(rate: Rate) -> str:
    return f"{_percent(rate.low)} to {_percent(rate.high)}" if rate.trials else "nothing is known"


def _number(number: float) -> str:
    return f"{number:.3g}"


def _range(estimate: Estimate, *, percent: bool) -> str:
    """The bounds of an estimate in words."""
    if estimate.low is None and estimate.high is None:
        return ""
    shown = _percent if percent else _number
    low = "?" if estimate.low is None else shown(estimate.low)
    return f"{low} to {'unbounded' if estimate.high is None else shown(estimate.high)}"


def _markup(ours: str) -> Markup:
    """Text that this package wrote itself and that must not be escaped."""
    return Markup(ours)  # noqa: S704 - style sheet and plots; matplotlib escapes the labels in them
