"""Makes the profile of a recogniser: tries how a model wants to be fed, then measures it (`client.faces.measuring`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from client.faces.datasets import Problem
from client.faces.finding import FaceFinder
from client.faces.measuring import Faces, Measured, decidability, faces_of, measure
from client.faces.models import MOBILEFACENET_NAME, load_mobilefacenet
from federation.errors import UsageError
from federation.recognition.foreign import NETWORK, OnnxNetwork, require_sound
from federation.recognition.layers import Images
from federation.recognition.mobilefacenet import bare_profile
from federation.recognition.model import CODE_LENGTH
from federation.recognition.profile import Clips, ColourOrder, FaceSet, Preprocessing, Provenance, RecogniserProfile
from federation.recognition.recogniser import Chips, Embeddings, fed, unit_rows
from federation.recognition.templates import KNOWN_ALIGNMENTS

_SCALES: Final = ((127_500, 127_500), (0, 255_000), (0, 1_000))
"""Mean and divisor, in thousandths, that are tried: to [-1, 1], to [0, 1], and as it is."""
_RAW_SCALES: Final = ((0, 1_000),)
_CLIPS: Final = Clips(900, 15)


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
class Profiled:
    """A profile and what it rests on.

    Attributes:
        profile: of the recogniser.
        measured: rates and time.
        tried: every way to feed it, the best first; empty for a recogniser that is known.
        images: of each set, with and without a face.
        problems: images that were left out.
        finding_milliseconds: of processor time to read an image and find its face.
    """

    profile: RecogniserProfile
    measured: Measured
    tried: tuple[Tried, ...]
    images: Mapping[str, int]
    problems: tuple[Problem, ...]
    finding_milliseconds: float


def profile_of(
    model: Path,
    folders: list[Path],
    *,
    provenance: Provenance,
    terms: str,
    progress: Callable[[int, int], None],
) -> Profiled:
    """Measures a recogniser.

    Args:
        model: an .onnx file, or "mobilefacenet".
        folders: each a set of faces, with a sub-folder of images for each person.
        provenance: of an .onnx file.
        terms: of the sets, in words.
        progress: gets (images done, images in all).

    Raises:
        UsageError: the model is none that can be used, or the folders do not suffice.
    """
    if str(model) == MOBILEFACENET_NAME:
        faces = faces_of(folders, FaceFinder(), progress)
        bare = bare_profile()
        tried: tuple[Tried, ...] = ()
        embed = load_mobilefacenet(bare).embed
    else:
        try:
            network = OnnxNetwork(model.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
        faces = faces_of(folders, FaceFinder(), progress)
        best, tried = _tried(network, faces.a_few())
        bare = _bare(network, best, model.stem.lower(), provenance)

        def embed(chips: Chips) -> Embeddings:
            return unit_rows(network.forward(fed(chips, bare.preprocessing)))

    measured = measure(faces, bare.alignment, embed)
    names = [folder.resolve().name.lower() for folder in folders]
    sets = tuple(
        FaceSet(name, people, found, terms)
        for name, people, found in sorted(zip(names, faces.people, faces.found, strict=True))
        if found
    )
    return Profiled(
        replace(bare, moments=measured.moments, sets=sets),
        measured,
        tried,
        dict(zip(names, faces.images, strict=True)),
        faces.problems,
        faces.milliseconds,
    )


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
        moments=(),
        sets=(),
        clips=_CLIPS,
        provenance=provenance,
    )
