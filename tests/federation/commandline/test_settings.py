"""Settings: which value counts, what a file may say and whose it may be, and what `config show` tells and does not."""

import contextlib
import json
import os
import re
import stat
from enum import Enum
from pathlib import Path
from typing import Annotated

import click
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import client.cli
import server.cli
from federation.commandline.commands import Commands
from federation.commandline.program import root
from federation.commandline.settings import (
    Program,
    Settings,
    is_shared,
    key_of,
    leaves,
    names_file,
    settable,
    short_variable,
    variables_of,
)
from federation.commandline.showing import config_commands
from federation.errors import UsageError

TOY = Program("toy", frozenset({"tls", "place"}))
PROGRAMS = pytest.mark.parametrize("module", [client.cli, server.cli], ids=["intaglio", "intaglio-server"])


def toy():
    """A program with every kind of option, and two commands that share two of them."""
    app, keys = root(TOY, help="A toy."), Commands(help="Keys.")

    @app.command("look")
    def look(
        tls: Annotated[Path, typer.Option(envvar="TOY_TLS")] = Path("/default"),
        place: Annotated[str, typer.Option(envvar="TOY_PLACE", metavar="FILE|URL|@NAME")] = "@home",
        days: Annotated[int, typer.Option(min=1, max=365)] = 90,
        rate: Annotated[float, typer.Option()] = 0.5,
        seen: Annotated[list[Path] | None, typer.Option()] = None,
        *,
        as_json: Annotated[bool, typer.Option("--json")] = False,
        agree: Annotated[bool, typer.Option("--agree", allow_from_autoenv=False)] = False,
    ) -> None:
        found = {"tls": tls, "place": place, "days": days, "rate": rate, "seen": seen, "json": as_json, "agree": agree}
        typer.echo(json.dumps(found, default=str))

    @keys.command("list")
    def keys_list(
        name: str,
        tls: Annotated[Path, typer.Option(envvar="TOY_TLS")] = Path("/default"),
        password_file: Annotated[Path | None, typer.Option()] = None,
    ) -> None:
        typer.echo(json.dumps({"name": name, "tls": str(tls), "password-file": str(password_file)}))

    app.add_typer(keys, name="keys")
    app.add_typer(config_commands(TOY, example="look"), name="config")
    return app


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder for the files of a person who has set nothing yet, and stands somewhere else."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "xdg" / "intaglio").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


@pytest.fixture
def usual(home):
    return home / "xdg" / "intaglio" / "toy.toml"


