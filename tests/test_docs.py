"""The documents say what is there: their links, tests, names and commands exist."""

import ast
import functools
import pkgutil
import re
import shlex
from pathlib import Path

import click
import pytest
import typer

import client.cli
import examples.bench
import examples.demo.__main__ as demo
import examples.epsilon_sweep
import examples.federation_worth
import examples.group_rates
import examples.load
import examples.preparing_bench
import examples.presentation.films
import examples.presentation.turned
import examples.reference_gate
import examples.scale
import examples.scores
import examples.synthetic_scores
import examples.trial_people
import server.cli
from federation.commandline.settings import Settings
from federation.sealing import Passphrase, ScryptCost, sealed
from federation.wire.person import FILES, PERSON, PersonFile
from federation.wire.ticket import Ticket

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BY_NAME = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
NOT_OURS = {".git", ".venv", "build", "dist", "node_modules", ".hypothesis"}


COMMANDS = {
    "intaglio": typer.main.get_command(client.cli.app),
    "intaglio-server": typer.main.get_command(server.cli.app),
    "examples.demo": typer.main.get_command(demo.app),
    "examples.bench": typer.main.get_command(examples.bench.app),
    "examples.epsilon_sweep": typer.main.get_command(examples.epsilon_sweep.app),
    "examples.federation_worth": typer.main.get_command(examples.federation_worth.app),
    "examples.group_rates": typer.main.get_command(examples.group_rates.app),
    "examples.load": typer.main.get_command(examples.load.app),
    "examples.scale": typer.main.get_command(examples.scale.app),
    "examples.preparing_bench": typer.main.get_command(examples.preparing_bench.app),
    "examples.presentation": typer.main.get_command(examples.presentation.films.app),
    "examples.presentation.turned": typer.main.get_command(examples.presentation.turned.app),
    "examples.reference_gate": typer.main.get_command(examples.reference_gate.app),
    "examples.scores": typer.main.get_command(examples.scores.app),
    "examples.synthetic_scores": typer.main.get_command(examples.synthetic_scores.app),
    "examples.trial_people": typer.main.get_command(examples.trial_people.app),
}
MAKE_RUNS = {"demo": "examples.demo", "bench": "examples.bench", "load": "examples.load"}
"""Targets whose ARGS are options of an example."""


def prose_of(text):
    """The document without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(document):
    """The fragments that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose_of(document.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@BY_NAME
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(document.read_text())):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if fragment:
            assert fragment in anchors_of(file), target


