"""Single axes, by fairlearn: what an audit would have shown that looks at one attribute at a time.

They are printed beside the cells and judged by nobody. Only importer of fairlearn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.audit.cells import Cell, Marginal, rounded
from federation.errors import UsageError


def marginals(attributes: tuple[str, ...], cells: Sequence[Cell]) -> tuple[Marginal, ...]:
    """The rates over each value of each attribute alone.

    Args:
        attributes: names, in the order of the cells' labels.
        cells: their counts are all that is used, so millions of comparisons cost no more than a few.

    Raises:
        UsageError: fairlearn is not installed.
    """
    try:
        from fairlearn.metrics import (  # noqa: PLC0415 - brings scikit-learn; readers of reports need neither
            MetricFrame,
            false_negative_rate,
            false_positive_rate,
        )
    except ImportError as error:
        raise UsageError("an audit needs fairlearn: pip install 'intaglio[audit]'") from error
    counted = [
        (cell.labels, same, accepted, count)
        for cell in cells
        for same, accepted, count in (
            (1, 1, cell.fnmr.trials - cell.fnmr.errors),
            (1, 0, cell.fnmr.errors),
            (0, 1, cell.fmr.errors),
            (0, 0, cell.fmr.trials - cell.fmr.errors),
        )
        if count
    ]
    rows: list[Marginal] = []
    for axis, attribute in enumerate(attributes):
        labels = [labels[axis] for labels, *_ in counted]
        weight = {"sample_weight": np.array([count for *_, count in counted])}
        metrics = {"fmr": false_positive_rate, "fnmr": false_negative_rate}
        rates = (
            {}
            if not counted
            else MetricFrame(
                metrics=metrics,
                y_true=np.array([same for _, same, _, _ in counted]),
                y_pred=np.array([accepted for _, _, accepted, _ in counted]),
                sensitive_features={attribute: labels},
                sample_params=dict.fromkeys(metrics, weight),
            ).by_group.to_dict()
        )
        for label in sorted({cell.labels[axis] for cell in cells}):
            mine = [cell for cell in cells if cell.labels[axis] == label]
            tried = {name: any(getattr(cell, name).trials for cell in mine) for name in metrics}
            found = {name: rounded(rates[name][label]) if tried[name] else None for name in metrics}
            rows.append(Marginal(attribute, label, found["fmr"], found["fnmr"]))
    return tuple(rows)