def run(*words, app=None, code=0):
    result = CliRunner().invoke(app or toy(), [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def look(*words):
    return json.loads(run(*words).stdout)


# ---------------------------------------------------------------------- which value counts

LAYERS = [
    ("default", 90),
    ("file", 1),
    ("variable", 2),
    ("command line", 3),
]


@pytest.mark.parametrize("highest", range(len(LAYERS)), ids=[name for name, _ in LAYERS])
def test_command_line_before_variable_before_file_before_default(usual, monkeypatch, highest):
    words = ["look"]
    if highest >= 1:
        usual.write_text("[look]\ndays = 1\n")
    if highest >= 2:
        monkeypatch.setenv("TOY_LOOK_DAYS", "2")
    if highest >= 3:
        words += ["--days", "3"]
    assert look(*words)["days"] == LAYERS[highest][1]


def test_what_is_said_for_one_command_counts_before_what_is_said_for_all(usual, monkeypatch):
    usual.write_text('tls = "/top"\n["keys list"]\ntls = "/keys"\n')
    assert (look("look")["tls"], look("keys", "list", "n")["tls"]) == ("/top", "/keys")
    monkeypatch.setenv("TOY_TLS", "/short")
    assert (look("look")["tls"], look("keys", "list", "n")["tls"]) == ("/short", "/short")
    monkeypatch.setenv("TOY_KEYS_LIST_TLS", "/own")
    assert (look("look")["tls"], look("keys", "list", "n")["tls"]) == ("/short", "/own")


def test_a_list_is_a_list_in_the_file_and_words_in_a_variable_and_is_not_added_to(usual, monkeypatch):
    usual.write_text('[look]\nseen = ["/a", "/b"]\n')
    assert look("look")["seen"] == ["/a", "/b"]
    monkeypatch.setenv("TOY_LOOK_SEEN", os.pathsep.join(["/c", "/d"]))
    assert look("look")["seen"] == ["/c", "/d"]
    assert look("look", "--seen", "/e")["seen"] == ["/e"]


def test_a_variable_is_named_after_the_option_and_not_after_its_parameter(home, monkeypatch):
    monkeypatch.setenv("TOY_LOOK_JSON", "1")
    assert look("look")["json"] is True


def test_a_variable_of_another_program_counts_after_our_own(home, monkeypatch):
    app = toy()

    @app.command("fetch")
    def fetch(registry: Annotated[str, typer.Option(envvar="npm_config_registry")] = "default") -> None:
        typer.echo(registry)

    for variable in ("npm_config_registry", "TOY_FETCH_REGISTRY"):
        monkeypatch.setenv(variable, variable)
        assert run("fetch", app=app).stdout == f"{variable}\n"


def test_an_empty_variable_is_none(usual, monkeypatch):
    usual.write_text("[look]\ndays = 1\n")
    monkeypatch.setenv("TOY_LOOK_DAYS", "")
    assert look("look")["days"] == 1


# ---------------------------------------------------------------------- paths


def test_paths_are_relative_to_the_file_that_names_them(usual, home):
    usual.write_text('tls = "tls"\nplace = "~/log.db"\n[look]\nseen = ["../one", "/two"]\n')
    found = look("look")
    assert found["tls"] == str(usual.parent / "tls")
    assert found["place"] == str(home / "log.db")
    assert found["seen"] == [str(usual.parent / "../one"), "/two"]


@pytest.mark.parametrize("value", ["postgresql://operator@host/name", "@office"])
def test_what_is_no_path_stays_as_it_is(usual, value):
    usual.write_text(f'place = "{value}"\n')
    assert look("look")["place"] == value


def test_paths_of_variables_and_of_the_command_line_are_relative_to_the_current_folder(home, monkeypatch):
    monkeypatch.setenv("TOY_TLS", "tls")
    assert look("look")["tls"] == "tls"


def test_a_home_that_nobody_has_is_said(usual):
    usual.write_text('tls = "~nobody-of-that-name/tls"\n')
    assert "begins with a home that nobody has" in run("look", code=2).stderr


# ---------------------------------------------------------------------- which file


def test_a_file_in_the_current_folder_is_not_read_and_said_to_be_there(home):
    Path("toy.toml").write_text('tls = "/of/whoever/packed/this/folder"\nplace = "@his"\n')
    assert (look("look")["tls"], look("look")["place"]) == ("/default", "@home")
    assert "not read" in run("config", "show").stdout
    assert look("--config", "toy.toml", "look")["place"] == "@his"
    assert "not read" not in run("--config", "toy.toml", "config", "show").stdout


def test_the_option_counts_before_the_variable_and_the_variable_before_the_usual_place(usual, home, monkeypatch):
    usual.write_text("[look]\ndays = 1\n")
    (home / "two.toml").write_text("[look]\ndays = 2\n")
    Path("three.toml").write_text("[look]\ndays = 3\n")
    assert look("look")["days"] == 1
    monkeypatch.setenv("TOY_CONFIG", str(home / "two.toml"))
    assert look("look")["days"] == 2
    assert look("--config", "three.toml", "look")["days"] == 3
    assert look("--config", os.devnull, "look")["days"] == 90


def test_a_variable_that_depends_on_the_current_folder_is_refused(home, monkeypatch):
    Path("toy.toml").write_text("[look]\ndays = 3\n")
    monkeypatch.setenv("TOY_CONFIG", "toy.toml")
    assert "TOY_CONFIG is toy.toml, which depends on the current folder" in run("look", code=2).stderr


def test_the_usual_place_is_in_the_home_when_xdg_names_none_or_a_relative_one(home, monkeypatch):
    (home / ".config" / "intaglio").mkdir(parents=True)
    (home / ".config" / "intaglio" / "toy.toml").write_text("[look]\ndays = 4\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", ".")
    assert look("look")["days"] == 4
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert look("look")["days"] == 4


@pytest.mark.parametrize("relative", [".", "somewhere"])
def test_a_home_that_depends_on_the_current_folder_is_none(home, monkeypatch, relative):
    folder = Path(relative, ".config", "intaglio")
    folder.mkdir(parents=True)
    (folder / "toy.toml").write_text("[look]\ndays = 4\n")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", relative)
    assert look("look")["days"] == 90
    assert shown()["file"] == (None, "there is no home to look in")


def test_a_file_that_is_named_must_be_there(home):
    assert "there is no configuration" in run("--config", "missing.toml", "look", code=2).stderr


# ---------------------------------------------------------------------- whose file


@pytest.mark.parametrize("mode", [0o620, 0o602], ids=["group", "others"])
def test_a_file_that_others_can_write_is_refused_with_what_to_do(usual, mode):
    usual.write_text("[look]\ndays = 1\n")
    usual.chmod(mode)
    assert f"chmod go-w {usual}" in run("look", code=2).stderr.replace("\n", "")
    usual.chmod(stat.S_IRUSR)
    assert look("look")["days"] == 1


def test_a_file_of_somebody_else_is_refused_and_one_of_root_is_not(usual, monkeypatch):
    usual.write_text("[look]\ndays = 1\n")
    owner = usual.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    real = os.fstat
    if owner == 0:
        monkeypatch.setattr(os, "fstat", lambda handle: os.stat_result([*real(handle)[:4], 7, *real(handle)[5:10]]))
    assert "belongs to somebody else" in run("look", code=2).stderr
    monkeypatch.setattr(os, "fstat", lambda handle: os.stat_result([*real(handle)[:4], 0, *real(handle)[5:10]]))
    assert look("look")["days"] == 1


def test_a_link_is_judged_by_the_file_that_it_leads_to(usual, home):
    target = home / "target.toml"
    target.write_text("[look]\ndays = 1\n")
    target.chmod(0o666)
    usual.symlink_to(target)
    assert "others may write" in run("look", code=2).stderr


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_large_file(path):
    path.write_bytes(b"#" * (1 << 16) + b"\n")


def test_the_largest_file_is_read_to_its_last_letter(usual):
    last = b"\n[look]\ndays = 7"
    usual.write_bytes(b"#" * ((1 << 16) - len(last)) + last)
    assert look("look")["days"] == 7


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (a_folder, "Is a directory"),
        (a_pipe, "is no file"),
        (a_large_file, "larger than any"),
        (lambda path: path.write_bytes(b"days = \xff"), "is no TOML: not UTF-8"),
        (lambda path: path.write_text("days = \n"), "is no TOML: Invalid value (at line 1, column 8)"),
        (lambda path: path.symlink_to(path), "cannot read the configuration"),
    ],
    ids=["folder", "pipe", "large", "bytes", "toml", "unreadable"],
)
def test_what_cannot_be_read_is_said(usual, make, says):
    make(usual)
    assert says in run("look", code=2).stderr.replace("\n", " ")


