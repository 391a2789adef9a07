"""What a login needs before the first person comes: release, keys, rules, a log. Made once, for this machine alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.embedding import embed_folder
from client.faces.judging import judging_recogniser
from examples.demo.auditing import audit, trial_bundle
from examples.demo.verifying import Person
from examples.login.shop import BACK, CLIENT
from federation.consent.receipts import Party, Terms
from federation.experiments.wolves import owners_of
from federation.learning.releasing import ReleaseTerms, public_release
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.fusing import fused, fused_groups
from federation.recognition.model import ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from federation.release.bundle import Bundle
from federation.release.manifest import ReleaseTrust

DEPLOYMENT: Final = "login"
PURPOSE: Final = "members-area"
STATED_FMR: Final = 0.01
_REFERENCES, _FRAMES, _PEOPLE = 2, 1, 12
_TERMS: Final = Terms(
    controller=Party("Example login", "This machine", "mailto:nobody@example.org"),
    audience="login.example.org",
    purposes=(PURPOSE,),
    jurisdiction="DE",
    storage_location="DE",
    retention_days=0,
    alternative="Close the page: the shop sells nothing, and nobody else asks for your face here.",
    contest="mailto:nobody@example.org",
    withdrawal="mailto:nobody@example.org",
    notice="https://example.org/notice",
    notice_version="1",
    language="en",
)


def prepare(folder: Path, site: str) -> None:
    """Makes everything in a new folder, from a release of public knowledge alone to the rule of the site.

    Args:
        folder: a new one.
        site: address of the small site.
    """
    release, bundle, trust = _audited(folder.parent / "cache")
    write(folder, site, bundle, trust)
    (folder / "statement.txt").write_text(f"{bundle.manifest.audited.text}: {release.rate.text}\n")


def write(folder: Path, site: str, bundle: Bundle, trust: ReleaseTrust) -> None:
    """Makes what belongs to a bundle: certificates, keys, rules with the site in them, a log."""
    folder.mkdir(parents=True)
    (folder / "release.zip").write_bytes(bundle.to_bytes())
    (folder / "trust.json").write_bytes(trust.to_bytes())
    (folder / "terms.json").write_text(json.dumps(asdict(_TERMS)))
    named = ("--terms", folder / "terms.json", "--release", folder / "release.zip", "--deployment", DEPLOYMENT)
    signers = ("--key", folder / "rules/signer-1.pem", "--key", folder / "rules/signer-2.pem")
    run("pki", "init", folder / "tls")
    run("assertions", "init", folder / "assertions", "--issuer", "https://login.example.org")
    run("rules", "init", folder / "rules", *named, "--assertions", folder / "assertions")
    run("log", "init", folder / "log", "login.example.org/log")
    run("login", "init", folder / "login")
    client = ("--client", CLIENT, "--operator", "Example shop", "--purpose", PURPOSE, "--deployment", DEPLOYMENT)
    back = ("--redirect-uri", site + BACK, "--new-secret", folder / "shop.secret")
    run("login", "register", folder / "rules/rules.jsonl", *signers, *client, *back)


def run(*arguments: Path | str) -> None:
    """Runs an operator's command to its end."""
    command = [str(Path(sys.executable).parent / "intaglio-server"), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program, no shell


def _audited(cache: Path) -> tuple[ModelRelease, Bundle, ReleaseTrust]:
    """A release that asked nobody, audited on clean pictures of a few people whom its profile was not made of."""
    root = orl_faces()
    everybody = face_folder(root)
    recogniser = judging_recogniser(root, everybody, None)
    terms = ReleaseTerms(recogniser.profile, "clean", STATED_FMR, _REFERENCES, _FRAMES)
    release = public_release(terms, created=datetime.now(UTC))
    few = replace(everybody, people=dict(list(everybody.people.items())[:_PEOPLE]))
    embedded = embed_folder(few, recogniser, Condition.MASK, cache=cache).embeddings
    clean = embedded.select(embedded.profiles == REFERENCE)
    report = audit(_people(clean, release), owners_of(clean, release), release)
    return release, *trial_bundle(report, release, measured=None, now=int(time.time()))


def _people(embeddings: EmbeddingSet, release: ModelRelease) -> list[Person]:
    """The first half of everybody's pictures enrols, the second verifies."""
    people = []
    for name in sorted(set(embeddings.people.tolist())):
        mine = embeddings.select(embeddings.people == name).embeddings
        early, late = np.array_split(mine, 2)
        references = np.vstack([fused(early[:_REFERENCES]), early[_REFERENCES:]])
        probes = fused_groups(late, _FRAMES)
        people.append(Person(name, release.adapt(references, REFERENCE), release.adapt(probes, PROBE)))
    return people
