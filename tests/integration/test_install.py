"""What is installed by role: the wheel in empty environments, as a stranger installs it, with `pip` and the index."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from client.faces.fetching import DETECTOR_FILES
from client.faces.models import detector_files, recogniser_files
from federation.commandline.extras import PACKAGES
from tests.agreeing import AUDIENCE, PURPOSE, public
from tests.faces import shipped
from tests.federation.consent.test_assertion import ASSERTION, ISSUER, ISSUER_KEY, NONCE
from tests.running import a_pki, a_rules_file, write_release, write_rules
from tests.transparency_log import SIGNER, MemoryLog
from tests.web.site import orl_release, picture

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PASSPHRASE = "correct horse battery"  # noqa: S105 - made up for the tests
LARGEST_BARE_MEGABYTES = 60
LARGEST_DEVICE_MEGABYTES = 350
SUITES = ["federation/recognition/test_model.py", "federation/wire", "federation/audit/test_audit.py", "server/storage"]
"""Run at the floors: numbers, messages, statistics, databases."""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not (ROOT / "web/dist/index.html").is_file(), reason="the page is not built: make web"),
]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and how large the wheel and its dependencies are there."""

    folder: Path
    megabytes: float

    def run(self, *command, expected=0, **variables):
        program, *arguments = map(str, command)
        environment = {"PATH": os.defpath, "HOME": str(self.folder), "COLUMNS": "200", **variables}
        done = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=environment,
        )
        assert done.returncode == expected, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def packages(self):
        told = self.run("python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")
        return {each["name"].lower(): each["version"] for each in json.loads(told.stdout)}


