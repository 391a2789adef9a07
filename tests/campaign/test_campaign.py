"""A short campaign keeps every promise. The hour is `make campaign`, and its page docs/reliability.md."""

from __future__ import annotations

import random

import pytest

from tests.campaign.report import report
from tests.campaign.running import run

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_short_campaign_keeps_every_promise(database):
    seed = random.SystemRandom().getrandbits(32)
    campaign = run(database, 4.0, seed)
    print(report([campaign]))  # noqa: T201 - shown when the test fails
    assert campaign.broken == []
    assert campaign.faults != []
    assert sum(deed.result == "done" for deed in campaign.deeds) > 0.4 * len(campaign.deeds)
