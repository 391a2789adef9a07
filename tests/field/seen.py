"""What a person sees when a program gets an input that was reported. Each function takes a folder and the input."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

import client.cli
import server.cli
import server.program
from client.connection import ClientTls, Connection
from client.faces.datasets import face_folder
from client.faces.formats import IMAGES
from client.faces.images import read_image
from client.node.preparing import _files
from client.preparing.people import groups_from_json, withdraw
from federation.addresses import split
from federation.audit.comparisons import Sides
from federation.commandline.settings import Settings
from federation.errors import IntaglioError
from federation.membership.joining import LocalPolicy
from federation.names import name_of
from federation.recognition.embeddings import EmbeddingSet
from federation.wire.v1 import verification_pb2 as pb
from server.certificates import write_pki
from server.fleet.members import Coordinator
from server.fleet.start import serve_gateway
from server.fleet.submitting import read_settings
from server.listening import bound_socket
from server.storage.sqlstorage import open_storage
from server.visitors.door import opened_door
from tests.faces import aligner, orl_image, recogniser_of
from tests.people import synthetic_people
from tests.stored import a_template, open_attempt, start

CASES = Path(__file__).parent / "cases"
ROOT = Path(__file__).parents[2]
PROGRAMS = {"intaglio": client.cli, "intaglio-server": server.cli}
ANNA, ANDRE = "anna", "Andre\u0301"


def told(call, *arguments):
    """What came of a call: its result, or its error as a command prints it."""
    try:
        return str(call(*arguments))
    except IntaglioError as error:
        return f"exit {error.exit_code}: {error}"


def run(program, *words):
    """What a command prints, with its exit code."""
    done = CliRunner().invoke(PROGRAMS[program].app, [str(word) for word in words])
    return f"exit {done.exit_code}: {' '.join(re.sub('[│╭╮╰╯─]', ' ', done.output).split())}"


def command(_folder, line):
    return run(*line.split())


def a_picture(path, kind="PNG", side=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (side, side), "grey")
    image.save(path, kind) if isinstance(path, io.BytesIO) else path.write_bytes(picture(kind, image))
    return path


def picture(kind, image=None, **options):
    written = io.BytesIO()
    (image or Image.new("RGB", (60, 60), "grey")).save(written, kind, **options)
    return written.getvalue()


# ------------------------------------------------------------------------------------------------- files of a person


def kept(folder, make):
    """What becomes of something that lies in a person's folder, beside one image."""
    a_picture(folder / "faces" / ANNA / "1.png")
    make(folder / "faces" / ANNA)
    found = face_folder(folder / "faces")
    used = [path.name for path in found.people[ANNA] if path.name != "1.png"]
    return f"used: {used}; left out: {[f'{p.path.name}: {p.problem}; {p.what_to_do}' for p in found.problems]}"


def named(name, kind):
    return lambda place: (place / name).write_bytes(picture(kind) if kind else b"words")


def linked(place):
    (place / "3.pgm").symlink_to("nowhere.pgm")


def piped(place):
    os.mkfifo(place / "4.pgm")


def folder_called(name):
    return lambda place: (place / name).mkdir()


def nested(place):
    a_picture(place / "session2" / "1.png")


def beside_the_cameras(folder, make):
    a_picture(folder / ANNA / "reference" / "1.png")
    a_picture(folder / ANNA / "probe" / "1.png")
    make(folder / ANNA)
    _, problems = _files(folder, None)
    return [f"{problem.path.name}: {problem.problem}" for problem in problems]


def undecodable(folder, _):
    """A person's folder that came out of an old archive, beside a good one."""
    a_picture(folder / "faces" / ANNA / "1.png")
    a_picture(Path(os.fsdecode(os.fsencode(folder / "faces") + b"/Andr\xe9")) / "1.png")
    found = face_folder(folder / "faces")
    return f"people: {list(found.people)}; {found.problems[0].problem}; {found.problems[0].what_to_do}"


# ------------------------------------------------------------------------------------------------- names


def _both(folder):
    for person, number in ((ANDRE, 1), (name_of(ANDRE), 2)):
        a_picture(folder / "faces" / person / f"{number}.png")
    return folder / "faces"


def _with_both():
    sets = [synthetic_people([person]) for person in (ANDRE, name_of(ANDRE))]
    parts = ("embeddings", "people", "profiles", "images")
    return [np.concatenate([getattr(one, part) for one in sets]) for part in parts]


def _scores(folder):
    rows = [f"0.{i},0,f,{ANDRE},x" for i in range(9)] + [f"0.9{i},1,f,{ANDRE},{name_of(ANDRE)}" for i in range(9)]
    (folder / "s.csv").write_text("\n".join(["score,same,sex,person_a,person_b", *rows]))
    audit = run("intaglio", "audit", folder / "s.csv", "--groups", "sex", "--threshold", "0.5")
    return ["one person"] if "exit 3: s.csv: 18 comparisons" in audit else [audit, "a contradiction"]


