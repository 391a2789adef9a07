"""A recogniser profile: everything that belongs to a recogniser, in one digested document. Pure: no NumPy, no files.

A recogniser is more than its weights. The same weights give other embeddings when a face is cut in another way, and a
threshold that was set for one recogniser accepts nobody, or everybody, with another. So whatever depends on the
recogniser is written down once, and its digest says which one was meant: how a face is cut and what the network is
fed with, how long embeddings and codes are, what is publicly known about embeddings under each camera condition, how
records are clipped in training, and in words where weights and training data come from.

Byte format: the canonical form of `federation.statements`. It has no fractions, so every number is a whole one of the
unit that its name ends in, and centres are base64 of little-endian float32.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import math
import re
import struct
from dataclasses import dataclass
from typing import Any, Final, Self

from federation.errors import UsageError
from federation.recognition.templates import Alignment
from federation.statements import JsonValue, canonical_bytes, parse, require_name, require_text

FORMAT: Final = "intaglio-recogniser-profile-1"
MOST_BYTES: Final = 1 << 20
SMALLEST_DIMENSION, LARGEST_DIMENSION = 64, 1024
"""Range of embedding lengths that the one-bit match was analysed for."""
CODE_LENGTHS: Final = (1024, 2048)
"""Bits that a face code may have: those of the parameter sets in `federation.onebit`."""
_MOST_BATCH = 64
_MOST_CONDITIONS = 16
_MOST_SETS = 32
_MOST_PEOPLE = 10_000_000
_MILLION = 1_000_000
_MOST_MEAN, _MOST_DIVISOR = 255_000, 1_000_000
_SHA256_HEX = re.compile(r"[0-9a-f]{64}\Z")


class ColourOrder(enum.Enum):
    """Order of an input's three channels."""

    RGB = "rgb"
    BGR = "bgr"


