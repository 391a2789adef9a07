"""A matching service with a bridge and the built page on loopback, for tests that drive a real browser."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import socket
import threading
from contextlib import contextmanager

import numpy as np
from PIL import Image

from examples import publishing
from federation.learning.threshold import choose_threshold, public_adapter
from federation.recognition.mobilefacenet import shipped_profile
from federation.transparency import LogPolicy
from federation.wire.v1 import verification_pb2 as pb
from server.listening import page_server
from server.web.bridge import Site, bridge_app
from server.web.cli import deployment_file, site_files
from server.web.upstream import MatchingUpstream
from tests.bundles import MAKER, TRUST, a_bundle, signed
from tests.faces import orl_image
from tests.running import DEPLOYMENT, LOG_SIGNER, PURPOSE, TERMS, a_release

REFERENCES, FRAMES = 3, 2
_FRAMES_A_SECOND = 30


def orl_release():
    """What the shipped profile alone makes: nobody was asked."""
    profile, condition = shipped_profile(), "clean"
    chosen = choose_threshold(
        profile, condition, weight=0.0, references=REFERENCES, frames=FRAMES, fmr=0.01, observed=None, members=0,
        coupling=0.0,
    )  # fmt: skip
    return dataclasses.replace(
        a_release(chosen.bits),
        model_digest=profile.digest,
        adapter=public_adapter(profile, condition),
        condition=condition,
        references=REFERENCES,
        frames=FRAMES,
    )


def picture(person, number):
    """One of the ORL faces as a file for the browser: name, media type, PNG."""
    written = io.BytesIO()
    Image.open(io.BytesIO(orl_image(person, number))).save(written, "PNG")
    return {"name": "face.png", "mimeType": "image/png", "buffer": written.getvalue()}


def nobody():
    """A picture of nothing, as a file for the browser."""
    written = io.BytesIO()
    Image.new("RGB", (320, 240), "grey").save(written, "PNG")
    return {"name": "grey.png", "mimeType": "image/png", "buffer": written.getvalue()}


def film(person, numbers, path):
    """A film of some images of one face for the browser's fake camera, each for a second: Motion JPEG, 640 x 480."""
    written = io.BytesIO()
    for number in numbers:
        face = Image.open(io.BytesIO(orl_image(person, number))).convert("RGB")
        enlarged = np.asarray(face.resize((276, 336), Image.Resampling.BICUBIC))
        frame = np.pad(enlarged, ((72, 72), (182, 182), (0, 0)), mode="edge")
        one = io.BytesIO()
        Image.fromarray(frame).save(one, "JPEG", quality=95)
        written.write(one.getvalue() * _FRAMES_A_SECOND)
    path.write_bytes(written.getvalue())


def provenance_of(page):
    """What a maintainer signs of a release that has this built page in it."""
    subject = {
        "name": "intaglio-1.2.3-page.sha256",
        "digest": {"sha256": publishing.sha256_of(page / publishing.PAGE_LIST)},
    }
    built = {"buildDefinition": {"resolvedDependencies": [{"name": "source", "digest": {"gitCommit": "ab" * 20}}]}}
    return publishing.signed_by({"subject": [subject], "predicate": built}, MAKER)


class Between:
    """Sits between the bridge and the service, and does to answers what a test asks for.

    Attributes:
        calls: names of the calls that were passed on.
        alter: from the name of a call and its answer to what the page gets.
    """

    def __init__(self, upstream):
        self._upstream = upstream
        self.calls = []
        self.alter = lambda _name, answer: answer

    async def __call__(self, method, body):
        name = method.partition("/")[2]
        answer = await self._upstream(method, body)
        self.calls.append(name)
        return self.alter(name, answer)


@dataclasses.dataclass
class Served:
    """A running site.

    Attributes:
        url: of the page.
        between: sees every answer.
    """

    url: str
    between: Between


@contextmanager
def serving(page, target, tls, release, rules, login=None, former=(), port=0):
    """Serves the page in a thread of its own; `rules` is the content of the rules file.

    Args:
        login: makes the provider beside it from the page's origin, when there is to be one.
        former: releases that people come over from.
        port: of an origin that a browser knows already; 0 for a new one.
    """
    listening = socket.create_server(("127.0.0.1", port))
    origin = f"http://localhost:{listening.getsockname()[1]}"
    deployment = deployment_file(TERMS, PURPOSE, 90, log=LogPolicy(LOG_SIGNER.key), deployment=DEPLOYMENT, trust=TRUST)
    files = site_files(signed(a_bundle(release)), deployment, [signed(a_bundle(one)) for one in former])
    site = Site.read(page, origin, files, {"/rules.jsonl": lambda: rules})
    ready, running = threading.Event(), []

    async def serve():
        upstream = MatchingUpstream(target, tls, "client", print)
        between = Between(upstream)
        app = bridge_app(between, site)
        server = page_server(login(origin).beside(app) if login else app)
        running.extend([server, between])
        ready.set()
        await server.serve([listening])
        await upstream.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    server, between = running
    try:
        yield Served(origin, between)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def with_other_reply(answer, change):
    """A SubmitProbeResponse whose reply was changed."""
    message = pb.SubmitProbeResponse.FromString(answer)
    message.reply = change(message.reply)
    return message.SerializeToString()
