"""The plots of an audit's page, as SVG elements: no dates, no random ids, text stays text, nothing from elsewhere.

Lines differ by style as well as by colour (Okabe and Ito's palette), and everything that is drawn is also in a table.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.ticker import NullLocator
from scipy.special import ndtri

from federation.audit.cells import Cell
from federation.audit.report import AuditReport
from federation.drawing import INK, new_figure, our_style, set_deviates, svg_element
from federation.verdict import Verdict

_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#6b6b6b", "#000000")
_DASHES: Final = ("solid", (0, (5, 1.5)), (0, (2, 1)), (0, (5, 1.5, 1, 1.5)))
_MARKS: Final = {Verdict.PASS: "o", Verdict.INSUFFICIENT: "D", Verdict.FAIL: "s"}
_SHADES: Final = {Verdict.PASS: "#00664f", Verdict.INSUFFICIENT: "#7a5c00", Verdict.FAIL: "#a8341a"}
_TICKS: Final = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)


def drawn_cells(report: AuditReport) -> list[Cell]:
    """The cells whose curves are drawn: all, or those with the highest equal error rates where there are many."""
    curved = [cell for cell in report.cells if len(cell.det) > 1]
    worst = sorted(curved, key=lambda cell: -(cell.eer.value or 0))[: len(_COLOURS)]
    return [cell for cell in curved if cell in worst]


@our_style()
def det_plot(report: AuditReport) -> str:
    """Detection error trade-off of each cell, on normal-deviate axes (ISO/IEC 19795-1). Empty without curves."""
    cells = drawn_cells(report)
    if not cells:
        return ""
    lowest = min(min(fmr for fmr, _ in cell.det) for cell in cells)
    floor = min([fnmr for cell in cells for _, fnmr in cell.det if fnmr > 0], default=lowest)
    figure, axes = new_figure(4.8, 4.9)
    for number, cell in enumerate(cells):
        x, y = (ndtri(np.clip(rates, 1e-9, 1 - 1e-9)) for rates in np.array(cell.det).T)
        colour, dash = _COLOURS[number], _DASHES[number % len(_DASHES)]
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.8, label=_short(cell.name))
        at = [cell.fmr.value, cell.fnmr.value]
        axes.plot(*ndtri(np.clip(at, 1e-9, 1 - 1e-9)), "o", color=colour, markeredgecolor="white", markersize=6)
    set_deviates(axes.xaxis, [rate for rate in _TICKS if rate >= lowest / 2])
    set_deviates(axes.yaxis, [rate for rate in _TICKS if rate >= min(floor, 0.01) / 2])
    axes.set_xlim(float(ndtri(lowest / 2)), float(ndtri(0.6)))
    axes.set_ylim(float(ndtri(min(floor, 0.01) / 2)), float(ndtri(0.6)))
    axes.axvline(float(ndtri(report.limits.fmr)), color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)))
    axes.axhline(float(ndtri(report.limits.fnmr)), color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)))
    axes.set_xlabel("false match rate, %")
    axes.set_ylabel("false non-match rate, %")
    figure.legend(loc="outside upper left", ncols=2, borderaxespad=0.2, columnspacing=1.4, handlelength=2.6)
    return svg_element(figure, "det", f"DET curves of {len(cells)} groups; the table has the rates at the threshold.")


@our_style()
def bounds_plot(report: AuditReport, rate: str, name: str) -> str:
    """Every cell's rate with its bounds against the limit, on a logarithmic axis.

    Args:
        report: the audit.
        rate: ``fmr`` or ``fnmr``.
        name: of the rate, for the axis.
    """
    limit = float(getattr(report.limits, rate))
    rates = [getattr(cell, rate) for cell in report.cells]
    known = [number for each in rates for number in (each.low, each.value, each.high) if 0 < number < 1]
    left, right = min([limit / 5, *known]) / 1.5, min(1.0, max([limit * 5, *known]) * 1.5)
    left = max(left, limit / 1000)
    figure, axes = new_figure(4.8, 0.9 + 0.27 * len(rates))
    for row, each in enumerate(rates):
        verdict = each.judge(limit)
        colour = _SHADES[verdict]
        axes.hlines(row, max(each.low, left), each.high, colors=colour, linewidth=2.2)
        if each.trials:
            value = max(each.value, left)
            axes.plot(value, row, _MARKS[verdict], color=colour, markersize=6, markeredgecolor="white", clip_on=False)
    axes.axvline(limit, color=INK, linewidth=1.2, linestyle=(0, (1, 1.5)))
    axes.annotate("limit", (limit, -0.75), (3, 0), textcoords="offset points", fontsize=8.5, va="center")
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{100 * value:.3g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(len(rates) - 0.4, -1.1)
    axes.set_yticks(range(len(rates)), [_short(cell.name) for cell in report.cells])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{name}, %")
    return svg_element(figure, rate, f"{name} of {len(rates)} groups, their bounds and the limit {100 * limit:.3g} %.")


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33]}…"  # noqa: PLR2004 - what fits beside a plot
