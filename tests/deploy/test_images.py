"""The container files of a site against the programs that they start, and, where an engine is, in containers."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from examples.deployment import containers
from tests.deploy.starting import parameters_of
from tests.operations import PAGE, blocks_of

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
OURS = [name for name, service in SERVICES.items() if "postgres" not in service["image"].lower()]
FILE = (ROOT / "deploy/Containerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", FILE, flags=re.MULTILINE | re.DOTALL))


def command_of(stage):
    (found,) = re.findall(r"^CMD (\[.*\])$", STAGES[stage], flags=re.MULTILINE)
    return yaml.safe_load(found)


@pytest.fixture
def settings(tmp_path):
    """The page's own."""
    (text,) = [text for _, text in blocks_of(PAGE.read_text()) if "# intaglio-server.toml" in text]
    (tmp_path / "intaglio-server.toml").write_text(text)
    return tmp_path / "intaglio-server.toml"


@pytest.mark.parametrize("stage", ["service", "bridge"])
def test_what_an_image_starts_listens_where_others_reach_it(stage, settings):
    started = parameters_of(command_of(stage), settings)
    assert started["host"] == started["metrics_host"] == "0.0.0.0"  # noqa: S104 - in a container's own network
    exposed = set(map(int, re.search(r"^EXPOSE (.*)$", STAGES[stage], flags=re.MULTILINE)[1].split()))
    assert exposed == {started["port"], started["metrics_port"]}


def test_an_image_runs_as_nobody_special_and_holds_neither_pip_nor_sources():
    assert re.findall(r"^USER (\S+)$", FILE, flags=re.MULTILINE) == ["10001"]
    assert "pip uninstall --yes pip setuptools" in STAGES["installed"]
    assert "COPY --from=installed /opt/intaglio /opt/intaglio" in STAGES["program"]
    assert re.findall(r"^COPY", STAGES["program"], flags=re.MULTILINE) == ["COPY"]


def test_an_image_has_the_roles_of_a_site_and_what_a_key_in_a_token_needs():
    """What the file's own line of Python writes for pip."""
    (written,) = re.findall(r'python3 (-c ".*?") ', FILE.replace("\\\n", " "))
    program = [word.replace("/opt/build", str(ROOT)) for word in shlex.split(written)]
    done = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {each for name in ("service", "postgres", "pkcs11") for each in project["optional-dependencies"][name]}
    assert set(done.stdout.splitlines()) == {each for each in project["dependencies"] if ";" not in each} | extras


def test_an_image_asks_for_no_file_and_the_compose_file_says_whose_settings_are_mounted():
    """A program whose variable names a file that is not there ends: a witness, or a pod of the chart, has none."""
    assert "INTAGLIO" not in "".join(re.findall(r"^ENV .*(?:\\\n.*)*", FILE, flags=re.MULTILINE))
    told = {name for name in OURS if "INTAGLIO_SERVER_CONFIG" in SERVICES[name].get("environment", {})}
    assert told == set(OURS) - {"witness"}


def test_everything_that_is_copied_is_let_through_and_nothing_else_is():
    let = (ROOT / "deploy/Containerfile.dockerignore").read_text().split()
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", FILE, flags=re.MULTILINE) for name in line.split()
    }
    assert let[0] == "*"
    assert {each.removeprefix("!") for each in let[1:]} == copied


def test_the_witness_runs_a_command_that_exists_in_its_folder():
    started = parameters_of(SERVICES["witness"]["command"])
    assert started["host"] == "0.0.0.0"  # noqa: S104 - in a container's own network
    assert (started["directory"], started["key"]) == ("/data/memory", ("/data/log.pub",))


def test_the_database_that_is_served_is_brought_to_the_schema():
    served = SERVICES["matching"]["environment"]["INTAGLIO_SERVER_DATABASE"]
    assert SERVICES["migrate"]["command"] == ["intaglio-server", "database", "upgrade", served]


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_writes_to_its_folder_and_to_memory_only(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - in the container
    assert [volume.rpartition(":")[2] for volume in service["volumes"]] == ["/data"]


def test_the_bridge_reaches_the_matching_service_and_neither_database_nor_witness():
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert networks["bridge"] & networks["matching"]
    assert not networks["bridge"] & (networks["database"] | networks["witness"])
    assert "ports" not in SERVICES["database"]
    assert "ports" not in SERVICES["witness"]


def test_no_file_holds_a_password():
    assert "password:" not in (ROOT / "deploy/compose.yaml").read_text().lower()
    assert SERVICES["database"]["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/database"  # noqa: S105 - a path


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.timeout(3600)
def test_a_site_runs_in_containers(tmp_path):
    if containers.find_engine(tmp_path) is None:
        pytest.skip(containers.NO_ENGINE)
    if len(list((ROOT / "dist").glob("*.whl"))) != 1:
        pytest.skip("there is no wheel in dist: make wheel")
    options = shlex.split(os.environ.get("INTAGLIO_SITE", ""))  # such as --base, where nothing can be pulled
    command = [sys.executable, "-m", "examples.site_containers", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without its database it says NOT_SERVING, and serves again with it" in done.stdout
