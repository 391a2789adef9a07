"""Makes the profile of a recogniser: tries how a model wants to be fed, then measures it (`client.faces.measuring`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from client.faces.datasets import Problem
from client.faces.finding import FaceFinder
from client.faces.measuring import CONDITIONS, Faces, Measured, decidability, faces_of, measure
from client.faces.models import MOBILEFACENET_NAME, load_mobilefacenet
from client.faces.priors import FEWEST_PEOPLE, WANTED_SETS, PublicSet, condition_of, subspace_of
from client.faces.rates import Rates, rates
from federation.errors import UsageError
from federation.learning.threshold import public_adapter
from federation.recognition.conditions import FEWEST_DIRECTIONS, unmeasured
from federation.recognition.foreign import NETWORK, OnnxNetwork, require_sound
from federation.recognition.layers import Images
from federation.recognition.mobilefacenet import bare_profile
from federation.recognition.model import CODE_LENGTH
from federation.recognition.numbers import SingleNumbers
from federation.recognition.profile import Clips, ColourOrder, FaceSet, Preprocessing, Provenance, RecogniserProfile
from federation.recognition.recogniser import Chips, Embeddings, fed, unit_rows
from federation.recognition.templates import KNOWN_ALIGNMENTS

_SCALES: Final = ((127_500, 127_500), (0, 255_000), (0, 1_000))
"""Mean and divisor, in thousandths, that are tried: to [-1, 1], to [0, 1], and as it is."""
_RAW_SCALES: Final = ((0, 1_000),)
_CLIPS: Final = Clips(900)


@dataclass(frozen=True)
class Tried:
    """One way to feed a model.

    Attributes:
        alignment: name of the template.
        colours: order of the channels.
        scale: mean and divisor, in thousandths.
        decidability: how far apart it keeps people.
    """

    alignment: str
    colours: ColourOrder
    scale: tuple[int, int]
    decidability: float


@dataclass(frozen=True)
class Judged:
    """How a set fares under the profile of all the others.

    Attributes:
        faces: name of the set.
        rates: error rates of codes, for each condition.
    """

    faces: str
    rates: tuple[Rates, ...]


@dataclass(frozen=True)
class Profiled:
    """A profile and what it rests on.

    Attributes:
        profile: of the recogniser.
        without: by the name of a set, the profile that the other sets make: what that set may be judged by.
        rates: error rates of cosines, for each condition.
        judged: error rates of codes, for each set that has a profile without it and people with two images.
        tried: every way to feed it, the best first; empty for a recogniser that is known.
        images: of each set, with and without a face.
        problems: images that were left out.
        finding_milliseconds: of processor time to read an image and find its face.
        milliseconds: of processor time for an embedding.
    """

    profile: RecogniserProfile
    without: Mapping[str, RecogniserProfile]
    rates: tuple[Rates, ...]
    judged: tuple[Judged, ...]
    tried: tuple[Tried, ...]
    images: Mapping[str, int]
    problems: tuple[Problem, ...]
    finding_milliseconds: float
    milliseconds: float

    @property
    def lacks(self) -> tuple[str, ...]:
        """What a better profile needs, in words; nothing where it has all of it."""
        large = [faces for faces in self.profile.sets if faces.people >= FEWEST_PEOPLE]
        several = [faces for faces in large if faces.images >= 2 * faces.people]
        wanted = f"{WANTED_SETS} sets of at least {FEWEST_PEOPLE} people"
        lacks = []
        if len(large) < WANTED_SETS:
            lacks.append(f"{wanted}, to know how sites differ: it has {len(large)}")
        if len(several) < WANTED_SETS:
            lacks.append(
                f"two sittings of everybody, to know how pictures of a person differ: {len(several)} large sets "
                "have two images of each"
            )
        if not large:
            lacks.append("no threshold can be set with it")
        return tuple(lacks)


def profile_of(
    model: Path,
    folders: list[Path],
    *,
    provenance: Provenance,
    terms: Sequence[str],
    progress: Callable[[int, int], None],
    cache: Path | None = None,
) -> Profiled:
    """Measures a recogniser.

    Args:
        model: an .onnx file, or "mobilefacenet".
        folders: each a set of faces, with a sub-folder of images for each person.
        provenance: of an .onnx file.
        terms: of the sets, in words, for each folder.
        progress: gets (images done, images in all).
        cache: what was computed before; see `client.faces.embedding.EmbeddingCache`. Nothing is kept without one.

    Raises:
        UsageError: the model is none that can be used, or the folders do not suffice.
    """
    names = [_name_of(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError("two folders have one name; sets of faces are told apart by it")
    if str(model) == MOBILEFACENET_NAME:
        faces = faces_of(folders, FaceFinder(), progress, cache)
        bare = bare_profile()
        tried: tuple[Tried, ...] = ()
        embed = load_mobilefacenet(bare).embed
    else:
        try:
            network = OnnxNetwork(model.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
        faces = faces_of(folders, FaceFinder(), progress, cache)
        best, tried = _tried(network, faces.a_few())
        bare = _bare(network, best, model.stem.lower(), provenance)

        def embed(chips: Chips) -> Embeddings:
            return unit_rows(network.forward(fed(chips, bare.preprocessing)))

    measured = measure(faces, bare, embed, cache)
    public = measured.public_sets(names)
    words = dict(zip(names, terms, strict=True))
    without = {
        left.name: made_of(bare, [each for each in public if each is not left], words)
        for left in public
        if sum(len(each.people) for each in public if each is not left) >= FEWEST_DIRECTIONS
    }
    return Profiled(
        made_of(bare, public, words),
        without,
        tuple(rates(measured, condition) for condition in CONDITIONS),
        tuple(
            Judged(name, _code_rates(measured.of_set(place), without[name]))
            for place, name in enumerate(names)
            if name in without and measured.of_set(place).comparable
        ),
        tried,
        dict(zip(names, faces.images, strict=True)),
        faces.problems,
        faces.milliseconds,
        measured.milliseconds,
    )


def made_of(bare: RecogniserProfile, sets: Sequence[PublicSet], terms: Mapping[str, str]) -> RecogniserProfile:
    """The profile that these sets make.

    Args:
        bare: what is known without faces.
        sets: at least one.
        terms: of each, by name.

    Raises:
        UsageError: there are too few images.
    """
    subspace = subspace_of(sets)
    inside = [each.in_subspace(subspace) for each in sets]
    return replace(
        bare,
        subspace=SingleNumbers.of(subspace),
        conditions=tuple(condition_of(inside, condition) for condition in sorted(CONDITIONS)),
        sets=tuple(
            FaceSet(each.name, each.count, len(each.people), terms[each.name])
            for each in sorted(sets, key=lambda each: each.name)
        ),
    )


def _code_rates(measured: Measured, profile: RecogniserProfile) -> tuple[Rates, ...]:
    return tuple(
        rates(measured, condition, public_adapter(profile, condition), profile.code_length) for condition in CONDITIONS
    )


def _name_of(folder: Path) -> str:
    """As the folder is called, even where it is a link to one of another name."""
    return (folder if folder.name not in {"", ".."} else folder.resolve()).name.lower()


def _tried(network: OnnxNetwork, few: Faces) -> tuple[Tried, tuple[Tried, ...]]:
    """(the best way to feed the model, all of them with the best first)."""
    others = [place for place, face in enumerate(few.faces) if face.person != few.faces[0].person]
    if not others:
        raise UsageError("measuring a recogniser needs sets of at least two people with two images each")
    results: list[tuple[Tried, Images]] = []
    for template in KNOWN_ALIGNMENTS:
        cuts = few.cuts(template.at(network.side))
        for preprocessing in _ways(network):
            images = fed(cuts, preprocessing)
            scale = preprocessing.mean_thousandths[0], preprocessing.divisor_thousandths
            apart = decidability(few, unit_rows(network.forward(images)))
            results.append((Tried(template.name, preprocessing.colours, scale, apart), images[[0, others[0]]]))
    results.sort(key=lambda each: -each[0].decidability)
    best, two = results[0]
    require_sound(network, two)  # fed wrongly, a sound model may take everybody for one
    return best, tuple(each for each, _ in results)


def _ways(network: OnnxNetwork) -> Iterator[Preprocessing]:
    for mean, divisor in _RAW_SCALES if network.raw else _SCALES:
        for colours in ColourOrder:
            yield Preprocessing(colours, (mean, mean, mean), divisor, network.layout, network.batch)


def _bare(network: OnnxNetwork, best: Tried, name: str, provenance: Provenance) -> RecogniserProfile:
    """The profile without anything that is measured."""
    (template,) = (each for each in KNOWN_ALIGNMENTS if each.name == best.alignment)
    mean, divisor = best.scale
    return RecogniserProfile(
        name=name,
        network=NETWORK,
        weights_digest=network.digest,
        alignment=template.at(network.side),
        preprocessing=Preprocessing(best.colours, (mean, mean, mean), divisor, network.layout, network.batch),
        dimension=network.dimension,
        code_length=CODE_LENGTH,
        subspace=unmeasured(network.dimension),
        conditions=(),
        sets=(),
        clips=_CLIPS,
        provenance=provenance,
    )