def _withdrawn(folder):
    archive = io.BytesIO()
    rows = dict(zip(("embeddings", "people", "profiles", "images"), _with_both(), strict=True))
    np.savez(archive, **rows | {"people": np.where(rows["people"] == name_of(ANDRE), ANDRE, rows["people"])})
    (folder / "embeddings.npz").write_bytes(archive.getvalue())
    try:
        withdraw(name_of(ANDRE), folder)
    except IntaglioError as error:
        return [str(error)]
    return []


PEOPLE = {
    "node": lambda folder: _files(_both(folder), "mask")[0],
    "demo and frontier": lambda folder: face_folder(_both(folder)).people,
    "a run": lambda _: set(EmbeddingSet(*_with_both()).people.tolist()),
    "groups": lambda _: groups_from_json(json.dumps({ANDRE: "x", name_of(ANDRE): "x"}).encode()),
    "audit": lambda _: Sides.of([ANDRE, name_of(ANDRE)]).names,
    "scores": _scores,
    "withdrawal": _withdrawn,
}


def people(folder, program):
    """How many people a name in two Unicode forms is."""
    return f"{len(PEOPLE[program](folder))} person"


# ------------------------------------------------------------------------------------------------- what is printed


def process(line, folder, **environment):
    """A command in a process of its own; its exit code and the bytes that it printed."""
    words = [sys.executable, "-c", "from client.cli import main; main()", *line]
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, check=False)
    return done.returncode, done.stdout + done.stderr


def terminal(folder, asked):
    """An audit whose groups a terminal has no letters for; the verdict is a plain FAIL."""
    encoding, *words = asked.split()
    rows = [f"{'0.9' if i % 2 else '0.8'},{i % 2},{'ж' if i % 4 < 2 else 'é'}" for i in range(400)]
    (folder / "scores.csv").write_text("\n".join(["score,same,sex", *rows]))
    line = ("audit", "scores.csv", "--groups", "sex", "--threshold", "0.5", *words)
    code, printed = process(line, folder, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    if "--json" in words:
        return f"exit {code}: {sorted(cell['labels'][0] for cell in json.loads(printed.decode())['cells'])}"
    return f"exit {code}: {printed.decode(encoding, 'replace')}"


def unread(folder, _):
    """Whoever reads the output goes away before its end; the exit code is not that of a FAIL or a non-match."""
    (folder / "scores.csv").write_text("score,same,sex\n" + "0.9,1,f\n0.1,0,f\n" * 50)
    line = ["-c", "from client.cli import main; main()", "audit", "scores.csv", "--groups", "sex", "--threshold", "0.5"]
    reading, writing = os.pipe()
    os.close(reading)
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *line], cwd=folder, env=variables, stdout=writing, stderr=-1, check=False)
    os.close(writing)
    return f"exit {done.returncode}: {done.stderr.decode()}"


# ------------------------------------------------------------------------------------------------- recognisers


def model(_folder, data):
    data = (CASES / data).read_bytes() if isinstance(data, str) else data
    return told(lambda: recogniser_of(data).dimension)


