"""Speed and size as ratios against named peers, measured in the same run: `make bench`.

Ours and the peer take turns, so that whatever else the machine does hits both. Times are medians on one core.
Results go to ``build/bench.json`` as a list of {name, ours, peer, peer_name, unit, ratio}; below 1 is better than the
peer. Peers:

* CKKS: TenSEAL's encrypted squared distance, ``diff.dot(diff)``, N = 8192 and 60-40-40-60 bits, its own defaults for
  four decimals and more.
* BFV: the same with TenSEAL's exact integers, N = 4096, embeddings in steps of 1/64.
* CipherFace flow: what the published package does, rebuilt with TenSEAL calls alone: the owner stores an encrypted
  embedding, the cloud loads it, encrypts the probe, takes the squared distance and sends it back, the owner decrypts it
  and compares. Its owner learns the score, and its cloud sees the probe.
* Plaintext: XOR and count of two packed codes.
* Specification: the sizes that docs/onebit.md allows.
* The page: see `examples.web_bench`. Its peers are the limits that it has to keep.
* A trivial Flower run: see `examples.federation_bench`, and `examples.deployment_bench` with ``--only-deployment``. Its
  processes take seconds to start, and so do ours. Memory is resident memory, and what processes share counts in each.
"""

from __future__ import annotations

import json
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tenseal
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from client.device.consent_cli import read_terms
from examples import deployment_bench, federation_bench, web_bench
from examples.usage import Usage
from federation.consent.receipts import Binding, Receipt
from federation.onebit import Material, Parameters, SessionKey, TemplateSecret
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048
from federation.recognition.model import CODE_LENGTH

MOST_BYTES = {ONEBIT_1024: (80_500, 118_000), ONEBIT_2048: (92_000, 148_000)}
"""Of an upload and of a reply, that docs/onebit.md allows."""
MOST_STORED_BYTES = 1_500
TERMS = Path(__file__).parent / "policies" / "terms.json"


@dataclass(frozen=True)
class Measurement:
    """One of ours against one of a peer's.

    Attributes:
        name: what was measured.
        ours: our figure.
        peer: the peer's.
        peer_name: who the peer is.
        unit: of both figures.
        ratio: ours / peer.
    """

    name: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float

    @classmethod
    def of(cls, name: str, ours: float, peer: float, peer_name: str, unit: str) -> Measurement:
        """Computes the ratio."""
        return cls(name, ours, peer, peer_name, unit, ours / peer)


def race(*contestants: Callable[[], object], rounds: int) -> list[float]:
    """Median milliseconds of each contestant, taking turns after one rehearsal each."""
    times: list[list[float]] = [[] for _ in contestants]
    for measured in (False, *(rounds * (True,))):
        for contestant, taken in zip(contestants, times, strict=True):
            begun = time.perf_counter()
            contestant()
            if measured:
                taken.append((time.perf_counter() - begun) * 1e3)
    return [statistics.median(taken) for taken in times]


class Ours:
    """A device and a server, with one enrolled template."""

    def __init__(self, parameters: Parameters, dimension: int, rounds: int) -> None:
        random = np.random.default_rng(dimension)
        self.parameters = parameters
        self.threshold = parameters.slots * 7 // 20  # a typical tau; it decides the length of the accept table
        self.vector = random.normal(size=dimension)
        self.secret = TemplateSecret.generate(parameters)
        self.template = self.secret.template(self.vector)
        self.probe = self._key().encrypt(self.secret.padded_code(self.vector + random.normal(size=dimension) / 2))
        self.material = iter([Material.draw(parameters) for _ in range(rounds)])
        self.reply = self.answer_afresh()
        self.keys = iter([self._key() for _ in range(rounds)])

    def _key(self) -> SessionKey:
        return SessionKey.generate(self.parameters)

    def answer(self) -> bytes:
        """From probe message to reply message, with material made ahead."""
        return next(self.material).answer(self.template, self.probe, b"transcript", self.threshold).reply

    def answer_afresh(self) -> bytes:
        """From probe message to reply message, with nothing made ahead."""
        material = Material.draw(self.parameters)
        return material.answer(self.template, self.probe, b"transcript", self.threshold).reply

    def device_work(self) -> object:
        """From embedding to probe message, and from reply message to token, with a session key made ahead."""
        return self._device_work(next(self.keys))

    def device_work_afresh(self) -> object:
        """The same with the session key."""
        return self._device_work(self._key())

    def _device_work(self, key: SessionKey) -> object:
        key.encrypt(self.secret.padded_code(self.vector))
        return key.open_reply(self.reply, b"transcript")

    def everything(self) -> object:
        """One verification: device and server, nothing made ahead, all messages as bytes."""
        key = self._key()
        probe = key.encrypt(self.secret.padded_code(self.vector))
        reply = Material.draw(self.parameters).answer(self.template, probe, b"transcript", self.threshold).reply
        return key.open_reply(reply, b"transcript")

    @property
    def stored_bytes(self) -> int:
        """Of one device: template, key and a consent."""
        key = Ed25519PrivateKey.generate()
        public_key = key.public_key().public_bytes_raw()
        binding = Binding(public_key, bytes(32), bytes(32), bytes(32))
        receipt = Receipt(bytes(16), read_terms(TERMS), binding, issued_at=10**9, expires_at=2 * 10**9).sign(key)
        deflated = zlib.compress(receipt.to_bytes())  # as `server.storage.schema` stores it
        return len(self.template) + len(public_key) + len(deflated)


