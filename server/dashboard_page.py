"""The organisation's page: one HTML file, no script, no request to anywhere.

Jinja escapes every value; only our own plots and style sheet are markup. The page is well-formed XML too, so that a
strict parser can check it.
"""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from federation.audit import plots
from federation.transparency import AttemptOutcome, PersonalKind, PublicKind
from server.dashboard import POLICY, Dashboard

_HERE: Final = Path(__file__).parent
_OUTCOMES: Final = {
    AttemptOutcome.OPENED: "opened",
    AttemptOutcome.NOT_COVERED: "no consent",
    AttemptOutcome.LIMITED: "too many",
    AttemptOutcome.REPLAYED: "replayed",
    AttemptOutcome.PROHIBITED: "prohibited",
    AttemptOutcome.INVALID: "invalid",
}
_KINDS: Final = {
    PersonalKind.ENROLMENT: "enrolments",
    PersonalKind.ATTEMPT: "requests to verify",
    PersonalKind.REVOCATION: "revocations",
    PersonalKind.RENEWAL: "renewals",
    PersonalKind.ERASURE: "erasures",
    PublicKind.POLICY: "policies",
    PublicKind.DEPLOYMENT: "deployments",
    PublicKind.MORATORIUM: "moratoria and liftings",
    PublicKind.RELEASE: "releases",
}


def render(dashboard: Dashboard) -> str:
    """Writes the page.

    Args:
        dashboard: holds counts and names of organisations; nothing about a person.

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
    report = dashboard.release.report if dashboard.release else None
    return environment.get_template("dashboard.html").render(
        d=dashboard,
        r=report,
        policy=POLICY,
        css=_markup((_HERE / "dashboard.css").read_text("utf-8")),
        det=_markup(plots.det_plot(report)) if report else "",
        bounds=_markup(plots.bounds_plot(report, "fmr", "false match rate")) if report else "",
        outcomes=_OUTCOMES,
        kinds=_KINDS,
        time=_time,
        day=lambda seconds: _time(seconds)[:10],
        percent=_percent,
    )


def _time(seconds: int) -> str:
    """In UTC, to the minute."""
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M} UTC"


def _percent(rate: float) -> str:
    return "none" if math.isnan(rate) else f"{100 * rate:.3g} %"


def _markup(ours: str) -> Markup:
    """Text that this package wrote itself and that must not be escaped."""
    return Markup(ours)  # noqa: S704 - style sheet and plots; matplotlib escapes the labels in them
