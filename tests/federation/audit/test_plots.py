"""What the plots of an audit's page show: each cell's own numbers, under its own name, on the right axis."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy.stats import norm

from federation.audit import plots
from federation.audit.cells import Cell, Estimate, Limits, Rate
from tests.bundles import a_report

NOTHING = Estimate(None)


def a_cell(name, fmr, fnmr, eer=0.1, det=((0.1, 0.02), (0.01, 0.2))):
    """Rates as (value, low, high) in thousandths."""
    rates = [Rate(value, 1000, 1000.0, low / 1000, high / 1000) for value, low, high in (fmr, fnmr)]
    return Cell((name,), 50, *rates, None, Estimate(eer), NOTHING, det)


CELLS = (
    a_cell("men of 40 to 59 years, here", (2, 1, 4), (50, 30, 70)),
    a_cell("women, " * 7 + "old", (30, 20, 40), (5, 3, 9), det=((0.1, 0.05), (0.01, 0.3))),
)
REPORT = a_report(cells=CELLS, limits=Limits(0.001, 0.04))


@pytest.fixture
def drawn(monkeypatch):
    kept = []

    def keep(*size):
        kept.append(new(*size))
        return kept[-1]

    new = plots.new_figure
    monkeypatch.setattr(plots, "new_figure", keep)
    return kept


def test_a_curve_of_each_group_with_its_own_rates_and_both_limits(drawn):
    svg = plots.det_plot(REPORT)
    ((_, axes),) = drawn
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("false match rate, %", "false non-match rate, %")
    curves, dots, limits = axes.lines[0:4:2], axes.lines[1:4:2], axes.lines[4:]
    for cell, curve, dot in zip(CELLS, curves, dots, strict=True):
        np.testing.assert_allclose(norm.cdf(curve.get_xydata()), cell.det, rtol=1e-6)
        np.testing.assert_allclose(norm.cdf(dot.get_xydata()), [[cell.fmr.value, cell.fnmr.value]], rtol=1e-6)
    assert [curve.get_label() for curve in curves] == [
        "men of 40 to 59 years, here",
        ("women, " * 7)[:33] + "\N{HORIZONTAL ELLIPSIS}",
    ]
    across, along = (norm.cdf(line.get_data()[side][0]) for side, line in enumerate(limits))
    assert (across, along) == (pytest.approx(0.001), pytest.approx(0.04))
    assert 'aria-label="DET curves of 2 groups;' in svg


def test_of_many_groups_the_curves_of_those_with_the_highest_equal_error_rates_are_drawn():
    names = [f"g{number:02d}" for number in range(10)]
    cells = tuple(a_cell(name, (2, 1, 4), (50, 30, 70), eer=number / 100) for number, name in enumerate(names))
    assert [cell.name for cell in plots.drawn_cells(a_report(cells=cells))] == names[2:]


@pytest.mark.parametrize(("rate", "limit"), [("fmr", 0.001), ("fnmr", 0.04)])
def test_bounds_of_each_group_stand_beside_its_name_and_the_limit(drawn, rate, limit):
    svg = plots.bounds_plot(REPORT, rate, "a rate")
    ((_, axes),) = drawn
    bars, marks = [bar.get_segments()[0] for bar in axes.collections], axes.lines[:2]
    for row, (cell, bar, mark) in enumerate(zip(CELLS, bars, marks, strict=True)):
        wanted = getattr(cell, rate)
        np.testing.assert_allclose(bar, [[wanted.low, row], [wanted.high, row]])
        np.testing.assert_allclose(mark.get_xydata(), [[wanted.value, row]])
    assert axes.lines[2].get_xdata()[0] == limit
    assert [text.get_text()[:5] for text in axes.get_yticklabels()] == ["men o", "women"]
    assert axes.get_xlabel() == "a rate, %"
    assert axes.xaxis.get_major_formatter()(0.012, 0) == "1.2"
    assert f'aria-label="a rate of 2 groups, their bounds and the limit {100 * limit:.3g} %."' in svg


def test_a_group_has_the_colour_and_the_mark_of_its_verdict_and_one_that_nobody_measured_no_mark(drawn):
    """Limit 0.001: one keeps it, of one nobody can tell, one is above it, and one has no comparison."""
    cells = (
        a_cell("a", (0, 0, 1), (50, 30, 70)),
        a_cell("b", (1, 1, 4), (50, 30, 70)),
        a_cell("c", (3, 2, 4), (50, 30, 70)),
        replace(a_cell("d", (0, 0, 1), (50, 30, 70)), fmr=Rate(0, 0, 0.0, 0.0, 1.0)),
    )
    plots.bounds_plot(a_report(cells=cells, limits=Limits(0.001, 0.04)), "fmr", "a rate")
    ((_, axes),) = drawn
    green, amber, red = "#00664f", "#7a5c00", "#a8341a"
    assert [to_hex(bar.get_color()[0]) for bar in axes.collections] == [green, amber, red, amber]
    assert [(to_hex(mark.get_color()), mark.get_marker()) for mark in axes.lines[:-1]] == [
        (green, "o"),
        (amber, "D"),
        (red, "s"),
    ]


def test_without_a_curve_there_is_no_plot_of_curves():
    one = a_cell("a", (1, 1, 4), (50, 30, 70), det=((0.1, 0.02),))
    assert plots.det_plot(a_report(cells=(one,), limits=Limits(0.001, 0.04))) == ""
    assert plots.drawn_cells(a_report(cells=(one, CELLS[0]))) == [CELLS[0]]
