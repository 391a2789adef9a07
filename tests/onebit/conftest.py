"""One device and its reference, made once: key generation is the slow part."""

import numpy as np
import pytest

from federation.onebit import BITS, DeviceSecret
from federation.onebit.matcher import Reference
from tests.onebit.variants import StolenWallet


@pytest.fixture(scope="session")
def device():
    return DeviceSecret.generate()


@pytest.fixture(scope="session")
def template_code():
    return np.random.default_rng(1).integers(0, 2, BITS, dtype=np.uint8)


@pytest.fixture(scope="session")
def template(device, template_code):
    return device.encrypt(template_code)


@pytest.fixture(scope="session")
def reference(device, template):
    return Reference.from_bytes(device.public_key, template)


@pytest.fixture(scope="session")
def wallet(device):
    return StolenWallet(device)


@pytest.fixture
def flipped(template_code):
    """A code at an exact Hamming distance from the template."""

    def flip(distance, seed=0):
        places = np.random.default_rng(seed).permutation(BITS)[:distance]
        code = template_code.copy()
        code[places] ^= 1
        return code

    return flip
