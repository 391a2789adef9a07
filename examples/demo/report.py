"""The report of a demo run: one HTML file that needs no network, no script and no second file.

The page is written in ``report.html`` and ``report.css``. Jinja escapes every value that is not explicitly markup; only
the plots and our own style sheet are. The page is well-formed XML too, so that a strict parser can check it.
"""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from examples.demo import plots, wording
from examples.demo.results import DemoResult
from federation.audit.wolf import text_of_wolves
from federation.promise import percent_up, text_of_attacks

_HERE = Path(__file__).parent
_SPREAD_OVER_SPLITS = 0.02
"""How far the EER of the ORL faces moves with the choice of held-out people."""


def render(result: DemoResult) -> str:
    """Writes the page. Equal results give equal pages.

    Args:
        result: what the run found out. Its crops, if any, are biometric and end up on the page.

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
    fmr, fnmr = plots.rates_at_threshold(result)
    scores_before, scores_after = plots.score_plots(result)
    return environment.get_template("report.html").render(
        r=result,
        a=result.attempts,
        w=wording,
        css=_markup((_HERE / "report.css").read_text("utf-8")),
        det=_markup(plots.det_plot(result)),
        scores_before=_markup(scores_before),
        scores_after=_markup(scores_after),
        latency=_markup(plots.latency_plot(result.attempts)),
        trade_off=_markup(plots.trade_off_plot(result) if result.trade_off else ""),
        attacks=text_of_attacks(result.attacks),
        wolves=text_of_wolves(result.wolf),
        decisions=result.attempts.genuine + result.attempts.impostor,
        fmr=fmr,
        fnmr=fnmr,
        eer_change=_eer_change(result),
        longest=max((stage.seconds for stage in result.stages), default=0.0) or 1.0,
        people=lambda number: wording.count(number, "person", "people"),
        rate=lambda part, whole: wording.percent(part / whole) if whole else "none made",
        percent_up=percent_up,
        base64=lambda png: base64.b64encode(png).decode("ascii"),
    )


def _eer_change(result: DemoResult) -> str:
    """What became of the equal error rate, with as much confidence as one run deserves."""
    change = result.after.eer - result.before.eer
    if not result.adapted:
        return "what it was: this release changes no embedding"
    size = f"{wording.percentage_points(change)} {'lower' if change < 0 else 'higher'} after adaptation"
    if abs(change) < _SPREAD_OVER_SPLITS:
        return f"{size}, which is less than it moves with the choice of the people who are held out"
    return f"{size}, which is more than it moves with the choice of the people who are held out"


def _markup(ours: str) -> Markup:
    """Text that this package wrote itself and that must not be escaped."""
    return Markup(ours)  # noqa: S704 - plots and style sheet; nothing in them comes from a run but numbers
