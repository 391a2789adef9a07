"""The model release: what a training run gives to everybody. Reading one needs only Python; adapting needs NumPy.

A release is public. It holds no embedding and no per-person number, only what left the differentially private releases
of the run (`federation.privacy.plan`), and post-processing of it.

The geometry. An embedding x has d numbers. Its code is made of ``z = normalise(P x - c)``, which has k numbers: P, of
k x d, takes the directions that the recogniser uses and whitens what varies within people; c is the centre of the
camera profile that took the image. Without P, k is d.

Byte format: one canonical JSON object, ASCII, keys sorted, no spaces; arrays as base64 of little-endian float64.
Parsing is strict: whatever parses re-serialises to the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from federation.errors import MalformedMessageError, UsageError
from federation.groups import HeldFor, ThresholdFor
from federation.promise import PrivacyStatement
from federation.rates import CHECKED_BY, Basis, StatedRate
from federation.recognition.numbers import Numbers
from federation.recognition.profiles import PROFILES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    _Array: TypeAlias = NDArray[np.float64] | Numbers

FORMAT: Final = "intaglio-model-release-4"
CODE_LENGTHS: Final = (1024, 2048)
"""Bits that a face code may have: those of the parameter sets in `federation.onebit`."""
CODE_LENGTH: Final = 1024
"""Bits of a face code in new releases (ADR 160)."""

ADAPTATIONS: Final = ("none", "centre", "scales")
"""What may have been learnt from people."""
MOST_REFERENCES: Final = 5
"""Pictures that one reference may be averaged from (`federation.recognition.fusing`)."""
MOST_FRAMES: Final = 3
"""The same for a probe."""

_MOST_BYTES = 16 << 20
_LARGEST_DIMENSION = 1024
_MOST_SCALES = 1 << 17
_SHA256_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, init=False, eq=False)
class Adapter:
    """Maps embeddings of a camera profile to vectors whose directions can be compared across profiles.

    Args:
        centres: for each camera profile, (k,) float64, what is subtracted.
        projection: (k, d) float64, what embeddings are multiplied with before that, or None for the identity: k is d.
        scales: for each camera profile whose embeddings must come from a tuned network (`federation.learning.scales`),
            float64, what is added to the recogniser's tuned numbers; the frozen network makes the others.

    Raises:
        UsageError: an array has another shape or type, or is not finite.
    """

    _centres: Mapping[str, Numbers]
    _projection: Numbers | None
    _scales: Mapping[str, Numbers]

    def __init__(
        self,
        centres: Mapping[str, _Array],
        projection: _Array | None,
        scales: Mapping[str, _Array] = MappingProxyType({}),
    ) -> None:
        vectors, tuned = _frozen(centres), _frozen(scales)
        if not tuned.keys() <= vectors.keys() or any(
            len(scale.shape) != 1 or not 0 < scale.shape[0] <= _MOST_SCALES for scale in tuned.values()
        ):
            raise UsageError("scales must be vectors, for camera profiles that have a centre")
        if not vectors:
            raise UsageError("an adapter needs the centre of at least one camera profile")
        shape = next(iter(vectors.values())).shape
        if len(shape) != 1 or not 0 < shape[0] <= _LARGEST_DIMENSION or any(c.shape != shape for c in vectors.values()):
            raise UsageError(f"all centres must be vectors of one length, at most {_LARGEST_DIMENSION}")
        matrix = None if projection is None else _numbers(projection)
        if matrix is not None and not (
            len(matrix.shape) == 2 and matrix.shape[0] == shape[0] <= matrix.shape[1] <= _LARGEST_DIMENSION  # noqa: PLR2004 - a matrix
        ):
            raise UsageError(f"the projection must be {shape[0]} x d, with d from {shape[0]} to {_LARGEST_DIMENSION}")
        object.__setattr__(self, "_centres", vectors)
        object.__setattr__(self, "_projection", matrix)
        object.__setattr__(self, "_scales", tuned)

    @classmethod
    def identity(cls, dimension: int) -> Self:
        """The adapter that changes nothing but the length of a vector."""
        nothing = Numbers(bytes(8 * dimension), (dimension,))
        return cls(dict.fromkeys(PROFILES, nothing), None)

    @classmethod
    def from_json(cls, value: dict[str, Any], dimension: int) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            UsageError: a value is out of range. Other errors where it is none of ours.
        """
        centres = {profile: _decode(text, None) for profile, text in value["centres"].items()}
        size = min((centre.shape[0] for centre in centres.values()), default=0)
        if value["projection"] is None and size != dimension:
            raise UsageError("without a projection, a centre is as long as an embedding")
        return cls(
            centres,
            None if value["projection"] is None else _decode(value["projection"], (size, dimension)),
            {profile: _decode(text, None) for profile, text in value.get("scales", {}).items()},
        )

    def to_json(self) -> dict[str, object]:
        """Its part of the canonical form of a release."""
        value: dict[str, object] = {
            "centres": {profile: _encode(centre) for profile, centre in self._centres.items()},
            "projection": None if self._projection is None else _encode(self._projection),
        }
        if self._scales:  # without the key, releases of the other recipe keep their bytes
            value["scales"] = {profile: _encode(scales) for profile, scales in self._scales.items()}
        return value

    @property
    def dimension(self) -> int:
        """Length of one embedding: d."""
        return self.size if self._projection is None else self._projection.shape[1]

    @property
    def size(self) -> int:
        """Length of what a code is made of: k."""
        return next(iter(self._centres.values())).shape[0]

    @property
    def centres(self) -> Mapping[str, NDArray[np.float64]]:
        """What is subtracted, by camera profile; read-only."""
        return MappingProxyType({profile: centre.array for profile, centre in self._centres.items()})

    @property
    def projection(self) -> NDArray[np.float64] | None:
        """What embeddings are multiplied with; read-only. None is the identity."""
        return None if self._projection is None else self._projection.array

    @property
    def scales(self) -> Mapping[str, NDArray[np.float64]]:
        """What is added to the recogniser's tuned numbers, by camera profile; read-only."""
        return MappingProxyType({profile: scales.array for profile, scales in self._scales.items()})

    def apply(self, embeddings: NDArray[np.floating[Any]], profile: str) -> NDArray[np.float64]:
        """Adapts embeddings of one camera profile.

        Args:
            embeddings: (n, d) float, unit norm; n may be 0.
            profile: the camera profile that took the images.

        Returns:
            (n, k) float64, rows of unit norm, or zero where an embedding equals the centre, or the adapter's numbers
            are so large that no direction is left: it is total.

        Raises:
            UsageError: the shape does not fit, or the profile is unknown.
        """
        import numpy as np  # noqa: PLC0415 - whoever only reads a release needs none

        if profile not in self._centres:
            raise UsageError(f"this release knows the camera profiles {', '.join(self._centres)}, not {profile!r}")
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dimension:  # noqa: PLR2004 - a matrix
            raise UsageError(f"embeddings must be (n, {self.dimension}), got {embeddings.shape}")
        with np.errstate(over="ignore", invalid="ignore"):  # see Returns
            vectors = embeddings.astype(np.float64)
            if self._projection is not None:
                vectors = vectors @ self._projection.array.T
            vectors = vectors - self._centres[profile].array
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        has_direction = np.isfinite(norms) & (norms > 0)
        return np.asarray(np.divide(vectors, norms, out=np.zeros_like(vectors), where=has_direction))


