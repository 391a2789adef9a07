"""What the page reckons in the service's place is what the service is set to."""

import re
from pathlib import Path

import pytest

from server.storage.limits import AttemptLimits

WEB = Path(__file__).parents[2] / "web" / "src"


@pytest.mark.parametrize(
    ("file", "name", "limit"),
    [
        ("wallet/wait.ts", "FIRST_SECONDS", AttemptLimits().first_delay_seconds),
        ("device/owner.ts", "MOST_FAILURES", AttemptLimits().lifetime_failures),
    ],
)
def test_the_page_reckons_waits_and_closed_templates_with_the_limits_of_the_service(file, name, limit):
    assert re.findall(rf"^const {name} = (\d+)$", (WEB / file).read_text(), re.MULTILINE) == [str(limit)]