@functools.cache
def names_of_tests():
    trees = (ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py"))
    functions = (node for tree in trees for node in ast.walk(tree))
    return {node.name for node in functions if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@BY_NAME
def test_every_test_that_is_named_exists(document):
    named = set(re.findall(r"(?<!\btests\.)\btest_\w+\b(?!\.py)", document.read_text()))
    assert named - names_of_tests() == set()


@BY_NAME
def test_every_function_and_class_that_is_named_exists(document):
    protos = "".join(path.read_text() for path in (ROOT / "protos").rglob("*.proto"))
    for name in re.findall(r"`((?:client|server|federation|examples)(?:\.\w+)+)`", document.read_text()):
        package, _, last = name.rpartition(".")
        if f"package {package};" in protos:
            assert re.search(rf"^(?:service|message|enum) {last} ", protos, flags=re.MULTILINE), name
        else:
            pkgutil.resolve_name(name)


@BY_NAME
def test_every_file_that_is_named_exists(document):
    tops = "client|server|federation|examples|protos|tests|docs|models"
    for name in re.findall(rf"`((?:{tops})/[\w./-]*)`", document.read_text()):
        assert (ROOT / name).exists(), name


def commands_in(text):
    """The command lines of all fenced sh blocks, continued lines joined, comments and `> FILE` dropped."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words[:-2] if words[-2:-1] == [">"] else words


def parse(command, words, settings=None, *, name=None, parent=None):
    """Parses `words` as click would before it runs the command: sub-commands, options, types, required arguments."""
    context = command.make_context(name or command.name, list(words), parent, **({} if parent else {"obj": settings}))
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, sub, rest = command.resolve_command(context, rest)
        parse(sub, rest, name=name, parent=context)


def settings_of(text, variable, tmp_path):
    """What a document's block `# NAME.toml` says to the program whose variable names it."""
    program = {f"{module.PROGRAM.prefix}_CONFIG": module.PROGRAM for module in (client.cli, server.cli)}
    name, _, path = variable.partition("=")
    file = tmp_path / Path(path).name
    (block,) = re.findall(rf"^```toml\n(# {file.name}\n.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    file.write_text(block)
    return program[name].name, Settings.read(program[name], file)


@pytest.fixture
def _a_file_that_an_operator_handed_over(tmp_path, monkeypatch):
    """For `--from`: what it says takes the place of options that must be there."""
    person = PersonFile("localhost:7443", "trial", Ticket(bytes(20)), dict.fromkeys(FILES, b""))
    words = Passphrase("four words of alice")
    (tmp_path / "alice.passphrase").write_text("four words of alice")
    for name in ("alice", "ben"):
        made = sealed(person.to_secret_bytes(), PERSON, words, ScryptCost(15))
        (tmp_path / f"{name}.intaglio").write_bytes(made)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)


@BY_NAME
@pytest.mark.usefixtures("_a_file_that_an_operator_handed_over")
def test_every_command_line_is_one_that_the_program_takes(document, tmp_path):
    text, settings = document.read_text(), {}
    for words in commands_in(text):
        if words[0] == "export" and "=$(" in words[1]:  # what a command says
            words[:] = shlex.split(words[1].partition("=$(")[2].removesuffix(")"))
        match words:
            case ["export", variable]:
                program, found = settings_of(text, variable, tmp_path)
                found.require_commands(COMMANDS[program])
                settings[program] = found
            case ["make", *rest]:
                check_make(rest)
            case ["python", "-m", module, *rest] if module in COMMANDS:
                parse(COMMANDS[module], rest)
            case ["intaglio" | "intaglio-server" as program, *rest]:
                parse(COMMANDS[program], rest, settings.get(program))
                if "--from" in rest:  # from now on these are the person's settings
                    settings[program] = Settings.read(client.cli.PROGRAM, tmp_path / ".intaglio/alice/intaglio.toml")
            case ["pg_dump" | "pg_restore", *_]:
                pass  # PostgreSQL's own; `test_restored_service.py` runs them
            case ["python", "-m", "zipfile", *_] | [
                "chgrp" | "chmod" | "chown" | "cp" | "curl" | "ln" | "ls" | "mkdir" | "mv" | "rm" | "sed" | "systemctl",
                *_,
            ] if document.name == "operations.md":
                pass  # `tests/operations.py` runs them
            case _:
                pytest.fail(f"no program of this project takes {shlex.join(words)}; teach this test about it")


def check_make(words):
    """Checks targets, settings, and ARGS against the options of the example that the target runs."""
    makefile = (ROOT / "Makefile").read_text()
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    wanted = [word for word in words if "=" not in word]
    assert set(settings) <= set(re.findall(r"^([A-Z]+) \?=", makefile, flags=re.MULTILINE))
    assert set(wanted) <= set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))
    for target in wanted:
        if target in MAKE_RUNS:
            parse(COMMANDS[MAKE_RUNS[target]], shlex.split(settings.get("ARGS", "")))


@BY_NAME
def test_every_command_in_a_sentence_exists(document):
    for code in re.findall(r"`([^`\n]+)`", prose_of(document.read_text())):
        match shlex.split(code) if code.startswith(("make ", "intaglio")) else []:
            case ["make", *words]:
                check_make(words)
            case ["intaglio" | "intaglio-server" as program, *words]:
                find(COMMANDS[program], words)


def find(command, words):
    """Walks to the sub-command that `words` begin with."""
    while isinstance(command, click.Group) and words and words[0].isidentifier():
        name, *words = words
        assert name in command.commands, name
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}


def test_every_decision_is_in_the_index_under_its_title():
    index = (ROOT / "docs/adr/README.md").read_text()
    rows = dict(re.findall(r"^\| \[\d{4}\]\((\S+)\) \| (.*) \|$", index, flags=re.MULTILINE))
    decisions = {path.name: path.read_text() for path in (ROOT / "docs/adr").glob("[0-9]*.md")}
    titles = {name: re.match(r"# (\d+)\.? (.*)", text).groups() for name, text in decisions.items()}
    assert {name: title for name, (_, title) in titles.items()} == rows
    assert all(int(number) == int(name[:4]) for name, (number, _) in titles.items())
    assert all(f"[{name[:4]}]({name})" in index for name in titles)


def test_no_two_decisions_share_a_number():
    numbers = [path.name[:4] for path in (ROOT / "docs/adr").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers))


@BY_NAME
def test_every_decision_that_is_cited_exists(document):
    numbers = {int(path.name[:4]) for path in (ROOT / "docs/adr").glob("[0-9]*.md")}
    cited = {int(number) for number in re.findall(r"\bADR (\d{1,4})\b", document.read_text())}
    assert cited <= numbers


def files_of_ours():
    """Every file of the repository that is text."""
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not NOT_OURS & set(parts) and not any("cache" in part for part in parts):
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_names_a_place_on_somebodys_machine():
    places = re.compile(r"(?<![\w.])/(?:work|tmp|root|Users|home/(?!operator\b)\w+)/")  # a test invents /home/operator
    found = {str(path.relative_to(ROOT)) for path, text in files_of_ours() if places.search(text)}
    assert found == set()
