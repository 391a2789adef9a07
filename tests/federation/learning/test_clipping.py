"""Of Opacus only what clips is loaded, and whoever wants the rest still gets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

OTHERS = (
    "opacus.accountants",
    "opacus.privacy_engine",
    "opacus.optimizers.ddpoptimizer",
    "scipy.stats",
    "torch.distributed.fsdp",
)


def printed(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_what_clips_comes_without_accountants_statistics_and_optimizers_for_several_machines():
    code = f"import sys, federation.learning.clipping; print([name for name in {OTHERS} if name in sys.modules])"
    assert printed(code) == "[]"


def test_the_tuning_of_scales_loads_no_more_of_opacus():
    code = f"import sys, federation.learning.scales; print([name for name in {OTHERS[:3]} if name in sys.modules])"
    assert printed(code) == "[]"


@pytest.mark.parametrize(
    "first_and_second",
    [
        "import federation.learning.clipping as ours\nimport opacus, opacus.optimizers",
        "import opacus, opacus.optimizers\nimport federation.learning.clipping as ours",
    ],
)
def test_whoever_imports_opacus_before_or_after_gets_all_of_it_and_the_same_classes(first_and_second):
    code = f"""{first_and_second}
assert opacus.PrivacyEngine and opacus.optimizers.DistributedDPOptimizer
assert opacus.GradSampleModule is ours.GradSampleModule
assert opacus.optimizers.DPOptimizer is ours.DPOptimizer
print("all")"""
    assert printed(code) == "all"
