"""The plots of the report, as SVG elements to be put inside an HTML page.

Every plot is deterministic (no dates, no random ids), keeps its text as text, refers to nothing outside itself, and
distinguishes its parts by line style or hatching as well as by colour (Okabe and Ito's palette).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.special import ndtri

from examples.demo import wording
from examples.demo.results import Accuracy, Attempts, DemoResult
from federation.drawing import INK, new_figure, our_style, set_deviates, svg_element
from federation.learning.evaluation import accepted_from
from federation.promise import text_of_attacks

_BEFORE: Final = "#6b6b6b"
_AFTER: Final = "#00664f"
_GENUINE: Final = "#0072b2"
_IMPOSTOR: Final = "#d55e00"

_RATES: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
_BINS: Final = 36


def rates_at_threshold(result: DemoResult) -> tuple[float, float]:
    """FMR and FNMR of the held-out pairs at the release's threshold."""
    least = accepted_from(result.threshold, result.code_bits)
    return float(np.mean(result.after.impostor >= least)), float(np.mean(result.after.genuine < least))


@our_style()
def det_plot(result: DemoResult) -> str:
    """DET curves before and after, on normal-deviate axes (ISO/IEC 19795-1)."""
    lowest = min(0.001, result.stated_fmr / 2)
    figure, axes = new_figure(4.5, 4.7)
    # Dashes lie above the solid line: where nothing was adapted, both stay visible.
    for accuracy, label, colour, style, width, order in (
        (result.before, "before: frozen recogniser", _BEFORE, (0, (4, 2)), 1.6, 2.5),
        (result.after, "after: released adapter", _AFTER, "solid", 2.0, 2.0),
    ):
        x, y = (ndtri(np.clip(rates, lowest / 10, 0.999)) for rates in (accuracy.det_fmr, accuracy.det_fnmr))
        axes.plot(x, y, color=colour, linestyle=style, linewidth=width, label=label, zorder=order)
    for accuracy, colour, marker in ((result.before, _BEFORE, "s"), (result.after, _AFTER, "o")):
        at = ndtri(np.clip(accuracy.eer, lowest, 0.6))
        axes.plot(at, at, marker=marker, color=colour, markeredgecolor="white", markersize=6.5, zorder=3)
    limits = (float(ndtri(lowest)), float(ndtri(0.6)))
    axes.plot(limits, limits, color="#b4babc", linewidth=0.9, zorder=1)
    axes.annotate(
        "FMR = FNMR",
        (limits[1], limits[1]),
        (-6, -10),
        textcoords="offset points",
        rotation=45,
        rotation_mode="anchor",
        va="top",
        ha="right",
        color="#667074",
        fontsize=8.5,
    )
    axes.axvline(
        float(ndtri(result.stated_fmr)),
        color=_IMPOSTOR,
        linestyle=(0, (1, 1.5)),
        linewidth=1.5,
        label=f"stated FMR {wording.round_percent(result.stated_fmr)}",
    )
    ticks = [rate for rate in _RATES if rate >= lowest]
    for axis, limit in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        limit(*limits)
        set_deviates(axis, ticks)
    fmr, fnmr = rates_at_threshold(result)
    axes.plot(
        *ndtri(np.clip((fmr, fnmr), lowest, 0.6)),
        marker="D",
        color="none",
        markeredgecolor=_AFTER,
        markeredgewidth=1.6,
        markersize=7.5,
        clip_on=False,
        label="threshold of the release",
    )
    axes.set_aspect("equal")
    axes.set_xlabel("false match rate, %")
    axes.set_ylabel("false non-match rate, %")
    figure.legend(loc="outside upper left", ncols=2, borderaxespad=0.2, columnspacing=1.4, handlelength=1.9)
    return svg_element(
        figure,
        "det",
        f"DET curves. Equal error rate {wording.percent(result.before.eer)} before and "
        f"{wording.percent(result.after.eer)} after.",
    )