def pip(python, *arguments):
    """Runs pip as the user would, with the user's configuration."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the archive of sources."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "venv", folder / "tool"], check=True)
    python = folder / "tool/bin/python"
    pip(python, "install", *tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"])
    subprocess.run([python, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def install(built, tmp_path_factory, request):
    """Installs the wheel with extras, once for each."""
    known = {}

    def installed(extra="", *, python=sys.executable, constraints=ROOT / "constraints.txt"):
        if (extra, python, constraints) not in known:
            folder = tmp_path_factory.mktemp(extra or "bare")
            subprocess.run([python, "-m", "venv", folder], check=True)
            before = size_of(folder)
            (wheel,) = built.glob("*.whl")
            what = f"intaglio[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
            limits = ["--constraint", constraints] if constraints else []
            pip(folder / "bin/python", "install", "--no-compile", *limits, what)
            megabytes = size_of(folder) - before
            with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                print(f"\nintaglio[{extra}] takes {megabytes:.0f} MB")  # noqa: T201 - what the test is also for
            known[extra, python, constraints] = Installed(folder, megabytes)
        return known[extra, python, constraints]

    return installed


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """What a relying organisation and an auditor get from others, as files."""
    folder, now = tmp_path_factory.mktemp("papers"), int(time.time())
    write_release(folder)
    write_rules(folder)
    assertion = replace(ASSERTION, issued_at=now - 5, expires_at=now + 295)
    (folder / "assertion.jwt").write_text(assertion.sign(ISSUER_KEY))
    (folder / "checkpoint").write_bytes(MemoryLog(time=now).checkpoint())
    return folder


# ------------------------------------------------------------------------------------------------------------- bare
def test_the_bare_wheel_is_small_and_verifies_assertions_releases_logs_and_rules(install, papers):
    bare = install()
    assert bare.megabytes < LARGEST_BARE_MEGABYTES
    assert not bare.packages().keys() & {"numpy", "scipy", "grpcio", "torch", "flwr"}
    expected = {
        "key": public(ISSUER_KEY).hex(),
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "purpose": PURPOSE,
        "nonce": NONCE.hex(),
    }
    options = [word for name, value in expected.items() for word in (f"--{name}", value)]
    assert "claim accepted" in bare.run("intaglio", "assertion", "verify", papers / "assertion.jwt", *options).stdout
    bundle = ["release", "verify", papers / "release.zip", "--trust", papers / "trust.json"]
    assert json.loads(bare.run("intaglio", *bundle, "--json").stdout)["audit"].startswith("audit PASS on ")
    told = bare.run("intaglio", "log", "verify", papers / "checkpoint", "--key", SIGNER.key.to_text())
    assert "a checkpoint of 10 entries" in told.stdout
    assert "deployment" in bare.run("intaglio", "rules", "show", papers / "rules.jsonl").stdout


def test_what_the_bare_wheel_checks_it_also_refuses(install, papers, tmp_path):
    bare, spoilt = install(), tmp_path / "release.zip"
    spoilt.write_bytes((papers / "release.zip").read_bytes().replace(b"epsilon", b"epsilom"))
    trust = ["--trust", papers / "trust.json"]
    assert "release.zip" in bare.run("intaglio", "release", "verify", spoilt, *trust, expected=2).stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["intaglio", "verify", "now.jpg", "--tls", "tls"], "device"),
        (["intaglio", "wallet", "create"], "device"),
        (["intaglio", "log", "follow"], "device"),
        (["intaglio", "audit", "scores.csv", "--groups", "sex"], "audit"),
        (["intaglio", "privacy", "plan"], "train"),
        (["intaglio", "join", "north"], "train"),
        (["intaglio-server", "matching", "start"], "service"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else value,
)
def test_a_command_of_another_role_says_what_to_install(install, words, extra):
    said = install().run(*words, expected=2).stderr
    assert f"needs intaglio[{extra}]: pip install 'intaglio[{extra}]'" in said


def test_the_server_says_its_version_where_its_packages_are_missing(install):
    assert install().run("intaglio-server", "--version").stdout.startswith("intaglio-server ")


def test_an_audit_that_is_made_again_needs_the_audit_extra(install, papers):
    again = ["release", "verify", papers / "release.zip", "--trust", papers / "trust.json", "--scores", "scores.csv"]
    assert "needs intaglio[audit]" in install().run("intaglio", *again, expected=2).stderr


def test_every_role_is_known_by_packages_of_its_own_extra():
    modules = {"PIL": "pillow", "grpc": "grpcio", "pkcs11": "python-pkcs11"}
    extras = PROJECT["optional-dependencies"]
    for role, packages in PACKAGES.items():
        own = {re.split(r"[\[<>=]", each)[0] for each in extras[role]}
        if "intaglio" in own:
            own |= {re.split(r"[\[<>=]", each)[0] for name in ("device", "service") for each in extras[name]}
        own |= {"flwr"} if role == "train" else set()  # see pyproject.toml
        assert {modules.get(name, name.replace("_", "-")) for name in packages} <= own


def test_the_wheel_is_complete_and_the_archive_of_sources_builds_the_same(built, tmp_path):
    (wheel,), (sources,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "client", "server", "federation"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert set(tracked.stdout.split()) <= names
    page = {str(path.relative_to(ROOT / "web/dist")) for path in (ROOT / "web/dist").rglob("*") if path.is_file()}
    assert {f"server/web/page/{name}" for name in page} <= names
    policies = {f"server/matching/policies/{path.name}" for path in (ROOT / "examples/policies").glob("*.json")}
    assert policies
    assert policies | {"federation/COMMIT"} <= names

    with tarfile.open(sources) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("intaglio-*")
    command = [built / "tool/bin/python", "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(again).namelist()) == names


# ------------------------------------------------------------------------------------------------------------ roles
@pytest.fixture
def served(install, tmp_path):
    """A matching server from an environment with the service alone, on newest versions, and its address."""
    service = install("service", constraints=None)
    a_pki(tmp_path / "tls")
    write_release(tmp_path, release := orl_release())
    write_rules(tmp_path, issuer=None)
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file(releases=(release,), issuer=None))
    options = {
        "release": "release.zip",
        "release-trust": "trust.json",
        "database": "matching.db",
        "tls": "tls",
        "rules": "rules.jsonl",
        "log": "transparency",
        "ready-file": "ready.json",
    }
    words = [word for name, file in options.items() for word in (f"--{name}", str(tmp_path / file))]
    command = [service.folder / "bin/intaglio-server", "matching", "start", *words, "--port", "0"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stderr=said, cwd=tmp_path)
    try:
        for _ in range(600):
            if (tmp_path / "ready.json").exists():
                break
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.1)
        port = json.loads((tmp_path / "ready.json").read_text())["port"]
        yield service, f"localhost:{port}", tmp_path
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_device_enrols_and_verifies_at_a_service_each_installed_alone(install, served):
    service, target, files = served
    assert not service.packages().keys() & {"flwr", "torch", "opendp", "scipy", "pillow"}
    assert "SERVING" in service.run("intaglio-server", "health", "--server", target, "--tls", files / "tls").stdout

    device = install("device")
    assert device.megabytes < LARGEST_DEVICE_MEGABYTES
    assert not device.packages().keys() & {"flwr", "torch", "opacus", "opendp", "starlette", "sqlalchemy"}
    weights = device.folder / ".local/share/intaglio/models"
    weights.mkdir(parents=True)
    files_of_both = zip(DETECTOR_FILES, detector_files(), strict=True)
    for name, data in (*recogniser_files(shipped()).items(), *files_of_both):
        (weights / name).write_bytes(data)
    for person, number in ((1, 1), (1, 2), (1, 3), (2, 1)):
        (files / f"{person}-{number}.png").write_bytes(picture(person, number)["buffer"])
    passphrase = {"INTAGLIO_PASSPHRASE": PASSPHRASE}
    options = ["--server", target, "--tls", files / "tls", "--log-policy", files / "transparency/policy"]
    options += ["--release", files / "release.zip", "--release-trust", files / "trust.json"]
    options += ["--rules", files / "rules.jsonl"]
    device.run("intaglio", "wallet", "create", **passphrase)
    ticket = service.run("intaglio-server", "tickets", "issue", "--database", files / "matching.db").stdout.strip()
    terms = ["--terms", files / "terms.json", "--agree", "--purpose", PURPOSE, "--ticket", ticket]
    device.run("intaglio", "enrol", files / "1-1.png", files / "1-2.png", *options, *terms, **passphrase)
    device.run("intaglio", "verify", files / "1-3.png", *options, **passphrase)
    device.run("intaglio", "verify", files / "2-1.png", *options, expected=1, **passphrase)


@pytest.mark.slow
def test_a_service_alone_gets_the_newest_of_what_faces_the_internet(install, tmp_path):
    facing = ["cryptography", "starlette", "uvicorn", "jinja2", "pyjwt", "grpcio"]
    report = tmp_path / "report.json"
    service = install("service", constraints=None)
    python = service.folder / "bin/python"
    pip(python, "install", "--dry-run", "--ignore-installed", "--report", report, *facing)
    newest = {
        each["metadata"]["name"].lower(): each["metadata"]["version"]
        for each in json.loads(report.read_text())["install"]
    }
    installed = service.packages()
    assert {name: installed[name] for name in facing} == {name: newest[name] for name in facing}


@pytest.mark.slow
def test_an_auditor_audits_a_score_file_with_the_audit_extra(install, tmp_path):
    auditor = install("audit")
    assert not auditor.packages().keys() & {"flwr", "torch", "tenseal", "grpcio"}
    scores = tmp_path / "scores.csv"
    subprocess.run([sys.executable, "-m", "examples.synthetic_scores", scores], cwd=ROOT, check=True)
    said = auditor.run("intaglio", "audit", scores, "--groups", "sex,age", expected=1).stdout
    assert "f / 60+" in said
    assert "FAIL" in said


@pytest.mark.slow
def test_an_organisation_plans_and_a_coordinator_begins_with_the_train_extra(install, tmp_path):
    train = install("train")
    plan = json.loads(train.run("intaglio", "privacy", "plan", "--people", 300, "--json").stdout)
    assert plan["epsilon"] == 8.0
    train.run("intaglio-server", "federation", "init", tmp_path / "federation", "--help")


# ----------------------------------------------------------------------------------------------------------- floors
def floors(*extras):
    """The lowest versions that pyproject.toml allows, as constraints."""
    needed = [each for each in PROJECT["dependencies"] if ";" not in each]
    for extra in extras:
        needed += PROJECT["optional-dependencies"][extra]
    return sorted({re.sub(r"(\[.*\])?>=([^,]+).*", r"==\2", each) for each in needed if ">=" in each})


@pytest.mark.slow
def test_the_bare_wheel_works_at_its_floors(install, papers, tmp_path):
    oldest = at_floors(install, tmp_path)
    oldest.run("intaglio", "release", "verify", papers / "release.zip", "--trust", papers / "trust.json")


@pytest.mark.slow
def test_device_service_and_audit_work_at_their_floors(install, tmp_path):
    oldest = at_floors(install, tmp_path, "audit", "device", "postgres", "service")
    plugins = ["pytest-asyncio", "pytest-randomly", "pytest-socket", "pytest-timeout"]
    pip(oldest.folder / "bin/python", "install", "pytest", "hypothesis", *plugins)
    command = ["python", "-m", "pytest", "-q", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml"]
    command += ["-k", "not committed_stubs"]  # needs the compiler of protos
    oldest.run(*command, *(ROOT / "tests" / name for name in SUITES), PYTHONPATH=str(ROOT))


def at_floors(install, tmp_path, *extras):
    limits = tmp_path / "floors.txt"
    limits.write_text("\n".join(floors(*extras)) + "\n")
    return install(",".join(extras), constraints=limits)


# ---------------------------------------------------------------------------------------------------------- pythons
@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.12", "3.13"])
@pytest.mark.parametrize("extra", ["", "service", "audit"])
def test_other_pythons_install_a_role_and_run_it(install, papers, version, extra):
    python = shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"there is no python{version}")
    other = install(extra, python=python, constraints=None)
    bundle = ["release", "verify", papers / "release.zip", "--trust", papers / "trust.json"]
    other.run("intaglio", *bundle)