def network(nodes, constants=(), *, ir_version=8, opset=13):
    """A few bytes of ONNX: faces of 8 x 8 pixels to 192 numbers."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)],
        list(constants),
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return made.SerializeToString()


def scaling_itself():
    """What the exports of the MXNet ArcFace family do: their input is pixels of 0 to 255."""
    numbers = {"mean": 127.5, "scale": 1 / 127.5}
    nodes = [
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["embedding"]),
    ]
    return network(nodes, [helper.make_tensor(name, TensorProto.FLOAT, [1], [one]) for name, one in numbers.items()])


def constant():
    nodes = [
        helper.make_node("Mul", ["image", "nothing"], ["black"]),
        helper.make_node("Add", ["black", "one"], ["white"]),
        helper.make_node("Flatten", ["white"], ["embedding"]),
    ]
    numbers = {"nothing": 0.0, "one": 1.0}
    return network(nodes, [helper.make_tensor(name, TensorProto.FLOAT, [1], [one]) for name, one in numbers.items()])


def flat(**versions):
    return network([helper.make_node("Flatten", ["image"], ["embedding"])], **versions)


# ------------------------------------------------------------------------------------------------- scores

ROWS = ["score,same,sex", *(f"{score},{same},{sex}" for sex in "fm" for score, same in (("0.9", 1), ("0.1", 0)) * 20)]
CSV = "\n".join(ROWS).encode()


def scores(folder, named):
    """An audit of a file: its name, and its content or the case of that name."""
    name, content = named if isinstance(named, tuple) else (named, (CASES / named).read_bytes())
    path = os.fsdecode(os.fsencode(folder) + b"/" + (name if isinstance(name, bytes) else name.encode()))
    Path(path).write_bytes(content)
    return run("intaglio", "audit", path, "--groups", "sex", "--threshold", "0.5")


def as_parquet():
    written = io.BytesIO()
    columns = zip(*(row.split(",") for row in ROWS[1:]), strict=True)
    parquet.write_table(pa.table(dict(zip(ROWS[0].split(","), map(list, columns), strict=True))), written)
    return written.getvalue()


def packed(*names):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name in names:
            archive.writestr(name, CSV)
    return written.getvalue()


def report(folder, groups):
    """The page of an audit of so many groups; what it says of measures between groups."""
    rows = [row for row in ROWS if groups > 1 or not row.endswith("m")]
    (folder / "s.csv").write_text("\n".join(rows))
    line = ["audit", str(folder / "s.csv"), "--groups", "sex", "--threshold", "0.5", "--report", str(folder / "p.html")]
    CliRunner().invoke(client.cli.app, line)
    return (folder / "p.html").read_text().partition('id="differentials"')[2].partition("<h2")[0]


# ------------------------------------------------------------------------------------------------- addresses


def address(_folder, text):
    return told(split, text)


def connected(folder, who):
    """What a device is told: `who` is the name that it calls, a certificate's day, whether that is ours, its speech."""
    name, made_at, is_ours, speaks = who
    now = dt.datetime.now(dt.UTC)
    write_pki(folder / "ours", hosts=["localhost"], clients=["client"], now=made_at or now)
    write_pki(folder / "others", hosts=["localhost"], clients=["client"], now=now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = folder / ("ours" if is_ours else "others")
    context.load_cert_chain(tls / "server.pem", tls / "server-key.pem")
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if speaks is None:
            listening.close()
        else:
            threading.Thread(
                target=_answer, args=(listening, context if speaks == "TLS" else None), daemon=True
            ).start()
        try:
            return told(_call, f"{name}:{port}", folder / "ours").replace(str(port), "PORT")
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)


def _call(target, tls):
    device = Connection(target, ClientTls.read(tls), timeout_seconds=20)
    try:
        return device.call(device.log.GetCheckpoint, pb.GetCheckpointRequest())
    finally:
        device.close()


