"""The trials of a frontier on disk, one row each, and their picture.

The file is CSV after one line of settings. A row is appended when its trial is done and is on disk before the next one
begins: a kill costs the trial that was running. A crash in the middle of a row leaves a last line without its end,
which the next sweep cuts off. Who goes on with a file must have the settings that it began with.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from client.files import sync_folder
from federation.errors import UsageError
from federation.experiments.frontier import Measurement, Method, Summary, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from federation.privacy.tradeoff import TradeOff

FORMAT: Final = "intaglio-frontier-3"
_INK, _COLOURS = "#444444", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BASELINES: Final = {
    Method.FROZEN: ("not adapted", ":"),
    Method.PUBLIC: ("public knowledge alone", "--"),
    Method.OWN: ("one organisation alone, shared with nobody", (0, (1, 3))),
    Method.FEDERATED: ("all organisations, without privacy", "-."),
}


class TrialFile:
    """An open file of trials. Only one process at a time; see `open_trials`."""

    def __init__(self, file: BinaryIO, done: list[Measurement]) -> None:
        self._file = file
        self.done = done

    def append(self, measurement: Measurement) -> None:
        """Adds one row, on disk when this returns."""
        self._file.write(_line(measurement.to_row()))
        # A crash before this line may leave a part of the row, which the next sweep cuts off.
        os.fsync(self._file.fileno())
        self.done.append(measurement)

    def pending(self, trials: list[Trial]) -> list[Trial]:
        """Those of `trials` that are not done yet, in order."""
        done = {measurement.trial for measurement in self.done}
        return [trial for trial in trials if trial not in done]


@contextmanager
def open_trials(path: Path, settings: Mapping[str, str | int | float]) -> Iterator[TrialFile]:
    """Opens a file of trials, or begins one, with mode 0600.

    Args:
        path: the CSV file.
        settings: everything that decides a trial's result besides the trial itself and the noise.

    Raises:
        UsageError: it was made with other settings, another sweep writes to it, or it cannot be used.
    """
    head = f"# {FORMAT} {json.dumps(dict(settings), sort_keys=True)}\n".encode()
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
    except OSError as error:
        raise UsageError(f"cannot open {path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # released when the file is closed, or when the process dies
        except OSError as error:
            raise UsageError(f"another sweep is writing to {path}; wait for it, or choose another file") from error
        lines = file.read().splitlines(keepends=True)
        torn = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if len(lines) < 2:  # noqa: PLR2004 - settings and names of columns: without both there is no row yet
            if lines and lines[0] != head:
                raise UsageError(_other_settings(path))
            file.seek(0)
            file.truncate()
            file.write(head + _line({name: name for name in Measurement.columns()}))
            os.fsync(file.fileno())
            sync_folder(path.parent)
            yield TrialFile(file, [])
            return
        if lines[0] != head:
            raise UsageError(_other_settings(path))
        file.truncate(file.tell() - len(torn))
        file.seek(0, os.SEEK_END)
        rows = csv.DictReader(line.decode("utf-8", "replace") for line in lines[1:])
        try:
            yield TrialFile(file, [Measurement.from_row(row) for row in rows])
        except csv.Error as error:
            raise UsageError(f"{path} is no CSV file that this command wrote; choose another") from error


def _other_settings(path: Path) -> str:
    return f"{path} is no frontier of these people with these settings; choose another --output"


def _line(row: Mapping[str, str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([row[name] for name in Measurement.columns()])
    return text.getvalue().encode()


def picture(summaries: list[Summary], curves: Mapping[float, TradeOff], *, title: str, form: str) -> bytes:
    """Two pictures: EER over epsilon with the baselines, and what an attacker finds at each epsilon.

    On the left one line for each number of people, with bars of one deviation over splits.

    Args:
        summaries: of all trials.
        curves: what each epsilon lets an attacker do.
        title: above the picture.
        form: ``png`` or ``svg``.

    Raises:
        UsageError: matplotlib is not installed, or there is nothing private to draw.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an optional library
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional library
    except ImportError as error:
        raise UsageError("a picture needs matplotlib: pip install 'intaglio[demo]'") from error
    private = [s for s in summaries if s.method is Method.PRIVATE]
    if not private:
        raise UsageError("there is no private trial to draw yet")
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    axes, attacks = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_attacks(attacks, curves)
    for number, people in enumerate(sorted({s.people for s in private})):
        mine = [s for s in private if s.people == people]
        axes.errorbar(
            [s.epsilon for s in mine],
            [100 * s.eer[0] for s in mine],
            [100 * s.eer[1] for s in mine],
            color=_COLOURS[number % len(_COLOURS)],
            marker="o",
            capsize=3,
            label=f"private, noise for {people} people",
        )
    _draw_baselines(axes, summaries)
    axes.set_xscale("log")
    axes.set_xticks(sorted({s.epsilon for s in private}), [f"{e:g}" for e in sorted({s.epsilon for s in private})])
    axes.minorticks_off()
    axes.set_xlabel("epsilon for each person (log scale)")
    axes.set_ylabel("EER in %, held-out people")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.legend(title="bars: one standard deviation over splits", title_fontsize=8, fontsize=8, frameon=False)
    for each in (axes, attacks):
        each.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    # One picture for one table: no date, no random names of elements.
    with mpl.rc_context({"svg.hashsalt": "intaglio"}):
        figure.savefig(stream, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return stream.getvalue()


def _draw_attacks(axes: Axes, curves: Mapping[float, TradeOff]) -> None:
    """The most that any attacker finds of those who trained, over whom it accuses wrongly (Dong, Roth and Su, 2022)."""
    accused = [10 ** (exponent / 20) for exponent in range(-80, 1)]
    percent = [100 * share for share in accused]
    for number, epsilon in enumerate(sorted(curves)):
        found = [100 * curves[epsilon].detected(share) for share in accused]
        axes.plot(percent, found, color=_COLOURS[number % len(_COLOURS)], label=f"{epsilon:g}")
    axes.plot(percent, percent, color=_INK, linestyle="--", linewidth=1, label="guessing")
    axes.set_xscale("log")
    axes.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axes.minorticks_off()
    axes.set_xlabel("innocents accused, % (log scale)")
    axes.set_ylabel("members found at most, %")
    axes.set_ylim(0, 100)
    axes.legend(title="epsilon", title_fontsize=8, fontsize=8, frameon=False)


def _draw_baselines(axes: Axes, summaries: list[Summary]) -> None:
    for summary in summaries:
        if summary.method in _BASELINES:
            label, style = _BASELINES[summary.method]
            axes.axhline(100 * summary.eer[0], color=_INK, linestyle=style, linewidth=1, label=label)
