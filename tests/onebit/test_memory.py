"""A matcher runs for months: its memory must not grow with the number of matches."""

from pathlib import Path

import pytest

from federation.onebit.matcher import prepare


def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def growth(reference, probe, matches):
    """Megabytes between the first hundred matches and the last."""
    for match in range(matches):
        if match == 100:
            begun = resident_megabytes()
        prepare(reference, 700).answer(probe, b"transcript")
    return resident_megabytes() - begun


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size from /proc")
def test_memory_is_flat_over_hundreds_of_matches(device, reference, template_code):
    assert growth(reference, device.encrypt(template_code), 300) < 8


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size from /proc")
def test_memory_is_flat_over_a_hundred_thousand_matches(device, reference, template_code):
    assert growth(reference, device.encrypt(template_code), 100_000) < 16
