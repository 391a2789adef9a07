"""The parameter sets of the one-bit match, as docs/onebit.md holds them: `python -m examples.match_parameters`.

Every figure is computed from `Parameters` when the table is printed.
"""

from __future__ import annotations

import math

from federation.onebit import wire
from federation.onebit.parameters import PARAMETER_SETS, Parameters

_SHARE = 0.304
"""Of the code: the threshold for which lengths of replies are printed."""


def rows(parameters: Parameters) -> dict[str, str]:
    """What one set is, and what follows from it."""
    threshold = round(_SHARE * parameters.slots)
    q_0, q_1 = parameters.data_primes
    left = parameters.key_bits - parameters.shown_bits
    return {
        "name": f"`{parameters.name}`",
        "N, g, m": f"{parameters.ring_dimension}, {parameters.slot_degree}, {parameters.slots}",
        "t": f"{parameters.plain_modulus} ({parameters.plain_modulus.bit_length()} bits)",
        "q_0, q_1": f"{q_0}, {q_1} ({q_0.bit_length()} + {q_1.bit_length()} bits)",
        "log2 q (post-quantum table: 165)": f"{parameters.modulus_bits:.1f}",
        "F": f"{parameters.flood_bound}",
        "noise of a reply, sigma / t": f"{parameters.reply_noise:.2f}",
        "of it, rounding and product": f"{parameters.rounding_noise:.2f} and {parameters.product_noise:.2f}",
        "margin / t": f"{parameters.margin}",
        "failure of any coefficient": f"2^{parameters.decryption_failure_bits:.1f}",
        "(q / L)^N": f"2^{parameters.shown_bits:.2f}",
        "t^g": f"2^{parameters.key_bits:.1f}",
        "bits left of Delta_j": f"{left:.1f}",
        "proved for Q = 2^50, any probe": f"2^{100 - left:.1f}",
        "proved for Q = 2^80, any probe": f"2^{160 - left:.1f}" if left > 160 else "nothing",  # noqa: PLR2004 - 2 x 80
        "proved for Q = 2^80, well-formed probe": f"2^{80 - left:.1f}",
        "opening both keys of a slot, proved": f"2^{left / 2:.0f} hashes",
        "stored template message": f"{wire.template_length(parameters)} bytes",
        "probe": f"{wire.probe_length(parameters)} bytes",
        f"reply at tau = {_SHARE} m": f"{wire.reply_length(threshold, parameters)} bytes (tau = {threshold})",
        "odds of one query against another entry": f"2^{math.log2(odds(threshold, parameters.slots)):.1f}",
    }


def odds(threshold: int, slots: int) -> float:
    """Of one query to hit an entry k other than the distance d, for the worst d: sum of 2^(-2 (64 - v(k - d)))."""
    weights = [0.0] + [2.0 ** (-2 * (64 - ((step & -step).bit_length() - 1))) for step in range(1, slots + 1)]
    return max(sum(weights[abs(k - d)] for k in range(threshold + 1)) for d in range(slots + 1))


def table() -> str:
    """The sets side by side, as Markdown."""
    columns = [rows(parameters) for parameters in PARAMETER_SETS]
    names = [[*column] for column in columns]
    lines = ["| | " + " | ".join(str(parameters.slots) for parameters in PARAMETER_SETS) + " |", "|---|---|---|"]
    for labels in zip(*names, strict=True):
        values = [column[label] for column, label in zip(columns, labels, strict=True)]
        lines.append(f"| {labels[0]} | " + " | ".join(values) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
