"""The demo's two signatures: whoever has the keys that it leaves signs what follows, and nobody else."""

import time

import pytest

from examples.demo.auditing import trial_bundle
from federation.errors import ProofError
from federation.release.bundle import require_servable
from federation.release.manifest import Use
from tests.agreeing import public
from tests.bundles import AUDITOR, MAKER, a_bundle, a_release, a_report, signed


def test_what_the_demo_s_keys_sign_next_is_believed_where_the_demo_is_and_without_them_nothing_is():
    now, release = int(time.time()), a_release()
    report, second = a_report(release), signed(a_bundle(a_release(threshold=299), use=Use.TRIAL))
    kept = {"maker": MAKER, "auditor": AUDITOR}
    bundle, trust = trial_bundle(report, release, measured=None, now=now, **kept)
    assert (trust.makers, trust.auditors) == ({public(MAKER)}, {public(AUDITOR)})
    for served in (bundle, second):
        require_servable(served, trust, now=now)
    for left_out in kept:
        named = {role: key for role, key in kept.items() if role != left_out}
        other, others = trial_bundle(report, release, measured=None, now=now, **named)
        require_servable(other, others, now=now)
        with pytest.raises(ProofError, match=f"which is no trusted {left_out}'s key"):
            require_servable(second, others, now=now)
