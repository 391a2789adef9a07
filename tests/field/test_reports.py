"""What people reported of programs like these, each as a line: how it is looked at, the input, and what has to be seen.

The next report is a line more. `tests.field.seen` has the ways to look; small files lie in `cases`, others are made.
Whatever is seen is held to what a person may expect of any message, too.
"""

import datetime as dt
import re
import sqlite3

import pytest
import typer

from client.faces.formats import IMAGES
from federation.commandline.settings import leaves
from server.faults import unavailable
from tests.field import seen

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

LEFT_OUT = f"not a {IMAGES} image; convert it, or remove it from the folder"
NOT_READ = f"exit 2: not a {IMAGES} image: convert it to one of these"
LONG = f"n = {'9' * 5000}"
DEEP = f"n = {'[' * 5000}"
TOO_MUCH = "has a list that is too deep or a number that is too long"
OLD, YOUNG = (dt.datetime.now(dt.UTC) + dt.timedelta(days=days) for days in (-3000, 3000))


def full_disk(*_):
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA max_page_count = 3")
    connection.execute("CREATE TABLE a (b)")
    try:
        connection.execute("INSERT INTO a VALUES (zeroblob(100000))")
    except sqlite3.OperationalError as error:
        raise unavailable(error, "the database") from None
    finally:
        connection.close()


