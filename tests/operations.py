"""Runs docs/operations.md from first line to last: `python -m tests.operations` prints what was typed and said.

The machine is a folder that is empty at first: `/etc/...`, `/var/lib/...` and `/srv/...` of the page lie in it, and
ports are free ones of loopback. `systemctl` is played here: it starts what ExecStart of the unit in deploy/systemd
says, with its environment, and ends it as systemd would; a unit that runs once runs to its end, with the capabilities
that it keeps. Everything else is typed as it stands, `> FILE` too. What is printed after a block is compared with the
block of text behind it; `...` is what differs. A line that ends in `# ends with N` has that exit code, at once or
within seconds.

As root, each unit runs as the user that it names, who is a number here and has nothing but what the page gives away:
`chown` and `chgrp` are typed too. Without root all are one user, and these two are left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation.release.manifest import Use
from tests import tokens
from tests.bundles import AUDITOR, MAKER, TRUST_IN_TRIALS, a_bundle, an_attack, signed
from tests.web.site import orl_release

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/operations.md"
UNITS = ROOT / "deploy/systemd"
PLACES = (
    "/etc/intaglio-bridge",
    "/etc/intaglio",
    "/var/lib/intaglio",
    "/var/lib/softhsm",
    "/srv/backup",
    "/srv/checkpoint",
)
USERS = {"intaglio": "64001", "intaglio-bridge": "64002"}
"""Whom units and page name, by numbers that need not exist."""
PORTS = ("7443", "9100", "9101", "8080")
PASSPHRASE = "correct horse battery"  # noqa: S105 - made up
SECONDS = 300.0


def interpreter_for_others() -> str | None:
    """Where root runs this: a Python of this version that any user may start, or None. Elsewhere None."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    for path in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        real = Path(path).resolve()
        if real.is_file() and all(folder.stat().st_mode & 0o001 for folder in (real, *real.parents)):
            return path
    return None


def numbered(word: str) -> str:
    """A word with numbers in the place of the users."""
    return re.sub("|".join(sorted(USERS, reverse=True)), lambda found: USERS[found[0]], word)


def those_like(word: str) -> list[str]:
    """What a shell makes of a path that ends in `*`."""
    path = Path(word)
    found = sorted(map(str, path.parent.glob(path.name)))
    assert found, word
    return found


Block = tuple[str, str]
"""Language and text of a fenced block."""