class Layout(enum.Enum):
    """Order of an input's axes: N images, C channels, H rows, W columns."""

    NCHW = "nchw"
    NHWC = "nhwc"


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of a cut before the network sees it: channels ordered, `(value - mean) / divisor`, axes ordered.

    Attributes:
        colours: order of the channels.
        mean_thousandths: subtracted from the values 0..255 of each channel, in the order of `colours`.
        divisor_thousandths: what the differences are divided by.
        layout: order of the axes.
        batch: how many images the network takes at once: exactly so many, or any number where it is 0.

    Raises:
        UsageError: a value is out of range.
    """

    colours: ColourOrder
    mean_thousandths: tuple[int, int, int]
    divisor_thousandths: int
    layout: Layout
    batch: int

    def __post_init__(self) -> None:
        if not isinstance(self.colours, ColourOrder) or not isinstance(self.layout, Layout):
            raise UsageError("preprocessing has an order of colours and a layout")
        if len(self.mean_thousandths) != 3 or not all(  # noqa: PLR2004 - channels
            type(mean) is int and 0 <= mean <= _MOST_MEAN for mean in self.mean_thousandths
        ):
            raise UsageError(f"the mean of each of three channels is 0 to {_MOST_MEAN} thousandths")
        if type(self.divisor_thousandths) is not int or not 0 < self.divisor_thousandths <= _MOST_DIVISOR:
            raise UsageError(f"values are divided by 1 to {_MOST_DIVISOR} thousandths")
        if type(self.batch) is not int or not 0 <= self.batch <= _MOST_BATCH:
            raise UsageError(f"a network takes 1 to {_MOST_BATCH} images at once, or 0 for any number")


@dataclass(frozen=True)
class ConditionMoments:
    """What is publicly known about embeddings under one camera condition. No number of any one person.

    Attributes:
        condition: its name, such as "clean" or "mask".
        centre: (d,) the mean over people of their mean embeddings. Every number is a float32. Its norm is at most 1:
            near 1 where all faces lie in a narrow cone, near 0 where they are spread over all directions.
        spread_millionths: standard deviation of angle / pi between different people, after the centre was subtracted.
        people: how many the two were measured on.

    Raises:
        UsageError: a value is out of range.
    """

    condition: str
    centre: tuple[float, ...]
    spread_millionths: int
    people: int

    def __post_init__(self) -> None:
        require_name("the name of a condition", self.condition)
        if not all(type(number) is float and math.isfinite(number) for number in self.centre):
            raise UsageError("a public centre holds finite floats")
        if self.mean_norm > 1 + 1e-6 or struct.unpack(f"<{len(self.centre)}f", _packed(self.centre)) != self.centre:
            raise UsageError("a public centre holds float32 numbers, and its norm is at most 1")
        if type(self.spread_millionths) is not int or not 0 < self.spread_millionths < _MILLION:
            raise UsageError("a spread of impostor distances is between 0 and 1, in millionths")
        if type(self.people) is not int or not 2 <= self.people <= _MOST_PEOPLE:  # noqa: PLR2004 - a pair
            raise UsageError(f"moments are those of 2 to {_MOST_PEOPLE} people")

    @property
    def mean_norm(self) -> float:
        """Norm of the centre."""
        return math.hypot(*self.centre)

    @property
    def spread(self) -> float:
        """Standard deviation of angle / pi between different people, after centring."""
        return self.spread_millionths / _MILLION


@dataclass(frozen=True)
class FaceSet:
    """A set of faces that moments were measured on.

    Attributes:
        name: of the set.
        people: how many of them.
        images: how many.
        terms: licence and consent, and who is to be credited, in words.
    """

    name: str
    people: int
    images: int
    terms: str

    def __post_init__(self) -> None:
        require_name("the name of a set of faces", self.name)
        require_text("the terms of a set of faces", self.terms)
        if type(self.people) is not int or type(self.images) is not int:
            raise UsageError("a set of faces has whole numbers of people and images")
        if not 1 <= self.people <= self.images <= _MOST_PEOPLE:
            raise UsageError(f"a set of faces has at least one person, and an image of each, at most {_MOST_PEOPLE}")


@dataclass(frozen=True)
class Provenance:
    """Where a recogniser comes from and on what terms, in words that a person can judge.

    Attributes:
        weights: where the weights come from.
        licence: on what terms.
        training: what they were trained on, and what is known of those people's consent.
    """

    weights: str
    licence: str
    training: str

    def __post_init__(self) -> None:
        require_text("the origin of the weights", self.weights)
        require_text("the licence of the weights", self.licence)
        require_text("the origin of the training data", self.training)


@dataclass(frozen=True)
class Clips:
    """How far one person can move what is learnt (`federation.learning.moments`).

    Attributes:
        centre_thousandths: largest norm of both offsets from the public centres together.
        scatter_thousandths: largest norm of the scatter of a person's embeddings.
    """

    centre_thousandths: int
    scatter_thousandths: int

    def __post_init__(self) -> None:
        for clip in (self.centre_thousandths, self.scatter_thousandths):
            if type(clip) is not int or not 0 < clip <= 4_000:  # noqa: PLR2004 - two offsets of unit vectors
                raise UsageError("clips are 1 to 4000 thousandths")


@dataclass(frozen=True)
class RecogniserProfile:
    """See the top.

    Attributes:
        name: short, for people to read and to choose by.
        network: the code that runs the weights: "mobilefacenet" or "onnx".
        weights_digest: SHA-256, in hex, of the file of weights.
        alignment: how a face is cut.
        preprocessing: what becomes of a cut.
        dimension: length of an embedding.
        code_length: bits of a face code.
        moments: for each camera condition, in the order of their names. None are known of a recogniser that was not
            measured; then nothing can be trained or released with it.
        sets: what they were measured on, in the order of their names.
        clips: for training.
        provenance: in words.

    Raises:
        UsageError: a value is out of range, or two do not fit together.
    """

    name: str
    network: str
    weights_digest: str
    alignment: Alignment
    preprocessing: Preprocessing
    dimension: int
    code_length: int
    moments: tuple[ConditionMoments, ...]
    sets: tuple[FaceSet, ...]
    clips: Clips
    provenance: Provenance

    def __post_init__(self) -> None:
        require_name("the name of a recogniser", self.name)
        require_name("the network of a recogniser", self.network)
        if not isinstance(self.weights_digest, str) or not _SHA256_HEX.match(self.weights_digest):
            raise UsageError("the digest of the weights must be a SHA-256 in lower-case hex")
        if type(self.dimension) is not int or not SMALLEST_DIMENSION <= self.dimension <= LARGEST_DIMENSION:
            raise UsageError(f"an embedding has {SMALLEST_DIMENSION} to {LARGEST_DIMENSION} numbers")
        if type(self.code_length) is not int or self.code_length not in CODE_LENGTHS:
            raise UsageError(f"codes have {' or '.join(map(str, CODE_LENGTHS))} bits")
        _require_ordered("conditions", [moments.condition for moments in self.moments], _MOST_CONDITIONS)
        _require_ordered("sets of faces", [faces.name for faces in self.sets], _MOST_SETS)
        if any(len(moments.centre) != self.dimension for moments in self.moments):
            raise UsageError(f"every public centre has {self.dimension} numbers, as an embedding has")
        people = sum(faces.people for faces in self.sets)
        if any(moments.people > people for moments in self.moments):
            raise UsageError("moments were measured on more people than the sets of faces have")

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def moments_of(self, condition: str) -> ConditionMoments:
        """What is known under a camera condition.

        Raises:
            UsageError: nothing.
        """
        for moments in self.moments:
            if moments.condition == condition:
                return moments
        known = ", ".join(moments.condition for moments in self.moments) or "none"
        raise UsageError(
            f"the profile of {self.name} knows these camera conditions: {known}; not {condition}. Measure it: "
            "intaglio models profile"
        )

    def to_bytes(self) -> bytes:
        """The canonical form; equal profiles give equal bytes."""
        value: dict[str, JsonValue] = {
            "format": FORMAT,
            "name": self.name,
            "network": self.network,
            "weights": self.weights_digest,
            "alignment": {
                "name": self.alignment.name,
                "side": self.alignment.side,
                "points": [list(point) for point in self.alignment.points],
            },
            "preprocessing": {
                "colours": self.preprocessing.colours.value,
                "mean_thousandths": list(self.preprocessing.mean_thousandths),
                "divisor_thousandths": self.preprocessing.divisor_thousandths,
                "layout": self.preprocessing.layout.value,
                "batch": self.preprocessing.batch,
            },
            "dimension": self.dimension,
            "code_length": self.code_length,
            "moments": [
                {
                    "condition": moments.condition,
                    "centre": base64.b64encode(_packed(moments.centre)).decode("ascii"),
                    "spread_millionths": moments.spread_millionths,
                    "people": moments.people,
                }
                for moments in self.moments
            ],
            "sets": [
                {"name": faces.name, "people": faces.people, "images": faces.images, "terms": faces.terms}
                for faces in self.sets
            ],
            "clips": {
                "centre_thousandths": self.clips.centre_thousandths,
                "scatter_thousandths": self.clips.scatter_thousandths,
            },
            "provenance": {
                "weights": self.provenance.weights,
                "licence": self.provenance.licence,
                "training": self.provenance.training,
            },
        }
        return canonical_bytes(value)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes.
        """
        return parse(data, cls._from_json, what="a recogniser profile", most=MOST_BYTES)

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        alignment, preprocessing = value["alignment"], value["preprocessing"]
        clips, provenance = value["clips"], value["provenance"]
        return cls(
            name=value["name"],
            network=value["network"],
            weights_digest=value["weights"],
            alignment=Alignment(
                alignment["name"], alignment["side"], tuple(tuple(point) for point in alignment["points"])
            ),
            preprocessing=Preprocessing(
                ColourOrder(preprocessing["colours"]),
                tuple(preprocessing["mean_thousandths"]),
                preprocessing["divisor_thousandths"],
                Layout(preprocessing["layout"]),
                preprocessing["batch"],
            ),
            dimension=value["dimension"],
            code_length=value["code_length"],
            moments=tuple(
                ConditionMoments(
                    moments["condition"],
                    _unpacked(moments["centre"]),
                    moments["spread_millionths"],
                    moments["people"],
                )
                for moments in value["moments"]
            ),
            sets=tuple(
                FaceSet(faces["name"], faces["people"], faces["images"], faces["terms"]) for faces in value["sets"]
            ),
            clips=Clips(clips["centre_thousandths"], clips["scatter_thousandths"]),
            provenance=Provenance(provenance["weights"], provenance["licence"], provenance["training"]),
        )


def _require_ordered(what: str, names: list[str], most: int) -> None:
    if names != sorted(set(names)) or len(names) > most:
        raise UsageError(f"{what} of a profile come in the order of their names, each once, at most {most}")


def _packed(numbers: tuple[float, ...]) -> bytes:
    try:
        return struct.pack(f"<{len(numbers)}f", *numbers)
    except OverflowError as error:
        raise UsageError("a public centre holds float32 numbers, and its norm is at most 1") from error


def _unpacked(text: str) -> tuple[float, ...]:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise UsageError("a public centre is not base64") from error
    if len(raw) % 4:
        raise UsageError("a public centre holds float32 numbers")
    return struct.unpack(f"<{len(raw) // 4}f", raw)