def _answer(listening, context):
    """Takes connections, and speaks TLS or something else."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            with contextlib.suppress(OSError), connection:
                if context is None:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")
                else:
                    context.wrap_socket(connection, server_side=True).close()


def listened(_folder, host):
    """Two that listen on one port, one after the other; the first must be able to."""
    with bound_socket(host, 0) as first:
        port = first.getsockname()[1]

        def second():
            with opened_door(host, port):
                return "nothing wrong"

        return told(second).replace(str(port), "PORT")


# ------------------------------------------------------------------------------------------------- pictures


def large(_folder, tall):
    """Whether the face of ORL's first person is found in 9000 x 8000 pixels, and cut as from a small picture."""
    face = Image.open(io.BytesIO(orl_image(1, 1))).convert("RGB").resize((tall * 92 // 112, tall))
    cuts = []
    for size, corner in (((9000, 8000), (3120, 5210)), ((2 * tall, 2 * tall), (tall // 2, tall // 2))):
        whole = Image.new("RGB", size, (120, 110, 100))
        whole.paste(face, corner)
        cuts.append(aligner().chip_of_pixels(np.asarray(whole)).astype(int))
    return "found, and cut alike" if np.abs(cuts[0] - cuts[1]).mean() < 4 else "found, and cut otherwise"


def empty(_folder, size):
    """What is said of a picture without a face."""
    return told(lambda: aligner().chip_of_pixels(np.asarray(Image.new("RGB", size, (120, 110, 100)))).shape)


def read(_folder, data):
    data = (CASES / data).read_bytes() if isinstance(data, str) else data
    return told(lambda: f"read: {read_image(data).shape}")


def page(_folder, _):
    """What the page says that it reads, and what the command line says."""
    texts, pictures = ((ROOT / "web/src" / name).read_text() for name in ("texts/en.json", "page/pictures.ts"))
    said = json.loads(texts)["files.not_an_image"]
    (words,) = re.findall("Not a (.*) image: convert it to one of these", said)
    (types,) = re.findall(r"const TYPES = '(.*)'", pictures)
    listed = re.split(", | or ", IMAGES)
    alike = [kind for kind in listed if kind not in {"TIFF", "HEIC", "PGM"}]
    return {
        "the same words": re.split(", | or ", words) == alike,
        "the same types": [f"image/{kind.lower()}" for kind in alike] == types.split(","),
    }


# ------------------------------------------------------------------------------------------------- the rest


def policy(_folder, text):
    return told(LocalPolicy.from_toml, text)


def configuration(folder, text):
    (folder / "file.toml").write_text(text)
    return told(Settings.read, client.cli.PROGRAM, folder / "file.toml")


def settings_of_a_run(folder, text):
    (folder / "run.toml").write_text(text)
    return told(read_settings, folder / "run.toml", ROOT)


def misspelt(folder, line):
    """A command with a file whose only table is misspelt."""
    table, _, rest = line.partition(" | ")
    (folder / "file.toml").write_text(f'["{table}"]\nx = 1\n')
    return run("intaglio", "--config", folder / "file.toml", *rest.split())


def without_packages(_folder, words):
    """`intaglio-server` where only the device's packages are installed."""
    program, found = server.program, io.StringIO()
    lacking = SimpleNamespace(argv=["intaglio-server", *words.split()], stderr=found, exit=_ends)

    def refuse(_):
        raise program.UsageError("needs intaglio[service]")

    before = program.sys, program.require_extra
    program.sys, program.require_extra = lacking, refuse
    try:
        with contextlib.redirect_stdout(found):
            program.main()
    except SystemExit as ended:
        return f"exit {ended.code}: {found.getvalue()}"
    finally:
        program.sys, program.require_extra = before
    return f"exit 0: {found.getvalue()}"


def _ends(code):
    raise SystemExit(code)


def fingerprints(folder, _):
    """How often the fingerprint that an organisation reads to the coordinator is in what others compare."""
    coordinator = Coordinator.create(folder / "c", address="localhost:1", now=dt.datetime.now(dt.UTC))
    now = int(dt.datetime.now(dt.UTC).timestamp())
    keys = []
    for name in ("north", "south"):
        invitation, text = coordinator.invite(name, now=now)
        (folder / f"{name}.txt").write_text(text)
        read_out = invitation.coordinator_fingerprint
        joined = run("intaglio", "join", folder / f"{name}.txt", folder / name, "--fingerprint", read_out)
        keys.append(joined.rpartition(": ")[2])
        coordinator.approve((folder / name / "request.json").read_bytes(), lambda *_: len(keys), now=now)
    (folder / "roster").write_text(coordinator.roster())
    trusted = run("intaglio", "node", "trust", folder / "roster", folder / "north")
    printed = run("intaglio", "node", "fingerprint", folder / "north").rpartition(": ")[2]
    return {
        "one": printed == keys[0],
        "in the roster": all(f"{key} {name}" in trusted for key, name in zip(keys, ("north", "south"), strict=True)),
        "marked": trusted.count("(you read this one out)") == 1 and "north (you read this one out)" in trusted,
        "said to whom": "to the coordinator now and to each other organisation" in joined,
    }


def started(folder, _):
    """What the coordinator prints when it begins; it is told to end at once."""
    coordinator = Coordinator.create(folder / "c", address="fed.example.org:8443", now=dt.datetime.now(dt.UTC))
    end, printed = threading.Event(), io.StringIO()
    end.set()
    with opened_door("127.0.0.1", 0) as door, contextlib.redirect_stderr(printed):
        serve_gateway(coordinator, SimpleNamespace(aclose=_nothing), door, end)
    return re.sub(r"127.0.0.1:\d+", "127.0.0.1:PORT", printed.getvalue())


async def _nothing():
    pass


def algorithms(_folder, _):
    """The names of Ed25519's signatures that libraries of relying organisations know."""
    from joserfc.jws import JWSRegistry  # noqa: PLC0415 - see the next line
    from jwt.algorithms import get_default_algorithms  # noqa: PLC0415 - only here

    libraries = {"PyJWT": set(get_default_algorithms()), "joserfc": set(JWSRegistry.algorithms)}
    known = {name: sorted({"EdDSA", "Ed25519"} & names) for name, names in libraries.items()}
    said = "RFC 9864" in (ROOT / "docs/formats.md").read_text()
    return f"{known}, said: {said}"


def stored(folder, accident):
    """A server's database to which something happens."""
    with open_storage(folder / "db") as storage:
        storage.enrol(a_template())
        return told(accident, storage, folder / "db")


def unlinked(storage, path):
    path.unlink()
    storage.ping()


def cut_off(storage, _):
    """The log was busy after the attempt was counted: the same bytes come again."""
    session = start(storage)
    for _ in range(2):
        open_attempt(storage, session)
    return f"{storage.history(session.request.key_id).attempts} attempt"