class TensealPeer:
    """An encrypted squared distance with TenSEAL's vectors."""

    def __init__(self, name: str, context: Any, encrypt: Callable[[Any, Any], Any], load: Any, vector: Any) -> None:  # noqa: ANN401 - TenSEAL has no types
        self.name = name
        self.context = context
        self._encrypt = partial(encrypt, context)
        self._load = partial(load, context)
        self.vector = vector
        self.template = self._encrypt(vector)
        self.stored = self.template.serialize()
        self.probe = self._encrypt(vector)
        self.probe_bytes = self.probe.serialize()
        self.distance = self.square()
        self.reply = self.distance.serialize()
        self.keys = len(
            context.serialize(save_public_key=True, save_secret_key=False, save_galois_keys=True, save_relin_keys=True)
        )

    @classmethod
    def ckks(cls, vector: Any) -> TensealPeer:  # noqa: ANN401 - as above
        """N = 8192, 60-40-40-60."""
        context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60], n_threads=1)
        context.global_scale = 2**40
        context.generate_galois_keys()
        context.generate_relin_keys()
        return cls(
            "TenSEAL CKKS diff.dot(diff)", context, tenseal.ckks_vector, tenseal.ckks_vector_from, vector.tolist()
        )

    @classmethod
    def bfv(cls, vector: Any) -> TensealPeer:  # noqa: ANN401 - as above
        """N = 4096, exact integers."""
        context = tenseal.context(tenseal.SCHEME_TYPE.BFV, 4096, plain_modulus=1_032_193, n_threads=1)
        context.generate_galois_keys()
        context.generate_relin_keys()
        quantised = np.round(64 * vector / np.linalg.norm(vector)).astype(int).tolist()
        return cls("TenSEAL BFV diff.dot(diff)", context, tenseal.bfv_vector, tenseal.bfv_vector_from, quantised)

    def square(self) -> Any:  # noqa: ANN401 - as above
        """The encrypted squared distance of two loaded vectors."""
        difference = self.template - self.probe
        return difference.dot(difference)

    def square_bytes(self) -> bytes:
        """The same from serialised probe to serialised distance."""
        difference = self.template - self._load(self.probe_bytes)
        result: bytes = difference.dot(difference).serialize()
        return result

    def device_work(self) -> Any:  # noqa: ANN401 - as above
        """Encrypting and serialising a probe, loading and decrypting a distance."""
        self._encrypt(self.vector).serialize()
        return self._load(self.reply).decrypt()

    def cipherface_flow(self) -> bool:
        """The published flow: load, encrypt the probe, distance, send back, decrypt, compare."""
        difference = self._load(self.stored) - self._encrypt(self.vector)
        distance = self._load(difference.dot(difference).serialize()).decrypt()[0]
        return bool(distance < 1)


