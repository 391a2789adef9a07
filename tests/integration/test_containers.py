"""The container files against the programs that they start, and, where an engine is, in containers."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

import client.cli
import server.cli
from client.node.joining import _FIRST_POLICY, ORGANISATION_KEY
from client.node.start import node_config
from examples.deployment import containers
from federation.membership.joining import LocalPolicy

CHECKOUT = Path(__file__).parents[2]
DEPLOYMENT = CHECKOUT / "examples" / "deployment"
PROGRAMS = {"intaglio": client.cli.app, "intaglio-server": server.cli.app}
SERVICES = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())["services"]
STEPS = [line.split() for line in (DEPLOYMENT / "Containerfile").read_text().splitlines() if line[:1].isupper()]


def parsed(command):
    """The parameters that the program would start with. Anything that it does not know is an error."""
    program, *arguments = command
    found = typer.main.get_command(PROGRAMS[program])
    while hasattr(found, "resolve_command"):
        context = found.make_context(program, list(arguments))
        _, found, arguments = found.resolve_command(context, list(arguments))
    return found.make_context(program, list(arguments)).params | {"folder": Path(arguments[0])}


@pytest.mark.parametrize("name", SERVICES)
def test_every_command_exists_and_reads_the_folder_that_is_mounted(name):
    service = SERVICES[name]
    mounted = {Path(volume.rpartition(":")[2]) for volume in service["volumes"]}
    assert {parsed(service["command"])["folder"]} == mounted


def test_the_coordinator_listens_where_its_port_is_published():
    service = SERVICES["coordinator"]
    assert parsed(service["command"])["host"] == "0.0.0.0"  # noqa: S104 - in a container's own network
    assert service["ports"] == ["8443:8443"]


def test_a_command_that_no_program_has_is_noticed():
    with pytest.raises(Exception, match="No such command"):
        parsed(["intaglio", "node", "begin", "/data"])
    with pytest.raises(Exception, match="No such option"):
        parsed(["intaglio", "node", "start", "/data", "--hots", "x"])


def test_a_node_reads_nothing_outside_the_mounted_folder():
    for service in SERVICES.values():
        folder = parsed(service["command"])["folder"]
        settings = node_config(folder, LocalPolicy.from_toml(_FIRST_POLICY)).split()
        assert f'identity="{folder / ORGANISATION_KEY}"' in settings
        assert all(f'"{folder}/' in setting for setting in settings if "/" in setting)


def test_everything_that_the_image_copies_is_there_and_it_runs_as_nobody_special():
    copied = {source for step in STEPS if step[0] == "COPY" and "--from" not in step[1] for source in step[1:-1]}
    assert {"client", "server", "federation"} <= copied
    assert all((CHECKOUT / source).exists() for source in copied)
    # A number, because a name may not be resolvable on the host.
    assert [step[1] for step in STEPS if step[0] == "USER"] == ["10001"]


def test_the_image_is_built_on_the_official_python_unless_another_base_is_named():
    assert STEPS[0] == ["ARG", f"BASE={containers.BASE}"]
    assert {step[1] for step in STEPS if step[0] == "FROM"} == {"${BASE}"}


def test_a_read_only_container_writes_to_its_folder_and_to_memory_only():
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - in the container
        assert not any(volume.endswith(":ro") for volume in service["volumes"])
    # An engine mounts memory over a user's own home as root's.
    assert any(step[0] == "ENV" and "HOME=/tmp" in step for step in STEPS)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts made-up programs, by name and shell text, where everything is looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    def install(**texts):
        for name, text in texts.items():
            program = tmp_path / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)

    return install


def test_without_an_engine_that_answers_the_command_says_what_is_missing(programs, tmp_path):
    assert containers.find_engine(tmp_path) is None
    programs(docker="exit 1", podman="exit 0")
    assert containers.find_engine(tmp_path) is None
    with pytest.raises(SystemExit, match="install Docker with its compose plugin, or podman and podman-compose"):
        containers.run(containers.BASE, [])


def test_a_podman_compose_whose_output_cannot_be_read_is_not_used(programs, tmp_path):
    programs(podman="exit 0", podman_compose='[ "$2" != --short ]')  # 1.0, which talks into what containers say
    assert containers.find_engine(tmp_path) is None


def test_docker_and_podman_are_found_with_their_own_compose(programs, tmp_path):
    programs(podman="exit 0", podman_compose="exit 0")
    assert containers.find_engine(tmp_path).compose == (str(tmp_path / "podman-compose"),)
    programs(docker="exit 0")
    assert containers.find_engine(tmp_path).compose == ("docker", "compose")


def test_an_engines_failure_ends_the_command_with_what_the_engine_said(programs, tmp_path):
    programs(podman="echo no space left >&2; exit 125", podman_compose="exit 0")
    engine = containers.Engine("podman", ("podman-compose",), tmp_path)
    with pytest.raises(SystemExit, match="podman images ended with 125:\nno space left"):
        engine.call("images")


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.timeout(3600)
def test_the_federation_of_the_compose_file_trains_in_containers(tmp_path):
    if containers.find_engine(tmp_path) is None:
        pytest.skip(containers.NO_ENGINE)
    options = shlex.split(os.environ.get("INTAGLIO_CONTAINERS", ""))  # such as --base, where nothing can be pulled
    done = subprocess.run(
        [sys.executable, "-m", "examples.deployment.containers", *options],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the engine has started south again" in done.stdout
    assert "is written" in done.stdout
