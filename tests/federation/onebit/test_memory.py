"""A matcher runs for months: its memory must not grow with the number of matches, nor a device's with sessions."""

from pathlib import Path

import pytest

from federation.onebit import Material, SessionKey
from federation.onebit.parameters import ONEBIT_2048
from tests.federation.onebit.conftest import Owner

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size from /proc")


def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def growth(matches):
    """Megabytes between the first hundred sessions and the last."""
    owner = Owner(ONEBIT_2048)
    for match in range(matches):
        if match == 100:
            begun = resident_megabytes()
        key = SessionKey.generate(ONEBIT_2048)
        reply = Material.draw(ONEBIT_2048).answer(owner.template, key.encrypt(owner.padded), b"transcript", 20).reply
        assert key.open_reply(reply, b"transcript") is not None
    return resident_megabytes() - begun


def test_memory_is_flat_over_hundreds_of_matches():
    assert growth(200) < 8


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_memory_is_flat_over_thirty_thousand_matches():
    assert growth(30_000) < 16