def onebit(parameters: Parameters, dimension: int, rounds: int) -> Iterator[Measurement]:
    """The one-bit match against every peer, for one parameter set and one embedding dimension."""
    suffix = "" if parameters.slots == CODE_LENGTH else f".{parameters.slots}"
    suffix += "" if dimension == 128 else f".d{dimension}"  # noqa: PLR2004 - what README shows
    ours = Ours(parameters, dimension, 2 * rounds + 2)
    ckks, bfv = TensealPeer.ckks(ours.vector), TensealPeer.bfv(ours.vector)

    def pair(name: str, mine: Callable[[], object], *peers: tuple[str, Callable[[], object]]) -> Iterator[Measurement]:
        own, *others = race(mine, *(run for _, run in peers), rounds=rounds)
        for (peer_name, _), other in zip(peers, others, strict=True):
            yield Measurement.of(f"{name}{suffix}", own, other, peer_name, "ms")

    squares = [(f"{peer.name}, message to message", peer.square_bytes) for peer in (ckks, bfv)]
    yield from pair("onebit.server", ours.answer, *squares)
    yield from pair("onebit.server_with_randomiser", ours.answer_afresh, *squares)
    decrypting = [(f"{peer.name}, encrypt and decrypt", peer.device_work) for peer in (ckks, bfv)]
    yield from pair("onebit.device", ours.device_work, *decrypting)
    yield from pair("onebit.device_with_key", ours.device_work_afresh, *decrypting)
    yield from pair("onebit.everything", ours.everything, ("CipherFace flow", ckks.cipherface_flow))
    bits = parameters.slots
    codes = [np.packbits(np.random.default_rng(seed).integers(0, 2, bits, dtype=np.uint8)) for seed in (0, 1)]
    yield from pair(
        "onebit.server", ours.answer, ("plaintext codes", lambda: np.bitwise_count(codes[0] ^ codes[1]).sum())
    )
    sizes = {"upload": len(ours.probe), "reply": len(ours.reply), "storage": ours.stored_bytes}
    for peer in (ckks, bfv):
        theirs = (len(peer.probe_bytes), len(peer.reply), len(peer.stored) + peer.keys)
        for (name, mine), other in zip(sizes.items(), theirs, strict=True):
            yield Measurement.of(f"onebit.{name}{suffix}", mine, other, peer.name.split(" diff")[0], "bytes")
    for (name, mine), most in zip(sizes.items(), (*MOST_BYTES[parameters], MOST_STORED_BYTES), strict=True):
        yield Measurement.of(f"onebit.{name}{suffix}", mine, most, "specification", "bytes")


def federation(where: str, measure: Callable[[int], dict[str, Usage]], runs: int) -> Iterator[Measurement]:
    """A whole private run against trivial ones."""
    used = measure(runs)
    ours = used.pop(federation_bench.OURS)
    for peer_name, peer in used.items():
        yield Measurement.of(f"{where}.run", ours.seconds, peer.seconds, peer_name, "s")
        yield Measurement.of(f"{where}.cpu", ours.cpu_seconds, peer.cpu_seconds, peer_name, "CPU s")
        yield Measurement.of(f"{where}.memory", ours.peak_mebibytes, peer.peak_mebibytes, peer_name, "MiB")
        yield Measurement.of(
            f"{where}.largest_process", ours.largest_mebibytes, peer.largest_mebibytes, peer_name, "MiB"
        )


def web(rounds: int) -> Iterator[Measurement]:
    """The page in Chromium against its limits; nothing, and a line that says why, where it cannot run."""
    reason = web_bench.missing()
    if reason is not None:
        typer.echo(f"the page is left out: {reason}")
        return
    transferred, times = web_bench.measure(rounds)
    median, high = web_bench.quantiles(times)
    yield Measurement.of("web.transferred", transferred, web_bench.MOST_BYTES, "limit of 6 MB", "bytes")
    yield Measurement.of("web.photo_to_verdict.p50", median, web_bench.MOST_MS, "aim of one second", "ms")
    yield Measurement.of("web.photo_to_verdict.p95", high, web_bench.MOST_MS, "aim of one second", "ms")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)  # tracebacks would show embeddings


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=3, help="Repetitions of each measurement.")] = 40,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions of whole Flower runs.")] = 3,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("build/bench.json"),
    *,
    only_federation: Annotated[bool, typer.Option("--only-federation", help="Measure the Flower runs alone.")] = False,
    only_deployment: Annotated[
        bool,
        typer.Option("--only-deployment", help="Measure runs of a deployment, which takes minutes and is left out."),
    ] = False,
    only_match: Annotated[bool, typer.Option("--only-match", help="Measure the one-bit match alone.")] = False,
    only_web: Annotated[bool, typer.Option("--only-web", help="Measure the page alone.")] = False,
) -> None:
    """Measure, print the ratios, write them as JSON."""
    table = Table(title="below 1: better than the peer")
    for column in ("what", "ours", "peer", "unit", "ratio", "peer is"):
        table.add_column(column, justify="left" if column in {"what", "unit", "peer is"} else "right")
    local = federation("federation", federation_bench.measure, runs)
    if only_web or only_federation or only_deployment:
        parts = [web(rounds)] * only_web + [local] * only_federation
        parts += [federation("deployment", deployment_bench.measure, runs)] * only_deployment
    else:
        matches = [onebit(ONEBIT_1024, 128, rounds), onebit(ONEBIT_1024, 512, rounds), onebit(ONEBIT_2048, 128, rounds)]
        parts = [*matches, *([] if only_match else [web(rounds), local])]
    measurements = list(chain(*parts))
    for m in measurements:
        table.add_row(m.name, f"{m.ours:,.3g}", f"{m.peer:,.3g}", m.unit, f"{m.ratio:.3g}", m.peer_name)
    Console(width=140).print(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps([asdict(m) for m in measurements], indent=2) + "\n")


if __name__ == "__main__":
    app()
