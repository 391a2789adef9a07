"""Firefox and WebKit, driven by what each has itself: WebDriver BiDi over a socket, and WebDriver over HTTP.

Neither needs a package of its own, nor a driver beside what Debian brings: `firefox-esr` and `webkit2gtk-driver`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
WEBKIT = shutil.which("WebKitWebDriver")
XVFB = shutil.which("Xvfb")
_PATIENCE_SECONDS = 90
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element in WebDriver (W3C, section 12.1)."""


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _running(command, **options):
    """A program that ends with the block, with all that it started."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options) as program:
        try:
            yield program
        finally:
            program.terminate()
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()


def _patiently(attempt, *errors):
    """What `attempt` gives once the program has begun to listen."""
    ends = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return attempt()
        except errors:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)


@contextmanager
def _display():
    """A display in memory; GTK draws nowhere else. Xvfb says which number it took."""
    reading, writing = os.pipe()
    options = ["-displayfd", str(writing), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
    with _running([XVFB, *options], pass_fds=[writing]), os.fdopen(reading) as said:
        os.close(writing)
        yield f":{said.readline().strip()}"


class Firefox:
    """A headless Firefox with a profile of its own, by WebDriver BiDi."""

    def __init__(self, channel):
        self._channel = channel
        self._count = 0
        capabilities = {"alwaysMatch": {"unhandledPromptBehavior": {"default": "ignore"}}}
        self.version = self._do("session.new", capabilities=capabilities)["capabilities"]["browserVersion"]
        (context,) = self._do("browsingContext.getTree")["contexts"]
        self._page = context["context"]

    @classmethod
    @contextmanager
    def started(cls, folder):
        port = _free_port()
        options = ["--headless", "--no-remote", f"--remote-debugging-port={port}", "--profile", str(folder)]
        with _running([FIREFOX, *options]):
            open_channel = lambda: connect(f"ws://127.0.0.1:{port}/session", max_size=None)  # noqa: E731 - short
            with _patiently(open_channel, OSError, WebSocketException) as channel:
                yield cls(channel)

    def _do(self, method, **parameters):
        self._count += 1
        self._channel.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._channel.recv(_PATIENCE_SECONDS))
            if said.get("id") == self._count:
                assert said["type"] == "success", said
                return said["result"]

    def goto(self, url):
        """Loads a page."""
        self._do("browsingContext.navigate", context=self._page, url=url, wait="complete")

    def evaluate(self, expression):
        """The value of an expression, as JSON carries it."""
        found = self._do(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression}) ?? null))()",
            target={"context": self._page},
            awaitPromise=True,
            userActivation=True,
        )
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"])

    def choose(self, selector, paths):
        """Puts files into an input."""
        found = self._do("browsingContext.locateNodes", context=self._page, locator={"type": "css", "value": selector})[
            "nodes"
        ]
        element = {"sharedId": found[0]["sharedId"]}
        self._do("input.setFiles", context=self._page, element=element, files=[str(path) for path in paths])


class WebKit:
    """A WebKit of GTK on a display that nobody sees, by WebDriver."""

    def __init__(self, client, answer):
        self._client = client
        self._session = f"/session/{answer['sessionId']}"
        self.version = answer["capabilities"]["browserVersion"]
        self._do("POST", "/timeouts", {"script": 1000 * _PATIENCE_SECONDS, "pageLoad": 1000 * _PATIENCE_SECONDS})

    @classmethod
    @contextmanager
    def started(cls, folder):
        port = _free_port()
        home = {name: str(folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
        with (
            _display() as display,
            _running([WEBKIT, f"--port={port}"], env=os.environ | home | {"DISPLAY": display, "GDK_BACKEND": "x11"}),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_SECONDS) as client,
        ):
            _patiently(lambda: client.get("/status"), httpx.TransportError)
            begun = client.post("/session", json={"capabilities": {"alwaysMatch": {}}}).json()["value"]
            assert "sessionId" in begun, begun
            browser = cls(client, begun)
            yield browser
            client.delete(browser._session)

    def _do(self, verb, path, body=None):
        said = self._client.request(verb, self._session + path, json=body).json()["value"]
        assert not (isinstance(said, dict) and "error" in said), said
        return said

    def goto(self, url):
        """Loads a page."""
        self._do("POST", "/url", {"url": url})

    def evaluate(self, expression):
        """The value of an expression, as JSON carries it."""
        script = (
            f"const done = arguments[0]; (async () => JSON.stringify(await ({expression}) ?? null))()"
            ".then(done, (error) => done(JSON.stringify({ error: String(error) })))"
        )
        value = json.loads(self._do("POST", "/execute/async", {"script": script, "args": []}))
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def choose(self, selector, paths):
        """Puts files into an input."""
        element = self._do("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._do("POST", f"/element/{element}/value", {"text": "\n".join(str(path) for path in paths)})
