"""The outcome of a run as one small table for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from examples.demo import wording
from examples.demo.results import DemoResult
from federation.audit.wolf import text_of_wolves
from federation.promise import text_of_attacks


def summary_table(result: DemoResult) -> Table:
    """Accuracy before and after, privacy spent, outcomes, latency and bytes.

    Args:
        result: what the run found out.

    Returns:
        A table for `rich.console.Console.print`. Nothing that the run named is read as markup.
    """
    before, after, attempts = result.before, result.after, result.attempts
    decisions = attempts.genuine + attempts.impostor
    table = Table(title=Text(f"probes: {result.condition}"), title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column()

    table.add_row("audit", result.audited.text)
    table.add_row("stated rate", result.rate.text)
    table.add_row(
        "equal error rate", f"{wording.percent(before.eer)} \N{RIGHTWARDS ARROW} {wording.percent(after.eer)}"
    )
    table.add_row(
        f"true accept rate at FMR {wording.round_percent(0.01)}",
        f"{wording.percent(before.tar_at_fmr_1pct)} \N{RIGHTWARDS ARROW} {wording.percent(after.tar_at_fmr_1pct)}",
    )
    table.add_row(
        "privacy spent, per person",
        f"epsilon {wording.epsilon(result.epsilon)} at delta {wording.delta(result.delta)}",
    )
    table.add_row("what that means", text_of_attacks(result.attacks))
    if result.epsilon_lower_bound is not None:
        table.add_row("measured by attack", f"epsilon at least {result.epsilon_lower_bound:.2f}")
    table.add_section()
    table.add_row("owners accepted", wording.share(attempts.genuine_accepted, attempts.genuine))
    table.add_row("others accepted, wallet stolen", wording.share(attempts.impostor_accepted, attempts.impostor))
    table.add_row("accepted without a face, wallet stolen", text_of_wolves(result.wolf))
    for cell in result.groups:
        fmr = cell.fmr
        bounds = f"{wording.percent(fmr.low)} to {wording.percent(fmr.high)}"
        share = wording.share(fmr.errors, fmr.trials)
        table.add_row(Text(f"falsely matched: {cell.name}"), f"{share} of {cell.people} people, {bounds}")
    table.add_row("decisions unlike plaintext", wording.share(attempts.plaintext_disagreements, decisions))
    table.add_section()
    for party, times in (("server", attempts.server_ms), ("device", attempts.device_ms)):
        table.add_row(
            f"{party} work per verification",
            f"median {wording.milliseconds(times, 0.5)}, p95 {wording.milliseconds(times, 0.95)}",
        )
    table.add_row(
        "bytes per verification",
        f"{wording.kilobytes(attempts.upload_bytes)} up, {wording.kilobytes(attempts.reply_bytes)} down",
    )
    table.add_row("stored for each person", f"a padded template of {result.template_bytes} bytes, and a consent")
    return table
