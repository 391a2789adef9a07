"""A campaign as a page of markdown. Pure."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable

from tests.campaign.figures import QUIET
from tests.campaign.running import MOST_GROWTH_MB, SHARE, Campaign

BEGIN, END = "<!-- begin: make campaign -->\n", "<!-- end: make campaign -->"
_TEXTS = 12


def report(campaigns: Iterable[Campaign]) -> str:
    """All of them under one head."""
    return "\n".join(_one(campaign) for campaign in campaigns)


def placed(document: str, page: str) -> str:
    """A document with the page between its two marks.

    Raises:
        ValueError: it has no such marks.
    """
    before, _, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the document has no {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{page}\n{END}{after}"


def _of_whomever(line: str) -> str:
    """A broken promise without whose it is, so that a hundred of one kind are a line."""
    return re.sub(r"^[0-9a-f]{8}\b", "somebody", line)


def _one(campaign: Campaign) -> str:
    counted = Counter(deed.result for deed in campaign.deeds)
    done, deeds = counted["done"], len(campaign.deeds)
    lines = [
        f"## {campaign.database}, {campaign.seconds / 60:g} minutes",
        "",
        (
            f"{campaign.date}, commit {campaign.commit}, seed {campaign.seed}, {campaign.cores} cores, "
            f"{campaign.memory_gb:.0f} GB, load {campaign.load_before:.1f} before it began. "
            f'`make campaign ARGS="--minutes {campaign.seconds / 60:g} --database {campaign.database} '
            f'--seed {campaign.seed}"`'
        ),
        "",
        (
            f"Capacity without faults: {campaign.capacity:.1f} deeds a second; {campaign.rate:.1f} came "
            f"({SHARE:.0%}), beside strangers and {len(campaign.faults)} faults. "
            f"{done} of {deeds} deeds went well ({done / max(1, deeds):.2%})."
        ),
        "",
        f"**Promises broken: {len(campaign.broken)}.**",
        "",
        *(f"- {count} x {line}" for line, count in Counter(map(_of_whomever, campaign.broken)).items()),
        *([""] if campaign.broken else []),
        *(f"- Not injected: {what}." for what in campaign.missing),
        *([""] if campaign.missing else []),
        "### What honest people noticed",
        "",
        (
            "Waiting is in seconds from when the person came, of deeds that went well. Recovery is from the moment that"
            " a fault's cause was gone to the end of the first deed that began since then and went well: median and"
            " longest."
        ),
        "",
        "| under | times | deeds | went well % | p50 | p99 | longest | recovery | refused, by kind |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in campaign.rows:
        recovery = "" if row.kind == QUIET else "never"
        if row.recovery:
            recovery = f"{statistics.median(row.recovery):.1f}, {max(row.recovery):.1f}"
            recovery += f"; {row.never} until the end" if row.never else ""
        refused = ", ".join(f"{count} {name}" for name, count in row.refused.most_common())
        well = f"{row.done / row.deeds:.1%}"[:-1] if row.deeds else ""
        times = "" if row.kind == QUIET else str(row.times)
        lines.append(
            f"| {row.kind} | {times} | {row.deeds} | {well} | {row.p50:.2f} | {row.p99:.2f} | {row.longest:.1f} | "
            f"{recovery} | {refused} |"
        )
    lines += ["", "What they read, numbers left out:", ""]
    said = Counter((deed.result, deed.why) for deed in campaign.deeds if deed.result != "done")
    lines += [f"- {count} x {result}: {why}" for (result, why), count in said.most_common(_TEXTS)]
    if len(said) > _TEXTS:
        lines.append(f"- and {len(said) - _TEXTS} other sentences, {sum(said.values()) - _shown(said)} times in all")
    lines += ["", "### What strangers got", "", "| they | answers |", "|---|---|"]
    for behaviour, counts in campaign.hostile.items():
        answers = ", ".join(f"{count} {name}" for name, count in Counter(counts).most_common())
        lines.append(f"| {behaviour} | {answers} |")
    lines += ["", "### What was checked at the end", ""]
    lines.append(", ".join(f"{count} {name}" for name, count in campaign.checked.items()) + ".")
    started = ", ".join(f"{name}: {count}" for name, count in campaign.starts.items())
    lines += ["", f"Starts: {started}.", "", "### Memory", ""]
    lines += [
        f"Processes that lived through the last quarter; more than {MOST_GROWTH_MB:.0f} MB of growth breaks a promise.",
        "",
        "| process | MB at first | MB at last | growth, fitted | seconds |",
        "|---|---|---|---|---|",
    ]
    for one in campaign.memory:
        lines.append(f"| {one.role} | {one.first:.0f} | {one.last:.0f} | {one.growth:+.1f} | {one.seconds:.0f} |")
    return "\n".join([*lines, ""])


def _shown(said: Counter[tuple[str, str]]) -> int:
    return sum(count for _, count in said.most_common(_TEXTS))
