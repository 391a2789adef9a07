"""The container files against the programs that they start. No engine runs them here."""

from pathlib import Path

import pytest
import typer
import yaml

import client.cli
import server.cli
from client.joining import _FIRST_POLICY, ORGANISATION_KEY
from client.node import node_config
from federation.membership import LocalPolicy

CHECKOUT = Path(__file__).parents[1]
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
    mounted = {Path(volume.split(":")[1]) for volume in service["volumes"]}
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
    for _, *sources, _ in (step for step in STEPS if step[0] == "COPY"):
        assert all((CHECKOUT / source).exists() for source in sources)
    copied = {source for step in STEPS if step[0] == "COPY" for source in step[1:-1]}
    assert {"client", "server", "federation"} <= copied
    assert [step[1] for step in STEPS if step[0] == "USER"] == [
        "10001"
    ]  # hadolint: a name may not be resolvable on the host
    assert STEPS[0] == ["FROM", "python:3.11-slim"]


def test_a_read_only_container_writes_to_its_folder_and_to_memory_only():
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp", "/home/intaglio"]  # noqa: S108 - in the container
        assert not any(volume.endswith(":ro") for volume in service["volumes"])
