"""What both programs begin with: completion, version, exit codes, and help in which every command has an example."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import click
import click.testing
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import client.cli
import server.cli
from federation.commandline import commands, program, version
from federation.commandline.commands import EXIT_CODES
from federation.commandline.settings import Program, Settings, leaves
from federation.errors import PeerError, ProofError, RefusedError, UsageError

ROOT = Path(__file__).resolve().parents[3]
MODULES = {"intaglio": client.cli, "intaglio-server": server.cli}
PROGRAMS = pytest.mark.parametrize("name", MODULES)
TREES = {name: typer.main.get_command(module.app) for name, module in MODULES.items()}
COMMANDS = [(name, path) for name, tree in TREES.items() for path in leaves(tree)]


# ---------------------------------------------------------------------- help


def help_of(name, path):
    result = click.testing.CliRunner().invoke(TREES[name], [*path.split(), "--help"], env={"COLUMNS": "1000"})
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize(("name", "path"), COMMANDS, ids=[f"{name} {path}" for name, path in COMMANDS])
def test_every_command_says_what_it_needs_and_writes_how_it_ends_and_one_example(name, path):
    told = help_of(name, path)
    assert re.search(r"Needs: \w.*\. Writes: \w.*\.\s*$", told, flags=re.MULTILINE)
    assert told.count("Exit codes: ") == 1
    (example,) = re.findall(rf"^\s*Example: {name} (.*?)\s*$", told, flags=re.MULTILINE)
    assert example == path or example.startswith(f"{path} ")


@pytest.mark.parametrize(("name", "path"), COMMANDS, ids=[f"{name} {path}" for name, path in COMMANDS])
@pytest.mark.parametrize("columns", [60, 80])
def test_help_is_whole_in_a_narrow_terminal(name, path, columns):
    """What was too long for its column ended in three dots: names of options, and URLs that somebody has to type."""
    whole = help_of(name, path)
    told = click.testing.CliRunner().invoke(TREES[name], [*path.split(), "--help"], env={"COLUMNS": str(columns)})
    assert (told.exit_code, "\N{HORIZONTAL ELLIPSIS}" in told.stdout) == (0, False)
    assert max(map(len, told.stdout.splitlines())) <= columns
    options = re.findall(r"^\W\s+(?:\* +)?(--[a-z0-9-]+)\s", whole, flags=re.MULTILINE)
    assert "--help" in options
    assert not set(options) - set(re.findall(r"--[a-z0-9-]+", told.stdout))


@PROGRAMS
def test_what_is_missing_may_stand_in_the_settings_and_the_error_says_so(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = {"intaglio": "verify", "intaglio-server": "health"}[name]
    told = CliRunner().invoke(MODULES[name].app, ["--config", "/dev/null", command], prog_name=name)
    assert told.exit_code == 2
    assert f". It may also stand in the configuration file: `{name} config show` explains." in told.stderr
    told = CliRunner().invoke(MODULES[name].app, ["--config", "/dev/null", "rules"], prog_name=name)
    assert "configuration file" not in told.stderr


LISTS = {"former-release"}
"""What stands at the top and is more than one."""


def a_configuration(name):
    """One that says what commands share, as somebody has who follows the examples."""
    top = {key: ["x"] if key in LISTS else "x" for key in MODULES[name].PROGRAM.shared}
    settings = Settings(MODULES[name].PROGRAM, Path("/etc") / f"{name}.toml", top)
    return lambda *_args, **_options: settings


@pytest.mark.parametrize(("name", "path"), COMMANDS, ids=[f"{name} {path}" for name, path in COMMANDS])
def test_every_example_is_one_that_the_program_takes(name, path, monkeypatch):
    example = re.search(rf"Example: {name} (.*?)\s*$", help_of(name, path), flags=re.MULTILINE)[1]
    ran = []
    monkeypatch.setattr(Settings, "find", a_configuration(name))
    monkeypatch.setattr(commands._Command, "invoke", lambda command, _ctx: ran.append(command.name), raising=False)
    result = click.testing.CliRunner().invoke(TREES[name], shlex.split(example))
    assert result.exit_code == 0, result.output
    assert ran == [path.split()[-1]]


def test_an_example_with_an_option_that_is_gone_is_found(monkeypatch):
    monkeypatch.setattr(Settings, "find", a_configuration("intaglio"))
    assert CliRunner().invoke(client.cli.app, ["verify", "now.jpg", "--fast"]).exit_code == 2


def test_help_is_not_buried_under_variables():
    assert "env var" not in help_of("intaglio", "verify")
    assert "INTAGLIO_PASSPHRASE," in help_of("intaglio", "verify")


def test_what_the_output_has_no_letters_for_is_printed_as_escapes_on_both_ways_out(monkeypatch):
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, raw in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    program.print_what_can_be()
    for name in written:
        print(f"to {name}: J\u00f6rg", file=getattr(sys, name), flush=True)
    assert [raw.getvalue() for raw in written.values()] == [b"to stdout: J\\xf6rg\n", b"to stderr: J\\xf6rg\n"]
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # as tests put it in its place
    program.print_what_can_be()


# ---------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (RefusedError("x"), 3),
        (PeerError("x"), 4),
        (ProofError("x"), 4),
        (KeyboardInterrupt(), 130),
        (EOFError(), 130),
        (click.Abort(), 130),
        (ZeroDivisionError(), 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_a_program_ends_as_its_help_says(error, code, monkeypatch, capsys):
    app = program.root(Program("toy", frozenset()), help="A toy.")

    @app.command("fail")
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["toy", "fail"])
    with pytest.raises(SystemExit, match=f"^{code}$"):
        program.run(app)
    told = capsys.readouterr().err
    assert ("Traceback" in told) == (code == 70)
    assert f"{code} " in EXIT_CODES


# ---------------------------------------------------------------------- completion


@pytest.fixture
def shell(tmp_path):
    """Bash with both programs in its path, and a home of its own."""
    for name, module in MODULES.items():
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!{sys.executable}\nfrom {module.__name__} import main\nmain()\n")
        script.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }

    def run(script):
        # Bash runs the last command in its own place, and then no shell is found above it where none started the tests.
        script = f"{script}\nexit $?"
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def pressed_tab(words):
    """What bash does when a completion was loaded and TAB is pressed after the last word."""
    return f"""
    COMP_WORDS=({" ".join(shlex.quote(word) for word in words)}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
    function=$(complete -p {words[0]} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    $function {words[0]}; printf '%s\\n' "${{COMPREPLY[@]}}"; echo
    """


@pytest.mark.integration
def test_bash_completes_commands_groups_and_options(shell):
    tabs = [
        ["intaglio", "ver"],
        ["intaglio", "wallet", ""],
        ["intaglio", "verify", "--log"],
    ]
    told = shell('eval "$(intaglio --show-completion)"\n' + "".join(map(pressed_tab, tabs)))
    verify, wallet, options = (set(part.split()) for part in told.strip().split("\n\n"))
    assert verify == {"verify"}
    assert wallet == {"create", "show", "list", "backup", "passphrase"}
    assert options == {"--log-policy"}


@pytest.mark.integration
def test_completion_is_installed_for_a_new_bash(shell, tmp_path):
    shell("intaglio-server --install-completion")
    told = shell("source ~/.bashrc\n" + pressed_tab(["intaglio-server", "matching", "st"]))
    assert told.split() == ["start"]
    assert "intaglio-server" in (tmp_path / ".bashrc").read_text()


@PROGRAMS
def test_no_variable_installs_or_ends_anything(name, monkeypatch, tmp_path):
    for option in ("INSTALL_COMPLETION", "SHOW_COMPLETION", "VERSION", "SHOW_VERSION", "HELP", "CONFIG_SHOW_HELP"):
        monkeypatch.setenv(f"{MODULES[name].PROGRAM.prefix}_{option}", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CliRunner().invoke(MODULES[name].app, ["config", "show"]).stdout.startswith("file ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_a_variable_for_completion_ends_no_command_as_a_match(shell):
    told = shell(
        "export COMP_WORDS=x COMP_CWORD=1\n"
        "for asks in source_bash complete_bash source_zsh; do\n"
        "_INTAGLIO_COMPLETE=$asks intaglio --config /dev/null verify now.jpg 2>&1 | grep -c Missing\n"
        "echo ${PIPESTATUS[0]}\n"
        "done\n"
        "_INTAGLIO_SERVER_COMPLETE=source_bash intaglio-server --config /dev/null health 2>&1 | grep -c Missing\n"
        "echo ${PIPESTATUS[0]}"
    )
    assert told.split() == ["1", "2"] * 4


@pytest.mark.integration
def test_when_nobody_reads_any_more_a_program_ends_as_shells_say_it_and_what_is_left_goes_nowhere(monkeypatch, capsys):
    app = program.root(Program("toy", frozenset()), help="A toy.")
    read, write = os.pipe()
    os.close(read)

    @app.command("tell")
    def tell() -> None:
        os.write(write, b"to nobody")

    with open(write, "w", encoding="utf-8") as output:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "argv", ["toy", "tell"])
        with pytest.raises(SystemExit, match=r"^141$"):
            program.run(app)
        assert os.fstat(write).st_rdev == Path(os.devnull).stat().st_rdev
        output.write("what is left")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [["--help"], ["tell", "--help"], ["table"]])
def test_help_and_tables_that_nobody_reads_end_as_shells_say_it_too(monkeypatch, words):
    """They ended with 1, which says non-match."""
    app = program.root(Program("toy", frozenset()), help="A toy.")
    read, write = os.pipe()
    os.close(read)
    app.command("tell")(lambda: None)
    app.command("table")(lambda: Console().print("to nobody"))
    with open(write, "w", encoding="utf-8") as output:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "argv", ["toy", *words])
        with pytest.raises(SystemExit, match=r"^141$"):
            program.run(app)


def test_a_command_whose_own_code_is_1_keeps_it(monkeypatch):
    app = program.root(Program("toy", frozenset()), help="A toy.")

    @app.command("other")
    def other() -> None:
        raise typer.Exit(1)

    app.command("tell")(lambda: None)
    monkeypatch.setattr(sys, "argv", ["toy", "other"])
    with pytest.raises(SystemExit, match=r"^1$"):
        program.run(app)


def test_a_pipe_that_breaks_and_is_not_the_output_is_a_bug_and_no_reader_who_left(tmp_path):
    """It was 141 without a word, for a service whose worker could not be started."""
    (tmp_path / "broken.py").write_text(
        "import client.cli\n"
        "@client.cli.app.command('broken')\n"
        "def broken():\n"
        "    raise BrokenPipeError(32, 'Broken pipe')\n"
        "client.cli.main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / "broken.py", "broken"], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 70
    assert b"BrokenPipeError" in done.stderr


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(28, "No space left on device")])
def test_an_error_that_there_is_no_room_to_tell_ends_a_command_as_a_bug_and_not_as_a_non_match(monkeypatch, error):
    def app(**_):
        raise error

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program, "print_what_can_be", lambda: None)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=full, flush=full))
    with pytest.raises(SystemExit, match=r"^70$"):
        program.run(app)


# ---------------------------------------------------------------------- version


@PROGRAMS
def test_the_version_names_commit_and_what_matters(name, monkeypatch):
    monkeypatch.setattr(version, "commit", lambda: "c0ffee")
    told = dict(line.split(" ", 1) for line in CliRunner().invoke(MODULES[name].app, ["--version"]).stdout.splitlines())
    assert told == {
        name: metadata.version("intaglio"),
        "commit": "c0ffee",
        "python": sys.version.split()[0],
        **{package: metadata.version(package) for package in ("cryptography", "tenseal", "torch", "flwr", "grpcio")},
    }


def test_what_is_not_installed_is_said(monkeypatch):
    def missing(_name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    assert version.versions("intaglio")["torch"] == "not installed"


def test_no_version_comes_from_an_import():
    code = (
        "import sys, json; from federation.commandline.version import versions; versions('intaglio');"
        "print(json.dumps(sorted({'tenseal', 'torch', 'flwr', 'grpc', 'cryptography'} & set(sys.modules))))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == []


def test_a_version_is_told_whatever_the_configuration_says(tmp_path, monkeypatch):
    broken = tmp_path / "intaglio.toml"
    broken.write_text("=")
    monkeypatch.setenv("INTAGLIO_CONFIG", str(broken))
    assert CliRunner().invoke(client.cli.app, ["--version"]).exit_code == 0


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No build recorded anything, pip did not either, and the code lies in an empty folder."""
    monkeypatch.setattr(metadata, "distribution", lambda _name: Noted(None))
    code = tmp_path / "checkout" / "federation" / "commandline" / "version.py"
    code.parent.mkdir(parents=True)
    monkeypatch.setattr(version, "__file__", str(code))
    return tmp_path


class Noted:
    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.text


def commit_into(folder):
    git = ["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_that_nobody_recorded_is_unknown(bare):
    assert version.commit() == "unknown"


def test_the_commit_is_that_of_the_checkout_and_changes_show(bare):
    folder = bare / "checkout"
    (folder / "file").write_text("one")
    head = commit_into(folder)
    assert version.commit() == head
    (folder / "file").write_text("two")
    assert version.commit() == f"{head}-dirty"


def test_a_checkout_around_an_installation_is_not_where_it_came_from(bare):
    (bare / "project").mkdir()
    shutil.move(bare / "checkout", bare / "project" / "site-packages")
    commit_into(bare / "project")
    assert version._of_checkout(bare / "project" / "site-packages") is None


def test_gits_variables_name_no_other_repository(bare, monkeypatch):
    (bare / "other").mkdir()
    commit_into(bare / "other")
    head = commit_into(bare / "checkout")
    monkeypatch.setenv("GIT_DIR", str(bare / "other" / ".git"))
    assert version.commit() == head


def test_without_git_the_commit_is_unknown(bare, monkeypatch):
    commit_into(bare / "checkout")
    monkeypatch.setenv("PATH", "")
    assert version.commit() == "unknown"


@pytest.mark.parametrize(
    ("noted", "commit"),
    [
        ('{"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}', "c0ffee"),
        ('{"url": "file:///x", "dir_info": {"editable": true}}', "unknown"),
        ("{", "unknown"),
        ("[]", "unknown"),
        ('{"vcs_info": {"commit_id": 7}}', "unknown"),
    ],
)
def test_the_commit_is_what_pip_noted(bare, monkeypatch, noted, commit):
    monkeypatch.setattr(metadata, "distribution", lambda _name: Noted(noted))
    assert version.commit() == commit


def test_the_commit_that_a_build_recorded_counts_before_all_others(bare, monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda _name: Noted('{"vcs_info": {"commit_id": "c0ffee"}}'))
    record = bare / "checkout" / "federation" / "COMMIT"
    record.write_text("decaf\n")
    assert version.commit() == "decaf"
    record.write_text("\n")
    assert version.commit() == "c0ffee"