@our_style()
def score_plots(result: DemoResult) -> tuple[str, str]:
    """Genuine and impostor scores before and after; the threshold stands on the second, where it applies."""
    highest = 0.0
    drawn = []
    for accuracy in (result.before, result.after):
        figure, axes = new_figure(4.5, 3.1)
        highest = max(highest, _histograms(axes, accuracy))
        figure.legend(loc="outside upper left", ncols=2, borderaxespad=0.2, handlelength=1.6, handleheight=1.0)
        drawn.append((figure, axes))
    (before, before_axes), (after, after_axes) = drawn
    for axes in (before_axes, after_axes):
        axes.set_ylim(0, 1.14 * highest)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_ylabel("share of pairs, %")
    for axes in (before_axes, after_axes):
        axes.set_xlabel("share of bits that two codes have alike")
    least = accepted_from(result.threshold, result.code_bits)
    after_axes.axvline(least, color=INK, linewidth=1.3)
    after_axes.annotate("accept →", (least, 1.08 * highest), (4, 0), textcoords="offset points", va="center")
    return (
        svg_element(before, "before", f"Histograms of scores before adaptation. {_medians(result.before)}"),
        svg_element(
            after,
            "after",
            f"Histograms of scores after adaptation. {_medians(result.after)} "
            f"The threshold of {result.threshold} bits lies at {least:.3f}.",
        ),
    )


@our_style()
def trade_off_plot(result: DemoResult) -> str:
    """The most that any attacker finds of those who trained, over whom it accuses wrongly (Dong, Roth and Su, 2022)."""
    figure, axes = new_figure(4.5, 3.4)
    accused, found = (100 * np.array(column) for column in zip(*result.trade_off, strict=True))
    axes.fill_between(accused, found, 100.0, color=_IMPOSTOR, alpha=0.1, linewidth=0)
    axes.plot(accused, found, color=_AFTER, linewidth=2.0, label="no attacker finds more")
    axes.plot(accused, accused, color=_BEFORE, linestyle=(0, (4, 2)), linewidth=1.4, label="guessing finds")
    if result.attacks is not None:
        stated = 100 * result.attacks.false_accusations, 100 * result.attacks.detected
        axes.plot(*stated, marker="D", color="none", markeredgecolor=_AFTER, markeredgewidth=1.6, label="stated")
    axes.set_xscale("log")
    axes.set_xlim(accused[0], 100)
    axes.set_ylim(0, 100)
    axes.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axes.minorticks_off()
    axes.set_xlabel("innocents accused, %")
    axes.set_ylabel("members found, %")
    figure.legend(loc="outside upper left", ncols=3, borderaxespad=0.2, columnspacing=1.2, handlelength=1.6)
    return svg_element(figure, "trade-off", f"Members found over innocents accused. {text_of_attacks(result.attacks)}")


@our_style()
def latency_plot(attempts: Attempts) -> str:
    """Every verification's work at the server and at the device, with median and 95th percentile."""
    figure, axes = new_figure(4.5, 1.9)
    rows = (("device", attempts.device_ms, _GENUINE), ("server", attempts.server_ms, _AFTER))
    for row, (_, times, colour) in enumerate(rows):
        # The golden ratio spreads neighbours apart without a random generator.
        offsets = 0.44 * ((np.arange(len(times)) * 0.6180339887) % 1 - 0.5)
        axes.plot(times, row + offsets, ".", color=colour, markersize=4, markeredgewidth=0, alpha=0.5)
        marks = row - 0.36, row + 0.36
        axes.vlines(np.quantile(times, 0.5), *marks, colors=INK)
        axes.vlines(np.quantile(times, 0.95), *marks, colors=INK, linestyles=(0, (2, 1)))
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.55, len(rows) - 0.45)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds")
    described = "; ".join(
        f"{name} median {wording.milliseconds(times, 0.5)}, 95th percentile {wording.milliseconds(times, 0.95)}"
        for name, times, _ in rows
    )
    return svg_element(figure, "latency", f"Work per verification: {described}.")


def _histograms(axes: Axes, accuracy: Accuracy) -> float:
    """Draws both histograms, in percent of their pairs, and gives the highest bin."""
    scores = np.concatenate([accuracy.genuine, accuracy.impostor])
    edges = np.linspace(scores.min(), scores.max(), _BINS + 1)
    highest = 0.0
    for values, label, colour, hatch in (
        (accuracy.impostor, "impostor", _IMPOSTOR, "////"),
        (accuracy.genuine, "genuine", _GENUINE, None),
    ):
        shares = 100 * np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, fill=True, color=f"{colour}38", linewidth=0)
        axes.stairs(
            shares, edges, fill=True, facecolor="none", edgecolor=colour, hatch=hatch, linewidth=1.4, label=label
        )
        highest = max(highest, float(shares.max()))
    return highest


def _medians(accuracy: Accuracy) -> str:
    return (
        f"Median of genuine pairs {np.median(accuracy.genuine):.2f}, of impostors {np.median(accuracy.impostor):.2f}."
    )