REPORTS = {
    # ---- files: whatever is visible in a person's folder is used, listed, or a known companion
    "a .jfif": (seen.kept, seen.named("a.jfif", "JPEG"), ["used: ['a.jfif']"]),
    "a .jpe": (seen.kept, seen.named("b.jpe", "JPEG"), ["used: ['b.jpe']"]),
    "a .ppm": (seen.kept, seen.named("f.ppm", "PPM"), ["used: ['f.ppm']"]),
    "an image without a suffix": (seen.kept, seen.named("subject01", "PNG"), ["used: ['subject01']"]),
    "an image with a strange suffix": (seen.kept, seen.named("subject01.happy", "GIF"), ["used: ['subject01.happy']"]),
    "a dangling link": (seen.kept, seen.linked, ["used: []", "3.pgm: a link to nothing; put the image in its place"]),
    "a FIFO": (seen.kept, seen.piped, ["used: []", "4.pgm: no regular file"]),
    "a folder in a folder": (seen.kept, seen.nested, ["session2: a folder inside a person's; move its images to"]),
    "a folder called as a note": (seen.kept, seen.folder_called("a.txt"), ["a.txt: a folder inside a person's"]),
    "something unknown": (seen.kept, seen.named("a.raw", None), ["used: []", f"a.raw: {LEFT_OUT}"]),
    "a note": (seen.kept, seen.named("notes.txt", None), ["used: []; left out: []"]),
    "a list of a file manager": (seen.kept, seen.named("Thumbs.db", None), ["used: []; left out: []"]),
    "an image beside the cameras": (
        seen.beside_the_cameras,
        seen.named("x.png", "PNG"),
        ["x.png: in no camera's folder"],
    ),
    "a folder beside the cameras": (seen.beside_the_cameras, seen.nested, ["session2: a folder inside a person's"]),
    # ---- names: one place where they are made
    "a name that is not UTF-8": (seen.undecodable, None, ["people: ['anna']; a name is not UTF-8; rename the folder"]),
    **{f"one name in two forms, {program}": (seen.people, program, ["1 person"]) for program in seen.PEOPLE},
    # ---- what is printed
    **{
        f"a terminal in {encoding}": (seen.terminal, encoding, ["exit 1: ", f"FAIL: worst is {worst}"])
        for encoding, worst in (("latin-1", "é"), ("ascii", ""))
    },
    "JSON in cp1252": (seen.terminal, "cp1252 --json", ["exit 1: ['é', 'ж']"]),
    "an output that nobody reads": (seen.unread, None, ["exit 141"]),
    # ---- recognisers
    "a model that scales pixels itself": (seen.model, seen.scaling_itself(), ["the same embedding for any picture"]),
    "a model that is constant": (seen.model, seen.constant(), ["the same embedding for any picture"]),
    "a model that is none of these": (seen.model, seen.flat(), ["192"]),
    "a model of IR 99": (seen.model, seen.flat(ir_version=99), ["exit 2: onnxruntime cannot load", "IR version: 99"]),
    "a model of opset 99": (seen.model, seen.flat(opset=99), ["exit 2: onnxruntime cannot load", "Opset 99"]),
    "weights in another file": (seen.model, "ext.onnx", ["its weights lie in another file; save it with them inside"]),
    "a model that is a pointer": (seen.model, "lfs.onnx", ["a pointer of Git LFS and not the file", "git lfs pull"]),
    "a model that is empty": (seen.model, b"", ["the model is an empty file; fetch it again"]),
    # ---- scores
    "scores in a file whose name is not UTF-8": (seen.scores, (b"caf\xe9.csv", seen.CSV), ["exit 3: caf", "verdict f"]),
    "scores packed by gzip": (seen.scores, "plain.csv.gz", ["exit 1: plain.csv.gz: 199 comparisons"]),
    "scores in UTF-16": (seen.scores, "utf16.csv", ["exit 1: utf16.csv: 199 comparisons"]),
    "scores in cp1252": (
        seen.scores,
        ("a.csv", seen.CSV.replace(b",m", ",é".encode("cp1252"))),
        ["exit 2: ", "a.csv is no table that can be read: line 42 is not UTF-8, byte e9: save the table as UTF-8"],
    ),
    "Parquet under another name": (seen.scores, ("a.pq", seen.as_parquet()), ["exit 3: a.pq: 80 comparisons"]),
    "CSV under Parquet's name": (seen.scores, ("a.parquet", seen.CSV), ["exit 3: a.parquet: 80 comparisons"]),
    "a workbook": (seen.scores, ("a.xlsx", seen.packed("xl/a.xml")), ["exit 2", "an Excel workbook: save it as CSV"]),
    "an archive": (seen.scores, ("a.zip", seen.packed("a.csv")), ["exit 2", "a zip archive: unpack it"]),
    "semicolons": (seen.scores, ("a.csv", seen.CSV.replace(b",", b";")), ["exit 3: a.csv: 80 comparisons"]),
    "tabs": (seen.scores, ("a.tsv", seen.CSV.replace(b",", b"\t")), ["exit 3: a.tsv: 80 comparisons"]),
    "semicolons and tabs": (
        seen.scores,
        ("a.csv", seen.CSV.replace(b",s", b";s").replace(b",", b"\t").replace(b"same;sex", b"same\tsex")),
        ["exit 2", "columns are missing: score, same, sex"],
    ),
    "decimal commas": (
        seen.scores,
        ("a.csv", seen.CSV.replace(b",", b";").replace(b".", b",")),
        ["exit 2", "line 2: the score has a comma: write a point"],
    ),
    "spaces in the header": (seen.scores, ("a.csv", seen.CSV.replace(b"same,", b" same , ", 1)), ["exit 3: a.csv: 80"]),
    "scores that are a pointer": (seen.scores, "lfs.onnx", ["exit 2", "a pointer of Git LFS and not the table"]),
    "scores that are empty": (seen.scores, ("a.csv", b""), ["exit 2", "a.csv is empty"]),
    "a page with one group": (
        seen.report,
        1,
        ["There is one group, so there is nothing to compare it with", "!undefined"],
    ),
    "a page with two groups": (seen.report, 2, ["!There is one group", "!>undefined<"]),
    # ---- addresses
    "an IPv6 address": (seen.address, "[::1]:7443", ["('::1', 7443)"]),
    "an IPv6 address without brackets": (seen.address, "::1:7443", ["exit 2", "write [::1]:7443"]),
    "an address without a port": (seen.address, "localhost", ["exit 2", "write HOST:PORT"]),
    "a port that is none": (seen.address, "localhost:70000", ["exit 2", "a port from 1 to 65535"]),
    "a port that is taken": (seen.listened, "127.0.0.1", ["cannot listen on 127.0.0.1:PORT: something else listens"]),
    "the same in brackets": (
        seen.listened,
        "[::1]",
        ["exit 2: cannot listen on [::1]:PORT: something else listens there"],
    ),
    "nobody listens": (
        seen.connected,
        ("localhost", None, True, None),
        ["exit 4: nobody listens at localhost:PORT: is"],
    ),
    "another authority": (
        seen.connected,
        ("localhost", None, False, "TLS"),
        ["exit 4", "is not signed by ca.pem; ask"],
    ),
    "another name": (
        seen.connected,
        ("127.0.0.1", None, True, "TLS"),
        ["exit 4", "is for another name than 127.0.0.1"],
    ),
    "an old certificate": (
        seen.connected,
        ("localhost", OLD, True, "TLS"),
        ["exit 4", "has expired: the operator renews"],
    ),
    "a certificate of tomorrow": (
        seen.connected,
        ("localhost", YOUNG, True, "TLS"),
        ["exit 4", "not yet valid: is this"],
    ),
    "something else listens": (seen.connected, ("localhost", None, True, "SSH"), ["exit 4", "does not speak TLS"]),
    "a device's address without brackets": (seen.connected, ("::1", None, True, None), ["exit 2", "write [::1]:PORT"]),
    # ---- faces in large pictures
    "a face of 300 pixels in 9000 x 8000": (seen.large, 300, ["found, and cut alike"]),
    "no face in 4000 x 1000": (seen.empty, (4000, 1000), ["no face found", "at least 160 of these 4000 x 1000 pixels"]),
    "no face in 640 x 480": (seen.empty, (640, 480), ["photograph of one person", "!pixels"]),
    # ---- formats
    **{
        f"a {kind} image": (seen.read, seen.picture(kind), ["read: (60, 60, 3)"])
        for kind in ("WEBP", "GIF", "BMP", "TIFF", "PNG", "JPEG", "PPM")
    },
    "a HEIC image": (seen.read, "grey.heic", ["read: (64, 64, 3)"]),
    "an image of a format that is not read": (seen.read, seen.picture("JPEG2000"), [NOT_READ]),
    "an image that is a pointer": (seen.read, "lfs.onnx", ["exit 2: a pointer of Git LFS and not the image"]),
    "an image that is empty": (seen.read, b"", ["exit 2: the file is empty: copy it again"]),
    "the page's formats": (
        seen.page,
        None,
        ["'the same words': True", "'the same types': True"],
    ),
    # ---- fingerprints
    "an organisation's fingerprint": (
        seen.fingerprints,
        None,
        ["'one': True", "'in the roster': True", "'marked': True", "'said to whom': True"],
    ),
    # ---- words
    "a misspelt command": (seen.command, "intaglio verfy", ["exit 2", "Did you mean 'verify'?"]),
    "a misspelt command of a group": (seen.command, "intaglio-server pki iit", ["exit 2", "Did you mean 'init'?"]),
    "a misspelt option": (seen.command, "intaglio audit --grops x", ["exit 2", "--groups"]),
    "a coordinator that begins": (
        seen.started,
        None,
        ["the gateway listens on 127.0.0.1:PORT, for members at fed.example.org:8443; Ctrl-C ends it"],
    ),
    # ---- TOML
    **{
        f"TOML {fault}, {look.__name__}": (look, text, ["exit 2", told])
        for look in (seen.policy, seen.configuration, seen.settings_of_a_run)
        for fault, text, told in (
            ("with a long number", LONG, TOO_MUCH),
            ("that is deep", DEEP, TOO_MUCH),
            ("that is none", "n =", "is no TOML: "),
        )
    },
    "a misspelt table": (
        seen.misspelt,
        "verfy | verify x.png",
        ["exit 2", "there is no table [verfy]; did you mean [verify]?"],
    ),
    "a misspelt table of a group": (
        seen.misspelt,
        "receipts renwe | receipts list",
        ["exit 2", 'there is no table ["receipts renwe"]; did you mean ["receipts renew"]?'],
    ),
    "a server's version without its packages": (seen.without_packages, "--version", ["exit 0: intaglio-server "]),
    "a server without its packages": (
        seen.without_packages,
        "pki init x",
        ["exit 2: intaglio-server needs intaglio[service]"],
    ),
    # ---- RFC 9864: once both libraries know Ed25519, verifiers accept it and issuers offer it
    "the algorithm of assertions": (
        seen.algorithms,
        None,
        ["'PyJWT': ['EdDSA']", "'joserfc': ['Ed25519', 'EdDSA']", "said: True"],
    ),
    # ---- a server's disk
    "a database that is gone": (seen.stored, seen.unlinked, ["exit 4", "its file was removed, replaced or cut short"]),
    "a disk that is full": (seen.stored, full_disk, ["exit 4", "its disk is full"]),
    "an attempt that was cut off": (seen.stored, seen.cut_off, ["1 attempt"]),
}


@pytest.mark.parametrize(("look", "given", "expected"), REPORTS.values(), ids=REPORTS)
def test_what_was_reported_once_has_the_right_outcome(look, given, expected, tmp_path):
    told = str(look(tmp_path, given))
    for words in expected:
        assert (words.removeprefix("!") in told) != words.startswith("!"), told
    require_decent(told)


def require_decent(told):
    """What may be expected of every message: it is there, says nothing twice, and shows nobody a traceback."""
    assert told.strip()
    assert "Traceback" not in told
    sentences = [" ".join(part.split()).lower() for part in re.split(r"[.;:?!](?:\s|$)|\n", told)]
    long = [sentence for sentence in sentences if len(re.findall(r"[a-z]{3,}", sentence)) > 2]
    assert len(long) == len(set(long)), f"something is said twice: {told}"
    assert "the server says" not in told


COMMANDS = [
    f"{program} {path}"
    for program, module in seen.PROGRAMS.items()
    for path in leaves(typer.main.get_command(module.app))
    if path != "config show"  # which takes anything
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_misspelt_option_of_every_command_is_answered_once(line, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    told = seen.command(tmp_path, f"{line} --hlp")
    assert told.startswith("exit 2: ")
    require_decent(told.partition("Error")[2])