# ---------------------------------------------------------------------- what a file may say

FAULTS = {
    "unknown at the top": ("tsl = 1", "tsl is no key at the top; did you mean tls?"),
    "unknown in a table": ("[look]\nseeen = []", "seeen is no key in [look]; did you mean seen?"),
    "nothing like it": ("[look]\nxyzzy = 1", "`toy config show COMMAND` lists the keys"),
    "underscore": ('["keys list"]\npassword_file = "x"', "did you mean password-file?"),
    "not shared": ("days = 3", "days is no key at the top"),
    "word for a number": ('[look]\ndays = "3"', "days must be a whole number"),
    "fraction for a whole number": ("[look]\ndays = 3.5", "days must be a whole number"),
    "truth for a number": ("[look]\ndays = true", "days must be a whole number"),
    "word for a fraction": ('[look]\nrate = "1"', "rate must be a number"),
    "number for a word": ("tls = 1", "tls must be text in quotes"),
    "number for a truth": ("[look]\njson = 1", "json must be true or false"),
    "one for a list": ('[look]\nseen = "a"', "seen must be a list, each text in quotes"),
    "list for one": ('tls = ["a"]', "tls must be text in quotes"),
    "mixed list": ('[look]\nseen = ["a", 1]', "seen must be a list"),
    "date": ("[look]\ndays = 2026-01-01", "days must be a whole number"),
    "table for a value": ("[look.days]\nx = 1", "days must be a whole number"),
    "zero byte": ('tls = "a\\u0000b"', "tls has a NUL"),
    "zero byte in a list": ('[look]\nseen = ["a", "b\\u0000"]', "seen has a NUL"),
    "out of range": ("[look]\ndays = 366", "days: 366 is not in the range"),
    "agreement": ("[look]\nagree = true", "agree is no key in [look]"),
    "passphrase": ('passphrase = "hush"', "a passphrase does not belong here; write passphrase-file"),
    "passphrase in a table": ('[look]\nnew-passphrase = "hush"', "a passphrase does not belong here"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_file_and_key_and_shows_no_value(usual, fault):
    text, says = FAULTS[fault]
    usual.write_text(text + "\n")
    command = ["keys", "list", "n"] if "keys" in text else ["look"]
    told = run(*command, code=2).stderr.replace("\n", "")
    assert says in told
    assert f"toy: {usual}: " in told
    assert "hush" not in told


BEYOND_TOMLLIB = {"deep": "tls = " + "[" * 5000, "long": "[look]\ndays = " + "9" * 5000}


@pytest.mark.parametrize("fault", BEYOND_TOMLLIB)
def test_what_tomllib_has_no_error_for_is_a_usage_error_too(usual, fault):
    usual.write_text(BEYOND_TOMLLIB[fault])
    assert "a list that is too deep or a number that is too long" in run("look", code=2).stderr.replace("\n", "")


def test_a_number_without_a_fraction_is_a_number_too(usual):
    usual.write_text("[look]\nrate = 2\n")
    assert look("look")["rate"] == 2.0


def test_a_fault_in_another_commands_table_is_found_by_config_show(usual):
    usual.write_text("[look]\nseeen = []\n")
    assert look("keys", "list", "n")["name"] == "n"
    assert "seeen is no key in [look]" in run("config", "show", code=2).stderr.replace("\n", "")


def test_a_wrong_value_at_the_top_is_found_by_config_show_also_where_no_table_is(usual):
    usual.write_text("tls = 1\n")
    assert "tls must be text in quotes" in run("config", "show", code=2).stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("table", "words", "says"),
    [
        ("loook", ["look"], "no command 'loook', so there is no table [loook]; did you mean [look]?"),
        ('"kyes list"', ["look"], "no command 'kyes list', so there is no table [\"kyes list\"]"),
        ('"keys lst"', ["keys", "list", "n"], 'there is no table ["keys lst"]; did you mean ["keys list"]?'),
        ("keys", ["keys", "list", "n"], "no command 'keys', so there is no table [keys]"),
        ('"keys lst"', ["look"], None),
        ("keys", ["look"], None),
    ],
)
def test_a_table_of_no_command_stops_whoever_could_have_meant_it(usual, table, words, says):
    """A group is not looked up for a command of another one: it may need what is not installed."""
    usual.write_text(f"[look]\ndays = 7\n[{table}]\n")
    done = run(*words, code=2 if says else 0)
    if says:
        assert says in done.stderr.replace("\n", "")
    else:
        assert json.loads(done.stdout)["days"] == 7


@pytest.mark.parametrize("table", ["loook", '"keys lst"', "keys"])
def test_a_table_of_no_command_is_found_by_config_show(usual, table):
    usual.write_text(f"[{table}]\n")
    assert "has no command" in run("config", "show", code=2).stderr


def test_nothing_is_said_about_the_options_of_commands_that_are_not_installed(usual):
    app = toy()
    app.command("missing", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(lambda: None)
    usual.write_text('["missing group"]\nx = 1\n[missing]\ny = 2\n')
    run("missing", "group", "--x", "1", app=app)
    run("config", "show", app=app)
    assert "of missing nothing can be shown" in run("config", "show", "missing", "group", app=app, code=2).stderr


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_settings_or_a_usage_error(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("settings") / "toy.toml"
    file.write_bytes(data)
    with contextlib.suppress(UsageError):
        assert Settings.read(TOY, file).file == file


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
)


@given(st.sampled_from(["tls", "place", "days", "rate", "seen", "json"]), VALUES)
def test_any_value_is_taken_or_a_usage_error(key, value):
    look = leaves(typer.main.get_command(toy()))["look"]
    settings = Settings(TOY, Path("/etc/toy.toml"), {}, {"look": {key: value}})
    with contextlib.suppress(UsageError):
        assert len(settings.for_command("look", look)) == 1


def test_an_agreement_comes_from_no_variable(home, monkeypatch):
    monkeypatch.setenv("TOY_LOOK_AGREE", "1")
    assert look("look")["agree"] is False
    assert look("look", "--agree")["agree"] is True


def test_a_wrong_variable_is_named(home, monkeypatch):
    monkeypatch.setenv("TOY_LOOK_DAYS", "many")
    told = re.sub(r"[^\w']+", " ", run("look", code=2).stderr)
    assert "from the variable TOY_LOOK_DAYS" in told


# ---------------------------------------------------------------------- what is shown


def shown(*words, code=0):
    return {
        row["name"]: (row["value"], row["from"]) for row in json.loads(run("config", "show", "--json", *words).stdout)
    }


def test_config_show_says_where_each_value_of_a_command_comes_from(usual, monkeypatch):
    usual.write_text('tls = "tls"\n[look]\nrate = 0.25\n')
    monkeypatch.setenv("TOY_PLACE", "@office")
    assert shown("look", "--days", "3") == {
        "tls": (str(usual.parent / "tls"), f"{usual}: tls"),
        "place": ("@office", "variable TOY_PLACE"),
        "days": ("3", "command line"),
        "rate": ("0.25", f"{usual}: rate in [look]"),
        "seen": (None, "not set"),
        "json": ("False", "default"),
        "agree": ("False", "default"),
    }


def test_config_show_says_what_is_needed_and_missing_and_runs_nothing(home):
    assert shown("keys", "list")["NAME"] == (None, "needed, and set nowhere")
    assert shown("keys", "list", "n")["NAME"] == ("n", "command line")


def test_config_show_without_a_command_says_which_file_and_what_it_says(usual, monkeypatch):
    assert shown() == {"file": (None, f"nothing is at {usual}")}
    usual.write_text('tls = "tls"\nplace = "@office"\n["keys list"]\ntls = "other"\n')
    monkeypatch.setenv("TOY_PLACE", "@home")
    assert shown() == {
        "file": (str(usual), "the usual place"),
        "tls": ("tls", f"{usual}: tls"),
        "place": ("@home", "variable TOY_PLACE"),
        "keys list: tls": ("other", f"{usual}: tls in the command's table"),
    }
    monkeypatch.setenv("TOY_CONFIG", str(usual))
    assert shown()["file"] == (str(usual), "variable TOY_CONFIG")


def test_config_show_says_that_it_does_not_know_a_command_that_is_not_installed(home):
    app = toy()
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command("missing", help="Not installed: needs toy[all].", context_settings=anything)(lambda: None)
    told = run("config", "show", "missing", "group", app=app, code=2).stderr
    assert "of missing nothing can be shown. Not installed: needs toy[all]." in told


def test_config_show_checks_the_line_that_it_is_given(home):
    assert "No such option" in run("config", "show", "look", "--dayz", "3", code=2).stderr
    assert "there is no command toy keys lost" in run("config", "show", "keys", "lost", code=2).stderr
    assert "is a group; name one of: list" in run("config", "show", "keys", code=2).stderr


ADDRESSES = {
    "postgresql://operator:hush@host/name": "postgresql://operator:***@host/name",
    "postgresql://:hush@host/name": "postgresql://:***@host/name",
    "postgresql://host/name?user=o&password=hush&x=1": "postgresql://host/name?user=o&password=***&x=1",
    "postgresql://operator:hu/sh@host/name": "postgresql://operator:***@host/name",
    "postgresql://operator:hu@sh@host/name": "postgresql://operator:***@host/name",
    "postgresql://operator@host/name": "postgresql://operator@host/name",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_config_show_shows_no_password(usual, address, monkeypatch):
    usual.write_text(f'place = "{address}"\n')
    assert shown("look")["place"][0] == ADDRESSES[address]
    assert shown()["place"][0] == ADDRESSES[address]
    monkeypatch.setenv("TOY_PLACE", address)
    assert shown("look")["place"][0] == ADDRESSES[address]
    assert shown()["place"][0] == ADDRESSES[address]


def test_config_show_shows_no_passphrase(home, monkeypatch):
    monkeypatch.setenv("INTAGLIO_PASSPHRASE", "hush")
    monkeypatch.setenv("INTAGLIO_NEW_PASSPHRASE", "hush")
    monkeypatch.setenv("INTAGLIO_PASSPHRASE_FILE", "secret.txt")
    for words in ([], ["verify", "now.jpg"], ["wallet", "passphrase"]):
        told = run("config", "show", *words, app=client.cli.app).stdout
        assert "secret.txt" in told
        assert "hush" not in told


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


def test_what_is_at_the_top_is_for_the_options_that_are_declared_as_shared_in_groups_of_groups_too(usual):
    app, outer, inner = toy(), Commands(help="Outer."), Commands(help="Inner.")

    @inner.command("go")
    def go(
        tls: Annotated[Path, typer.Option(envvar="TOY_TLS")] = Path("/default"),
        place: Annotated[str, typer.Option()] = "its own",
        size: Annotated[Size, typer.Option()] = Size.SMALL,
    ) -> None:
        typer.echo(f"{tls} {place} {size.value}")

    outer.add_typer(inner, name="inner")
    app.add_typer(outer, name="outer")
    assert set(leaves(typer.main.get_command(app))) == {"look", "keys list", "config show", "outer inner go"}
    usual.write_text('tls = "/top"\nplace = "@office"\n["outer inner go"]\nsize = "l"\n')
    assert run("outer", "inner", "go", app=app).stdout == "/top its own l\n"
    assert json.loads(run("config", "show", "--json", "outer", "inner", "go", app=app).stdout) == [
        {"name": "tls", "value": "/top", "from": f"{usual}: tls"},
        {"name": "place", "value": "its own", "from": "default"},
        {"name": "size", "value": "l", "from": f'{usual}: size in ["outer inner go"]'},
    ]


def test_a_file_that_is_named_from_where_one_stands_gives_whole_paths_that_are_looked_at_there(home):
    app = toy()

    @app.command("open")
    def open_it(image: Annotated[Path, typer.Option(exists=True)]) -> None:
        typer.echo(str(image))

    Path("sub").mkdir()
    Path("sub/image.jpg").touch()
    Path("sub/own.toml").write_text('tls = "tls"\n[open]\nimage = "image.jpg"\n')
    assert json.loads(run("--config", "sub/own.toml", "look", app=app).stdout)["tls"] == str(
        home / "elsewhere" / "sub" / "tls"
    )
    assert run("--config", "sub/own.toml", "open", app=app).stdout == f"{home / 'elsewhere' / 'sub' / 'image.jpg'}\n"


def test_a_variable_that_is_empty_is_not_where_a_value_came_from(home, monkeypatch):
    monkeypatch.setenv("TOY_LOOK_TLS", "")
    monkeypatch.setenv("TOY_TLS", "/short")
    assert shown("look")["tls"] == ("/short", "variable TOY_TLS")


def test_a_file_of_the_same_name_where_one_stands_is_told_apart_from_the_one_that_is_read(usual):
    usual.write_text("")
    Path("toy.toml").write_text("")
    told = (None, "not read, since it is only where you stand; --config toy.toml names it")
    assert shown() == {"file": (str(usual), "the usual place"), "./toy.toml": told}


def test_what_is_shown_stands_in_columns_with_a_dash_for_nothing(usual, monkeypatch):
    usual.write_text('place = "@somewhere-far-away"\n')
    assert run("config", "show", "keys", "list").stdout.splitlines() == [
        "NAME           -         needed, and set nowhere",
        "tls            /default  default",
        "password-file  -         not set",
    ]


# ---------------------------------------------------------------------- the two programs


@PROGRAMS
def test_of_every_option_a_file_is_one_and_what_else_its_help_names_is_none(module):
    """So that what it says of files that it names itself can be said in a settings file too."""
    other = {"@NAME": "@office", "URL": "postgresql://host/name", "KEY": "log+1+AQ==", "URI": "PKCS11:token=a;object=b"}
    seen = set()
    for command in leaves(typer.main.get_command(module.app)).values():
        for parameter in settable(command):
            first, *others = (parameter.metavar or "").split("|")
            files = isinstance(parameter.type, click.Path) or first == "FILE"
            assert [names_file(value, parameter) for value in ("a.pem", "../b", "/c")] == [files] * 3
            if first == "FILE":
                assert not any(names_file(other[kind], parameter) for kind in others)
                seen.update(others)
    assert seen == {"intaglio": {"@NAME", "KEY", "URI"}, "intaglio-server": {"URL", "KEY", "URI"}}[module.PROGRAM.name]


def test_a_signing_key_that_a_file_names_is_a_file_beside_it_or_in_a_token(home):
    uri = "pkcs11:token=a;object=b?module-path=/l.so"
    (home / "own.toml").write_text(f'["rules stop"]\nkey = ["one.pem", "{uri}", "/two.pem"]\n')
    shown = run("--config", home / "own.toml", "config", "show", "--json", "rules", "stop", app=server.cli.app).stdout
    (key,) = [row for row in json.loads(shown) if row["name"] == "key"]
    assert key == {
        "name": "key",
        "value": f"{home / 'one.pem'} {uri} /two.pem",
        "from": f'{home / "own.toml"}: key in ["rules stop"]',
    }


@PROGRAMS
def test_exactly_the_options_that_have_a_short_variable_are_shared(module):
    program = module.PROGRAM
    declared, marked = set(), set()
    for command in leaves(typer.main.get_command(module.app)).values():
        for parameter in command.params:
            ours = {name for name in variables_of(parameter) if name.startswith(program.prefix)}
            assert ours <= {short_variable(program, key_of(parameter))}
            declared |= {key_of(parameter)} if ours else set()
            marked |= {key_of(parameter)} if is_shared(parameter, program) else set()
    assert declared == marked == program.shared


@PROGRAMS
def test_no_command_of_one_word_is_called_like_a_shared_option(module):
    assert not module.PROGRAM.shared & set(leaves(typer.main.get_command(module.app)))


@PROGRAMS
def test_every_option_can_be_set_but_those_that_a_person_must_type(module):
    typed = {
        (path, key_of(parameter))
        for path, command in leaves(typer.main.get_command(module.app)).items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter not in list(settable(command)) and parameter.name != "help"
    }
    assert (
        typed
        == {
            "intaglio": {
                ("enrol", "agree"),
                ("enrol", "from"),  # what a file says is taken up once
                ("enrol", "from-passphrase-file"),
                ("verify", "challenge"),  # it needs --camera, which may be set
                ("renew", "challenge"),
                ("receipts renew", "challenge"),
                ("renew", "agree"),
                ("receipts renew", "agree"),
                ("join", "fingerprint"),
                ("node trust", "replace"),
            },
            "intaglio-server": {("federation approve", "fingerprint"), ("federation rekey", "fingerprint")},
        }[module.PROGRAM.name]
    )


def test_a_shared_option_means_the_same_type_everywhere():
    for module in (client.cli, server.cli):
        kinds = {}
        for command in leaves(typer.main.get_command(module.app)).values():
            for parameter in command.params:
                if is_shared(parameter, module.PROGRAM):
                    kinds.setdefault(key_of(parameter), set()).add((type(parameter.type), parameter.multiple))
        assert {key: len(found) for key, found in kinds.items()} == dict.fromkeys(module.PROGRAM.shared, 1)


def test_each_program_has_its_own_file_and_variables(home, monkeypatch):
    folder = home / "xdg" / "intaglio"
    (folder / "intaglio.toml").write_text('server = "one:1"\n')
    (folder / "intaglio-server.toml").write_text('log = "log"\n')
    assert Settings.find(client.cli.PROGRAM, None, by_variable=False).top == {"server": "one:1"}
    assert Settings.find(server.cli.PROGRAM, None, by_variable=False).top == {"log": "log"}
    monkeypatch.setenv("INTAGLIO_CONFIG", "/nowhere/at/all")
    assert "/nowhere/at/all" in run("history", app=client.cli.app, code=2).stderr
    assert "intaglio-server.toml" in run("config", "show", app=server.cli.app).stdout


def test_a_downloaded_folder_redirects_neither_device_nor_server(home):
    """Whoever packed it owns nothing afterwards: the files are the person's own, and writable by nobody else."""
    hostile = (
        'server = "attacker.example:7443"\ntls = "his"\nrelease-trust = "his.json"\nlog-policy = "his"\nwallet = "x"\n'
    )
    Path("intaglio.toml").write_text(hostile)
    Path("intaglio-server.toml").write_text('[matching.start]\nready-file = "precious"\n')
    for words in (["verify", "now.jpg"], ["enrol", "a.jpg", "b.jpg"], ["wallet", "create"], ["revoke"]):
        assert "attacker" not in run("config", "show", *words, app=client.cli.app).stdout
        assert "his" not in run("config", "show", *words, app=client.cli.app).stdout
    assert "precious" not in run("config", "show", "matching", "start", app=server.cli.app).stdout
