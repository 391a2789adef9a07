"""Real faces and what finds them, loaded once."""

from functools import cache

from client.faces.datasets import orl_faces
from client.faces.finding import aligner_for
from client.faces.models import load_recogniser
from federation.recognition.conditions import unmeasured
from federation.recognition.foreign import NETWORK, OnnxNetwork, OnnxRecogniser
from federation.recognition.profile import Clips, ColourOrder, Preprocessing, Provenance, RecogniserProfile
from federation.recognition.templates import ARCFACE


@cache
def aligner():
    return aligner_for(shipped())


@cache
def shipped():
    return load_recogniser()


@cache
def orl_image(person, number):
    """The bytes of one of the ORL faces."""
    return (orl_faces() / f"s{person}" / f"{number}.pgm").read_bytes()


def recogniser_of(model, *, name="mine", colours=ColourOrder.RGB, scale=(127_500, 127_500), alignment=ARCFACE):
    """An .onnx model with a profile that nobody measured."""
    network, (mean, divisor) = OnnxNetwork(model), scale
    profile = RecogniserProfile(
        name=name,
        network=NETWORK,
        weights_digest=network.digest,
        alignment=alignment.at(network.side),
        preprocessing=Preprocessing(colours, (mean, mean, mean), divisor, network.layout, network.batch),
        dimension=network.dimension,
        code_length=1024,
        subspace=unmeasured(network.dimension),
        conditions=(),
        sets=(),
        clips=Clips(900),
        provenance=Provenance("a test", "none", "nobody"),
    )
    return OnnxRecogniser(model, profile)
