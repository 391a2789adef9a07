"""What the tests of the match share: both parameter sets, and an owner with a template in each."""

import numpy as np
import pytest

from federation.onebit import TemplateSecret, wire
from federation.onebit.parameters import PARAMETER_SETS


@pytest.fixture(scope="session", params=PARAMETER_SETS, ids=lambda each: str(each.slots))
def parameters(request):
    return request.param


@pytest.fixture(scope="session")
def owner(parameters):
    return Owner(parameters)


class Owner:
    """Somebody with a wallet, whose face is a vector, and what the server holds of it."""

    def __init__(self, parameters, seed=1):
        random = np.random.default_rng(seed)
        self.parameters = parameters
        self.secret = TemplateSecret.generate(parameters, random.bytes)
        self.face = random.normal(size=128)
        self.template = self.secret.template(self.face, random.bytes)
        self.padded = self.secret.padded_code(self.face)
        self.stored = wire.PaddedTemplate.from_bytes(self.template, parameters).bits

    def at(self, distance, seed=0):
        """A padded code at this exact Hamming distance from the template."""
        places = np.random.default_rng(seed).permutation(self.parameters.slots)[:distance]
        code = self.padded.copy()
        code[places] ^= 1
        return code