def blocks_of(page: str) -> Iterator[Block]:
    """Those that are typed, written or compared, in order."""
    yield from re.findall(r"^```(sh|text|toml)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def lines_of(block: str) -> Iterator[tuple[str, int]]:
    """Command lines with the exit codes that they shall have."""
    for line in block.replace("\\\n", " ").splitlines():
        command, _, code = line.partition(" # ends with ")
        if command.strip():
            yield command, int(code or 0)


def is_like(said: str, shown: str) -> bool:
    """Whether a text is the one that is shown, `...` standing for anything."""
    pattern = re.escape(shown.strip()).replace(r"\.\.\.", "(?:.|\n)*")
    return re.fullmatch(pattern, said.strip()) is not None


@dataclass
class Machine:
    """One that has nothing yet.

    Attributes:
        folder: everything is in it.
        tell: is given what is typed and what is said.
    """

    folder: Path
    tell: Callable[[str], None]
    said: str = ""
    _ports: dict[str, str] = field(default_factory=dict)
    _variables: dict[str, str] = field(default_factory=dict)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _interpreter: str | None = field(default_factory=interpreter_for_others)

    def __post_init__(self) -> None:
        held = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        self._ports = {port: str(one.getsockname()[1]) for port, one in zip(PORTS, held, strict=True)}
        for one in held:
            one.close()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._variables = {
            "PATH": path,
            "HOME": str(self.folder),
            "PWD": str(self.home),
            "COLUMNS": "200",
            "INTAGLIO_PASSPHRASE": PASSPHRASE,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        for place in ("/etc/intaglio", "/var/lib", "/srv"):
            (self.folder / place[1:]).mkdir(parents=True)
        if self.has_users:
            self.folder.chmod(0o711)

    @property
    def has_users(self) -> bool:
        """Whether the units run as users of their own."""
        return self._interpreter is not None

    @property
    def home(self) -> Path:
        """Where whoever types stands."""
        return self.folder / "etc/intaglio"

    def here(self, text: str) -> str:
        """The same with the folders and ports of this machine."""
        for place in PLACES:
            text = re.sub(rf"(?<![\w/.-]){re.escape(place)}(?=[/\s\"'|]|$)", str(self.folder / place[1:]), text)
        text = re.sub(r"(?<=\s)~(?=/)", str(self.folder), text)
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: self._ports[found[1]], text)

    def there(self, text: str) -> str:
        """The same as the page writes it."""
        for port, own in self._ports.items():
            text = re.sub(rf"\b{own}\b", port, text)
        return text.replace(str(self.folder), "")

    def tell_variable(self, name: str, value: str) -> None:
        """What the machine's own settings would say."""
        self._variables[name] = value

    def play(self, page: str) -> None:
        """Everything on a page.

        Raises:
            AssertionError: something else came out than it says.
        """
        try:
            for language, text in blocks_of(page):
                if language == "toml":
                    (name,) = re.findall(r"^# (\S+)\n", text)
                    (self.home / name).write_text(self.here(text))
                elif language == "text":
                    assert is_like(self.said, text), f"the page shows:\n{text}\nand this was said:\n{self.said}"
                else:
                    self.said = ""
                    for command, code in lines_of(text):
                        self._type(command, code)
            for unit in list(self._running):
                self._stop(unit)
        finally:
            for process in self._running.values():
                process.kill()
                process.wait()

    def _type(self, command: str, code: int) -> None:
        self.tell(f"$ {command}")
        words = shlex.split(self.here(command))
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            if value.startswith("$("):
                value = self._done(shlex.split(value[2:-1]))[0].strip()
            self._variables[name] = value
            return
        said, ended = "", 0
        if words[0] == "systemctl":
            self._systemctl(*words[1:])
        elif words[0] == "curl":
            with urllib.request.urlopen(words[-1], timeout=SECONDS) as answer:  # noqa: S310 - of the page
                said = answer.read().decode()
        elif words[-2:-1] == [">"]:
            written, ended = self._done(words[:-2], is_apart=True)
            (self.home / words[-1]).write_text(written)
        elif words[0] not in {"chown", "chgrp"}:
            said, ended = self._done(words)
            deadline = time.monotonic() + SECONDS / 4
            while {ended, code} == {0, 3} and time.monotonic() < deadline:
                time.sleep(1)  # a server takes rules in within seconds: refused, or not any more
                said, ended = self._done(words)
        elif self.has_users:
            said, ended = self._done([word if "/" in word else numbered(word) for word in words])
        if said:
            self.tell(said.rstrip())
            self.said += said
        assert ended == code, f"{command} ended with {ended}:\n{said}{self._journals()}"

    def _done(
        self, words: list[str], *, is_apart: bool = False, variables: Mapping[str, str] | None = None
    ) -> tuple[str, int]:
        """What a command said, errors too unless they are apart, and its exit code."""
        words = [found for word in words for found in (those_like(word) if word.endswith("*") else [word])]
        done = subprocess.run(
            words,
            cwd=self.home,
            env=self._variables | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if is_apart else subprocess.STDOUT,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        return self.there(done.stdout), done.returncode

    def _systemctl(self, verb: str, *words: str) -> None:
        unit = words[-1]
        if verb == "enable":
            assert "--now" in words, words
            if unit.endswith(".timer"):  # one that begins today has nothing to do before tomorrow
                assert (UNITS / unit).is_file(), unit
                return
            verb = "start"
        if verb in {"stop", "restart"}:
            self._stop(unit)
        if verb in {"start", "restart"}:
            self._start(unit)

    def _start(self, unit: str) -> None:
        text = (UNITS / f"{unit}.service").read_text()
        if "Type=oneshot" in text:
            self._run_once(text)
            return
        (command,) = re.findall(r"^ExecStart=/opt/intaglio/bin/(.*)$", text, flags=re.MULTILINE)
        (environment,) = re.findall(r"^Environment=(.*)$", text, flags=re.MULTILINE)
        more = dict(each.split("=", 1) for each in shlex.split(self.here(environment)))
        port = int(re.search(r"--metrics-port (\d+)", self.here(command))[1])  # type: ignore[index] # each unit has one
        words = shlex.split(self.here(command))
        if self._interpreter is not None:
            (user,) = re.findall(r"^User=(.*)$", text, flags=re.MULTILINE)
            self._own_folders(text, USERS[user])
            place = shutil.which(words[0], path=self._variables["PATH"])
            become = ["setpriv", f"--reuid={USERS[user]}", f"--regid={USERS[user]}", "--clear-groups"]
            words = [*become, self._interpreter, str(place), *words[1:]]
            more |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": "/nonexistent"}
        with (self.folder / f"{unit}.log").open("ab") as log:
            process = subprocess.Popen(words, cwd=self.folder, env=self._variables | more, stdout=log, stderr=log)
        self._running[unit] = process
        end = time.monotonic() + SECONDS
        while not serves(port):
            assert process.poll() is None, f"{unit} ended:{self._journals()}"
            assert time.monotonic() < end, f"{unit} did not begin to serve:{self._journals()}"
            time.sleep(0.1)

    def _run_once(self, unit: str) -> None:
        """Every command of a unit in its order, as root with what it is left of root's powers."""
        (environment,) = re.findall(r"^Environment=(.*)$", unit, flags=re.MULTILINE)
        more = dict(each.split("=", 1) for each in shlex.split(self.here(environment)))
        (powers,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, flags=re.MULTILINE)
        kept = ",".join(["-all", *(f"+{power.removeprefix('CAP_').lower()}" for power in powers.split())])
        for command in re.findall(r"^ExecStart=(.*)$", unit, flags=re.MULTILINE):
            words = shlex.split(self.here(command.replace("/opt/intaglio/bin/", "")))
            if self.has_users:
                words = [*words[:1], *(word if "/" in word else numbered(word) for word in words[1:])]
                words = ["setpriv", f"--bounding-set={kept}", "--no-new-privs", *words]
            elif words[0] == "/bin/chgrp":
                continue
            said, ended = self._done(words, variables=more)
            assert ended == 0, f"{command} ended with {ended}:\n{said}{self._journals()}"

    def _own_folders(self, unit: str, user: str) -> None:
        """What systemd does for a unit with folders: a state that is all its user's, and a mode for its settings."""
        for name in re.findall(r"^StateDirectory=(.*)$", unit, flags=re.MULTILINE):
            folder = self.folder / "var/lib" / name
            folder.chmod(0o700)
            if folder.stat().st_uid != int(user):
                subprocess.run(["chown", "-R", f"{user}:{user}", folder], check=True)
        for name in re.findall(r"^ConfigurationDirectory=(.*)$", unit, flags=re.MULTILINE):
            (self.folder / "etc" / name).chmod(0o750)

    def _stop(self, unit: str) -> None:
        process = self._running.pop(unit)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0, f"{unit} did not end as it should:{self._journals()}"

    def _journals(self) -> str:
        return "".join(f"\n--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))


def serves(port: int) -> bool:
    """Whether a service says so at its port for probes."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def give(machine: Machine) -> None:
    """What an operator has after `make demo`: a release, the keys of those who signed it, terms. And a token."""
    bundle = signed(a_bundle(orl_release(), use=Use.TRIAL, epsilon_audit=an_attack(0.5)))
    private = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files = {
        "release.zip": bundle.to_bytes(),
        "trust.json": TRUST_IN_TRIALS.to_bytes(),
        "terms.json": (ROOT / "examples/policies/terms.json").read_bytes(),
        "maker.pem": MAKER.private_bytes(*private),
        "alice.passphrase": PASSPHRASE.encode(),
        "auditor.pem": AUDITOR.private_bytes(*private),
    }
    for name, content in files.items():
        (machine.home / name).write_bytes(content)
    place = machine.folder / "var/lib/softhsm"
    place.mkdir(parents=True)
    machine.tell_variable(tokens.CONFIGURATION, str(tokens.configure(place)))
    tokens.SoftToken.initialised("signing", place / "tokens", machine.home / "pin")


def run(page: str, tell: Callable[[str], None]) -> None:
    """Plays a page on a machine of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="intaglio-operations-") as folder:
        machine = Machine(Path(folder), tell)
        give(machine)
        machine.play(page)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    run(PAGE.read_text(), lambda line: print(line, flush=True))  # noqa: T201 - the transcript