@dataclass(frozen=True, eq=False)
class ModelRelease:
    """One immutable, public result of training, and the threshold that goes with it.

    Attributes:
        model_name: the recogniser that embeddings must come from, for people to read.
        model_digest: SHA-256, in hex, of everything that decides an embedding.
        adapter: applied to embeddings before they become codes.
        adaptation: what of it was learnt from people: "none", "centre" or "scales".
        reason: why, in one sentence.
        condition: camera condition of the recogniser's profile that probes are taken under, such as "mask".
        code_length: bits of a face code.
        threshold: largest Hamming distance that is accepted, in bits.
        fmr: the false match rate that the threshold was set for.
        fmr_low: the true one is said to lie between this ...
        fmr_high: ... and this, with a probability of 90 %.
        fmr_people: of how many people that was learnt, in public sets of faces or in the run.
        basis: what that rests on.
        references: how many pictures of a person are averaged for a reference when the threshold holds.
        frames: the same for a probe.
        held_for: for which groups of people the rate holds; None where nobody looked.
        privacy: what was promised to the people whose images trained it.
        created: ISO 8601 time in UTC.

    Raises:
        UsageError: a value is out of range.
    """

    model_name: str
    model_digest: str
    adapter: Adapter
    adaptation: str
    reason: str
    condition: str
    threshold: int
    fmr: float
    fmr_low: float
    fmr_high: float
    fmr_people: int
    basis: Basis
    privacy: PrivacyStatement
    created: str
    code_length: int = CODE_LENGTH
    references: int = 1
    frames: int = 1
    held_for: HeldFor | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) and text for text in (self.model_name, self.reason, self.condition)):
            raise UsageError("a release needs a model name, a reason and a camera condition")
        if self.adaptation not in ADAPTATIONS:
            raise UsageError(f"a release adapts one of these: {', '.join(ADAPTATIONS)}")
        if not isinstance(self.model_digest, str) or not _SHA256_HEX.match(self.model_digest):
            raise UsageError("the model digest must be a SHA-256 in lower-case hex")
        if type(self.code_length) is not int or self.code_length not in CODE_LENGTHS:
            raise UsageError(f"codes have {' or '.join(map(str, CODE_LENGTHS))} bits in this format")
        if type(self.threshold) is not int or not 0 <= self.threshold < self.code_length:
            raise UsageError(f"the threshold must be a whole number of bits from 0 to {self.code_length - 1}")
        self._require_rates()
        for count, most in ((self.references, MOST_REFERENCES), (self.frames, MOST_FRAMES)):
            if type(count) is not int or not 1 <= count <= most:
                raise UsageError(f"a release is for 1 to {MOST_REFERENCES} references and 1 to {MOST_FRAMES} frames")
        try:
            created = datetime.fromisoformat(self.created)
        except (TypeError, ValueError) as error:
            raise UsageError("the time of creation must be ISO 8601") from error
        if created.tzinfo != UTC or created.isoformat() != self.created:
            raise UsageError("the time of creation must be UTC, as datetime.now(UTC).isoformat() gives it")

    def _require_rates(self) -> None:
        rate = self.rate
        asked = any(name == CHECKED_BY for name, _ in self.privacy.events)
        if not (asked or rate.basis in {Basis.PUBLIC, Basis.LABELLED}):
            raise UsageError("the rate of a release rests on what is public where no distances were asked for")
        held = self.held_for
        by_group = held is not None and held.rule is ThresholdFor.WORST_GROUP
        if by_group != (rate.basis is Basis.LABELLED):
            raise UsageError(
                "the rate of a release rests on labelled people where they set its threshold, and only there"
            )
        if held is not None and held.fmr != self.fmr:
            raise UsageError("the groups of a release were held to another false match rate than it states")
        if held is not None and by_group and (rate.people != held.people or rate.high > self.fmr):
            raise UsageError("a rate that every large group keeps has that of the worst of them as its upper end")

    @property
    def rate(self) -> StatedRate:
        """The stated rate with all that belongs to it."""
        return StatedRate(self.fmr, self.fmr_low, self.fmr_high, self.basis, self.fmr_people)

    @property
    def dimension(self) -> int:
        """Length of one embedding."""
        return self.adapter.dimension

    @property
    def adapted(self) -> bool:
        """Whether anything that was learned from people is applied to embeddings."""
        return self.adaptation != "none"

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def adapt(self, embeddings: NDArray[np.floating[Any]], profile: str) -> NDArray[np.float64]:
        """The vectors whose hyperplane signs make the code: `Adapter.apply`, which says more."""
        return self.adapter.apply(embeddings, profile)

    def to_bytes(self) -> bytes:
        """The canonical form; equal releases give equal bytes."""
        value: dict[str, object] = {
            "format": FORMAT,
            "model_name": self.model_name,
            "model_digest": self.model_digest,
            "dimension": self.dimension,
            **self.adapter.to_json(),
            "adaptation": self.adaptation,
            "reason": self.reason,
            "code_length": self.code_length,
            "threshold": self.threshold,
            "fmr": self.fmr,
            "fmr_low": self.fmr_low,
            "fmr_high": self.fmr_high,
            "fmr_people": self.fmr_people,
            "basis": self.basis.value,
            "condition": self.condition,
            "references": self.references,
            "frames": self.frames,
            "privacy": self.privacy.to_json(),
            "held_for": None if self.held_for is None else self.held_for.to_json(),
            "created": self.created,
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes.
        """
        if len(data) > _MOST_BYTES:
            raise MalformedMessageError(f"a model release has at most {_MOST_BYTES} bytes, this one {len(data)}")
        try:
            release = cls._from_json(json.loads(data.decode("ascii")))
            same = release.to_bytes() == data
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, UsageError) as error:
            raise MalformedMessageError("the bytes are not a model release of this version") from error
        if not same:
            raise MalformedMessageError("the model release is not in canonical form")
        return release

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        d = value["dimension"]
        if type(d) is not int or not 0 < d <= _LARGEST_DIMENSION:
            raise UsageError("the dimension is out of range")
        return cls(
            model_name=value["model_name"],
            model_digest=value["model_digest"],
            adapter=Adapter.from_json(value, d),
            adaptation=value["adaptation"],
            reason=value["reason"],
            condition=value["condition"],
            threshold=value["threshold"],
            fmr=value["fmr"],
            fmr_low=value["fmr_low"],
            fmr_high=value["fmr_high"],
            fmr_people=value["fmr_people"],
            basis=Basis(value["basis"]),
            privacy=PrivacyStatement.from_json(value["privacy"]),
            created=value["created"],
            code_length=value["code_length"],
            references=value["references"],
            frames=value["frames"],
            held_for=None if value["held_for"] is None else HeldFor.from_json(value["held_for"]),
        )


def _frozen(arrays: Mapping[str, _Array]) -> Mapping[str, Numbers]:
    """Private, read-only copies, so that a frozen value stays what it was."""
    return MappingProxyType({profile: _numbers(arrays[profile]) for profile in sorted(arrays)})


def _numbers(array: _Array) -> Numbers:
    return array if isinstance(array, Numbers) else Numbers.of(array)


def _encode(numbers: Numbers) -> str:
    return base64.b64encode(numbers.raw).decode("ascii")


def _decode(text: str, shape: tuple[int, ...] | None) -> Numbers:
    """The numbers, of that shape; of any length where there is none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise UsageError("an array is not base64") from error
    return Numbers(raw, (len(raw) // 8,) if shape is None else shape)
