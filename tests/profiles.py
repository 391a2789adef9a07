"""Recogniser profiles whose prior is known, made without any face."""

import hashlib
import struct
from statistics import NormalDist

import numpy as np

from federation.recognition.conditions import (
    QUANTILES,
    CameraCondition,
    DistancesAtWeight,
    FusionShift,
    ImpostorPrior,
)
from federation.recognition.numbers import SingleNumbers
from federation.recognition.profile import (
    Clips,
    ColourOrder,
    FaceSet,
    Layout,
    Preprocessing,
    Provenance,
    RecogniserProfile,
)
from federation.recognition.templates import ARCFACE

K, D = 20, 64
SHARES_OF_QUANTILES = [(i / 256) ** 3 for i in range(QUANTILES)]
FAR = tuple(50 + i / 100 for i in range(QUANTILES))
"""A mean string that no template accepts."""
NORMAL = tuple(NormalDist().inv_cdf(min(max(share, 1e-7), 1 - 1e-7)) for share in SHARES_OF_QUANTILES)


def singles(*numbers, shape=None):
    return SingleNumbers(struct.pack(f"<{len(numbers)}f", *numbers), shape or (len(numbers),))


def distances(mean=0.45, spread=0.05, covariance=(1e-9, 0.0, 1e-9), *, shape=NORMAL, string=FAR):
    """Distances of a site: normal, with next to nothing unknown, and no string that is accepted."""
    return DistancesAtWeight(
        round(1e6 * mean),
        round(1e6 * np.log(spread)),
        tuple(round(1e9 * each) for each in covariance),
        singles(*shape),
        singles(*string),
    )


def prior_of(*at_weights, coupling=0.9, references=(0, 0), frames=(0, 0)):
    """A prior that is the same at every weight where only one is given."""
    table = at_weights if len(at_weights) == 5 else (at_weights or (distances(),)) * 5
    return ImpostorPrior(3, 300, round(1e6 * coupling), FusionShift(*references), FusionShift(*frames), table)


def profile_of(prior, *, bits=1024, seed=0):
    """A profile with random geometry and one prior under both conditions; under "mask" it is None where `prior` is."""
    random = np.random.default_rng(seed)
    subspace = np.linalg.qr(random.standard_normal((D, K)))[0].T
    conditions = []
    for name in ("clean", "mask"):
        half = random.standard_normal((K, K)) / 10
        centre = random.standard_normal(K) / 20
        whitening = half @ half.T + np.eye(K)
        conditions.append(
            CameraCondition(name, SingleNumbers.of(centre), SingleNumbers.of((whitening + whitening.T) / 2), 300, prior)
        )
    return RecogniserProfile(
        name="made-up",
        network="onnx",
        weights_digest=hashlib.sha256(b"made up").hexdigest(),
        alignment=ARCFACE,
        preprocessing=Preprocessing(ColourOrder.RGB, (127_500,) * 3, 127_500, Layout.NCHW, 0),
        dimension=D,
        code_length=bits,
        subspace=SingleNumbers.of(subspace),
        conditions=tuple(conditions),
        sets=(FaceSet("one", 200, 400, "made up"), FaceSet("two", 100, 200, "made up")),
        clips=Clips(900),
        provenance=Provenance("made up", "none", "nobody"),
    )
