"""What a server's public rules let its log say."""

import pytest

from federation.transparency.entries import UNKNOWN
from tests.running import AUDIENCE, PURPOSE, public_rules


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ((AUDIENCE, PURPOSE), (AUDIENCE, PURPOSE)),
        (("ministry-1.example", PURPOSE), (UNKNOWN, PURPOSE)),
        ((AUDIENCE, "max-mustermann"), (AUDIENCE, UNKNOWN)),
        (("ministry-1.example", "max-mustermann"), (UNKNOWN, UNKNOWN)),
        ((PURPOSE, AUDIENCE), (UNKNOWN, UNKNOWN)),
    ],
)
def test_only_names_that_the_rules_register_are_named(asked, named):
    assert public_rules().registered(*asked) == named
