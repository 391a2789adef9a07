"""A recogniser profile: everything that belongs to a recogniser, in one digested document. Pure: no NumPy, no files.

A recogniser is more than its weights. The same weights give other embeddings when a face is cut in another way, and a
threshold that was set for one recogniser accepts nobody, or everybody, with another. So whatever depends on the
recogniser is written down once, and its digest says which one was meant: how a face is cut and what the network is
fed with, how long embeddings and codes are, in which subspace embeddings lie, what is publicly known of them under each
camera condition (`federation.recognition.conditions`), how records are clipped in training, and in words where weights
and training data come from.

Byte format: the canonical form of `federation.statements`. It has no fractions, so every number is a whole one of the
unit that its name ends in, and arrays are base64 of little-endian float32.
"""

from __future__ import annotations

import enum
import hashlib
import operator
import re
from dataclasses import dataclass
from typing import Any, Final, Self

from federation.errors import UsageError
from federation.recognition.conditions import (
    CLEAN,
    FEWEST_DIRECTIONS,
    MOST_DIRECTIONS,
    MOST_PEOPLE,
    CameraCondition,
    numbers_of,
    text_of,
    whole,
)
from federation.recognition.numbers import SingleNumbers
from federation.recognition.templates import Alignment
from federation.statements import JsonValue, canonical_bytes, parse, require_name, require_text

FORMAT: Final = "intaglio-recogniser-profile-2"
MOST_BYTES: Final = 2 << 20
SMALLEST_DIMENSION, LARGEST_DIMENSION = 64, 1024
"""Range of embedding lengths that the one-bit match was analysed for."""
CODE_LENGTHS: Final = (1024, 2048)
"""Bits that a face code may have: those of the parameter sets in `federation.onebit`."""
_MOST_BATCH = 64
_MOST_CONDITIONS = 16
_MOST_SETS = 32
_ORTHONORMAL = 1e-4
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
        if not 1 <= self.people <= self.images <= MOST_PEOPLE:
            raise UsageError(f"a set of faces has at least one person, and an image of each, at most {MOST_PEOPLE}")


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
        centre_thousandths: largest norm of a person's offset from the public centres.
    """

    centre_thousandths: int

    def __post_init__(self) -> None:
        whole("the clip of a centre, in thousandths,", self.centre_thousandths, 1, 2_000)


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
        subspace: (k, d), orthonormal rows: the directions that embeddings have. Codes are made of these k numbers.
            (0, d) for a recogniser that was not measured.
        conditions: camera conditions in the order of their names; "clean", which references are, is one of them. None
            are known of a recogniser that was not measured; then nothing can be trained or released with it.
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
    subspace: SingleNumbers
    conditions: tuple[CameraCondition, ...]
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
        _require_ordered("conditions", [condition.name for condition in self.conditions], _MOST_CONDITIONS)
        _require_ordered("sets of faces", [faces.name for faces in self.sets], _MOST_SETS)
        self._require_measured() if self.conditions else self._require_bare()

    def _require_bare(self) -> None:
        if self.subspace.shape != (0, self.dimension) or self.sets:
            raise UsageError("a recogniser that was not measured has no subspace and no sets")

    def _require_measured(self) -> None:
        if len(self.subspace.shape) != 2 or self.subspace.shape[1] != self.dimension:  # noqa: PLR2004 - a matrix
            raise UsageError(f"the directions of a subspace have {self.dimension} numbers, as an embedding has")
        if not FEWEST_DIRECTIONS <= self.directions <= min(MOST_DIRECTIONS, self.dimension):
            raise UsageError(f"a subspace has {FEWEST_DIRECTIONS} to {MOST_DIRECTIONS} directions")
        _require_orthonormal(self.subspace)
        if any(condition.centre.shape != (self.directions,) for condition in self.conditions):
            raise UsageError(f"every public centre has {self.directions} numbers, as the subspace has directions")
        if CLEAN not in (condition.name for condition in self.conditions):
            raise UsageError(f"a measured recogniser knows the condition {CLEAN}")
        people = sum(faces.people for faces in self.sets)
        if any(condition.people > people for condition in self.conditions):
            raise UsageError("a condition was measured on more people than the sets of faces have")

    @property
    def directions(self) -> int:
        """Length of what codes are made of; 0 for a recogniser that was not measured."""
        return self.subspace.shape[0]

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def condition(self, name: str) -> CameraCondition:
        """What is known under a camera condition.

        Raises:
            UsageError: nothing.
        """
        for condition in self.conditions:
            if condition.name == name:
                return condition
        known = ", ".join(condition.name for condition in self.conditions) or "none"
        raise UsageError(
            f"the profile of {self.name} knows these camera conditions: {known}; not {name}. Measure it: "
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
            "directions": self.directions,
            "subspace": text_of(self.subspace),
            "conditions": [condition.to_json() for condition in self.conditions],
            "sets": [
                {"name": faces.name, "people": faces.people, "images": faces.images, "terms": faces.terms}
                for faces in self.sets
            ],
            "clips": {"centre_thousandths": self.clips.centre_thousandths},
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
        directions = value["directions"]
        whole("the directions of a subspace", directions, 0, MOST_DIRECTIONS)
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
            subspace=numbers_of(value["subspace"], (directions, value["dimension"])),
            conditions=tuple(CameraCondition.from_json(each, directions) for each in value["conditions"]),
            sets=tuple(
                FaceSet(faces["name"], faces["people"], faces["images"], faces["terms"]) for faces in value["sets"]
            ),
            clips=Clips(clips["centre_thousandths"]),
            provenance=Provenance(provenance["weights"], provenance["licence"], provenance["training"]),
        )


def _require_ordered(what: str, names: list[str], most: int) -> None:
    if names != sorted(set(names)) or len(names) > most:
        raise UsageError(f"{what} of a profile come in the order of their names, each once, at most {most}")


def _require_orthonormal(subspace: SingleNumbers) -> None:
    """Raises UsageError unless rows have norm 1 and are at right angles to each other, up to float32."""
    rows, length = subspace.shape
    values = subspace.values
    vectors = [values[row * length : (row + 1) * length] for row in range(rows)]
    for place, vector in enumerate(vectors):
        for other in range(place + 1):
            product = sum(map(operator.mul, vector, vectors[other]))
            if abs(product - (place == other)) > _ORTHONORMAL:
                raise UsageError("the rows of a subspace are not orthonormal")
