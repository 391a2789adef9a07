"""A run's configuration: every key reaches the one thing that it sets, and a wrong profile is named to the operator."""

import json
import stat
import tomllib
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from federation.errors import UsageError
from federation.identity import IdentityKey
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.learning.releasing import ReleaseTerms
from federation.privacy.plan import PrivacyPlan
from federation.recognition.mobilefacenet import TUNABLE, shipped_profile
from federation.secagg.session import roster_from_text
from server.coordinator import local_run
from server.coordinator.app import TrainingSettings
from server.coordinator.evaluating import EvaluationSettings
from server.coordinator.local_run import evaluate_locally, run_locally
from server.coordinator.runs import RunConfig, RunSettings, _load_members
from tests.people import synthetic_people
from tests.public_people import CONDITION, synthetic_profile
from tests.running import a_release

RUN = {
    "population": "members",
    "ledger": "/runs/ledger.jsonl",
    "ledger-copies": "/runs/kept",
    "budget-epsilon": 11.0,
    "roster": "/runs/roster",
    "node-names": "7=north,9=south",
    "members": "south, north",
    "output": "/runs/release.json",
    "node-deadline-seconds": 13.0,
    "round-deadline-seconds": 17.0,
}
TRAINING = RUN | {
    "recipe": "scales",
    "condition": CONDITION,
    "fmr": 0.02,
    "references": 3,
    "frames": 2,
    "epsilon": 9.0,
    "delta": 2e-6,
    "people": 5000,
    "num-organisations": 7,
    "threshold-share": 0.25,
    "colluders": 2,
    "dropouts": 1,
    "steps": 5,
    "gradient-clip": 0.04,
}
SET = {
    "population": "members",
    "ledger": Path("/runs/ledger.jsonl"),
    "ledger_copies": Path("/runs/kept"),
    "budget_epsilon": 11.0,
    "roster": Path("/runs/roster"),
    "node_names": {7: "north", 9: "south"},
    "chosen": ("south", "north"),
    "output": Path("/runs/release.json"),
    "node_deadline_seconds": 13.0,
    "round_deadline_seconds": 17.0,
}
"""What `RUN` is set to, by the fields of `RunSettings`."""


def test_every_setting_of_any_run_reaches_its_place():
    settings = TrainingSettings.read(RunConfig(TRAINING))
    found = {field.name: getattr(settings.run, field.name) for field in fields(RunSettings)}
    assert found.pop("plan") is settings.plan
    assert found == SET


def test_what_may_be_left_out_is_beside_the_ledger_or_means_everybody():
    left = {key: value for key, value in TRAINING.items() if key not in {"ledger-copies", "node-names", "members"}}
    settings = TrainingSettings.read(RunConfig(left)).run
    assert (settings.ledger_copies, settings.node_names, settings.chosen) == (Path("/runs/ledger.jsonl.copies"), {}, ())


@pytest.mark.parametrize("recipe", ["scales", "moments"])
def test_every_setting_of_a_training_run_reaches_its_plan_or_its_release(tmp_path, recipe):
    profile = synthetic_profile()
    (tmp_path / "profile.json").write_bytes(profile.to_bytes())
    named = TRAINING | {"profile": str(tmp_path / "profile.json"), "recipe": recipe}
    settings = TrainingSettings.read(RunConfig(named))
    terms = {field.name: getattr(settings.terms, field.name) for field in fields(ReleaseTerms)}
    assert terms.pop("profile").digest == profile.digest
    assert terms == {"condition": CONDITION, "fmr": 0.02, "references": 3, "frames": 2}
    told = {field.name: getattr(settings.plan, field.name) for field in fields(PrivacyPlan)}
    told.pop("noise_multiplier")
    assert told == {
        "epsilon": 9.0,
        "delta": 2e-6,
        "people": 5000,
        "organisations": 7,
        "dimension": profile.dimension,
        "directions": profile.directions,
        "threshold_share": 0.25,
        "centre_clip": profile.clips.centre_thousandths / 1000,
        "colluders": 2,
        "dropouts": 1,
        "tuned": TUNABLE if recipe == "scales" else 0,
        "steps": 5 if recipe == "scales" else 0,
        "gradient_clip": 0.04,
    }


def test_a_run_that_names_no_profile_has_the_one_that_comes_along():
    assert TrainingSettings.read(RunConfig(TRAINING)).terms.profile == shipped_profile()


def test_every_setting_of_an_evaluation_reaches_its_plan(tmp_path):
    release, groups = a_release(), (Group("women", 3000, 1500), Group("men", 2000, 900))
    (tmp_path / "measured.json").write_bytes(release.to_bytes())
    (tmp_path / "groups.json").write_text(json.dumps([vars(group) for group in groups]))
    named = {key: TRAINING[key] for key in ("epsilon", "delta", "people", "num-organisations", "colluders", "dropouts")}
    named |= {"release": str(tmp_path / "measured.json"), "evaluate-groups": str(tmp_path / "groups.json")}
    settings = EvaluationSettings.read(RunConfig(RUN | named | {"evaluation-bins": 6}))
    assert settings.release.digest == release.digest
    assert {name: getattr(settings.run, name) for name in SET} == SET
    assert settings.run.plan is settings.plan
    told = {field.name: getattr(settings.plan, field.name) for field in fields(EvaluationPlan)}
    told.pop("noise_multiplier")
    assert told == {
        "epsilon": 9.0,
        "delta": 2e-6,
        "groups": groups,
        "people": 5000,
        "organisations": 7,
        "release": release.digest,
        "threshold": release.threshold,
        "code_length": release.code_length,
        "bins": 6,
        "colluders": 2,
        "dropouts": 1,
        "largest_half_width": 0.05,
    }


# ------------------------------------------------------------------------------------------------------- single keys
@pytest.mark.parametrize("value", [None, "", 7, True, ["a"]])
def test_a_text_that_a_run_needs_is_one_that_is_not_empty(value):
    config = RunConfig({"population": value, "ledger": "kept"})
    with pytest.raises(UsageError, match=r"^set population in the run configuration$"):
        config.text("population")
    assert config.text("ledger") == "kept"


@pytest.mark.parametrize(("value", "read"), [(None, ""), ("", ""), ("a b", "a b"), (7, "7")])
def test_a_text_that_may_be_left_out_is_empty_without_it(value, read):
    assert RunConfig({"members": value}).optional("members") == read
    assert RunConfig({}).optional("members") == ""


@pytest.mark.parametrize("value", [None, 0, 0.0, -1, -0.5, True, "7", float("nan")])
def test_a_number_of_a_run_is_positive_and_no_text(value):
    with pytest.raises(UsageError, match=r"^epsilon in the run configuration must be a positive number$"):
        RunConfig({"epsilon": value}).number("epsilon")


def test_a_number_of_a_run_may_be_small_or_whole_and_is_given_as_it_is_computed_with():
    found = [RunConfig({"epsilon": value}).number("epsilon") for value in (1e-9, 3)]
    assert (found, {type(each) for each in found}) == ([1e-9, 3.0], {float})


@pytest.mark.parametrize("value", [None, -1, True, 1.0, "1"])
def test_a_count_of_a_run_is_a_whole_number(value):
    with pytest.raises(UsageError, match=r"^dropouts in the run configuration must be a whole number, 0 or more$"):
        RunConfig({"dropouts": value}).count("dropouts")
    assert [RunConfig({"dropouts": count}).count("dropouts") for count in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("text", "nodes"), [("7=north,9=a=b,", {7: "north", 9: "a=b"}), ("7", {7: ""}), ("seven=north", None)]
)
def test_whose_node_is_which_is_read_pair_by_pair(text, nodes):
    config = RunConfig(RUN | {"node-names": text, "members": " north,, a b ,"})
    if nodes is None:
        with pytest.raises(UsageError, match=r"^node-names in the run configuration are ID=NAME, separated by commas$"):
            RunSettings.read(config, "a plan")
        return
    settings = RunSettings.read(config, "a plan")
    assert (settings.plan, settings.node_names, settings.chosen) == ("a plan", nodes, ("north", "a b"))


class Told(BaseException):
    """What a local run would be started with."""


@pytest.fixture
def told(monkeypatch):
    """Settings, time limit and files of a local run, which does not begin."""
    seen = {}

    def carry_out(folder, settings, timeout_seconds, progress):
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        text = tomllib.loads(local_run._toml(settings))
        seen.update(folder=folder, settings=text, timeout_seconds=timeout_seconds, progress=progress, files=files)
        seen.update(model=(folder / "model").resolve(), mode=stat.S_IMODE(folder.stat().st_mode))
        raise Told

    monkeypatch.setattr(local_run, "_carry_out", carry_out)
    return seen


def organisations():
    return [synthetic_people(names) for names in (["ada", "ben"], ["cleo", "dan", "eve"])]


OF_ANY_LOCAL_RUN = {"num-organisations": 2, "population": "members", "budget-epsilon": 12.0, "delta": 2e-6}


def test_every_argument_of_a_local_run_reaches_its_settings(told, tmp_path):
    everybody, said = organisations(), []
    arguments = {"epsilon": 9, "population": "members", "ledger": tmp_path / "l.jsonl", "budget_epsilon": 12}
    arguments |= {"delta": 2e-6, "fmr": 0.02, "references": 3, "frames": 2, "recipe": "scales", "steps": 5}
    arguments |= {"model": tmp_path, "timeout_seconds": 77.0, "progress": said.append}
    arguments |= {"chips": [SimpleNamespace(to_bytes=lambda data=data: data) for data in (b"chips 0", b"chips 1")]}
    with pytest.raises(Told):
        run_locally(everybody, synthetic_profile(), "mask", **arguments)
    folder, settings = told["folder"], told["settings"]
    assert settings == OF_ANY_LOCAL_RUN | {
        "people": 5,
        "epsilon": 9.0,
        "fmr": 0.02,
        "references": 3,
        "frames": 2,
        "recipe": "scales",
        "steps": 5,
        "condition": "mask",
        "ledger": str(tmp_path / "l.jsonl"),
        "profile": str(folder / "profile.json"),
        "ledger-copies": str(folder / "copies"),
        "organisations": str(folder),
        "roster": str(folder / "roster"),
        "output": str(folder / "result.json"),
    }
    assert told["files"]["profile.json"] == synthetic_profile().to_bytes()
    assert [told["files"][f"{index}.npz"] for index in range(2)] == [one.to_bytes() for one in everybody]
    assert [told["files"][f"{index}.chips.npz"] for index in range(2)] == [b"chips 0", b"chips 1"]
    assert (told["timeout_seconds"], told["progress"], told["model"]) == (77.0, said.append, tmp_path)
    keys = [IdentityKey.from_pem(told["files"][f"{index}.pem"]).public for index in range(2)]
    assert roster_from_text(told["files"]["roster"].decode()) == tuple(keys)
    assert (told["mode"], folder.exists()) == (0o700, False)


def test_every_argument_of_a_local_evaluation_reaches_its_settings(told, tmp_path):
    release, groups = a_release(), (Group("women", 900, 450), Group("men", 800, 350))
    listed = [{"ada": "women"}, {"cleo": "women", "dan": "men"}]
    arguments = {"epsilon": 9, "population": "members", "ledger": tmp_path / "l.jsonl", "budget_epsilon": 12}
    arguments |= {"delta": 2e-6, "timeout_seconds": 77.0}
    with pytest.raises(Told):
        evaluate_locally(organisations(), listed, release, groups, **arguments)
    folder, settings = told["folder"], told["settings"]
    assert settings == OF_ANY_LOCAL_RUN | {
        "people": 3,
        "epsilon": 9.0,
        "recipe": "evaluate",
        "release": str(folder / "measured.json"),
        "evaluate-groups": str(folder / "groups.json"),
        "ledger": str(tmp_path / "l.jsonl"),
        "ledger-copies": str(folder / "copies"),
        "organisations": str(folder),
        "roster": str(folder / "roster"),
        "output": str(folder / "result.json"),
    }
    assert [json.loads(told["files"][f"{index}.groups.json"]) for index in range(2)] == listed
    assert json.loads(told["files"]["groups.json"]) == [vars(group) for group in groups]
    assert told["files"]["measured.json"] == release.to_bytes()
    assert told["timeout_seconds"] == 77.0


# ------------------------------------------------------------------------------------------------------- the profile
def nothing(_):
    pass


def a_folder(path):
    path.mkdir()


def bytes_of(data):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    "put",
    [
        nothing,
        a_folder,
        bytes_of(b""),
        bytes_of(b"\xff\x00"),
        bytes_of(b"[]"),
        bytes_of(b"{}"),
        bytes_of(synthetic_profile().to_bytes()[:-9]),
    ],
)
def test_what_is_no_profile_is_named_to_the_operator(tmp_path, put):
    path = tmp_path / "profile.json"
    put(path)
    with pytest.raises(UsageError, match=r"profile must name a recogniser profile.*profile\.json"):
        TrainingSettings.read(RunConfig({"recipe": "moments", "profile": str(path)}))


OF_FILES = {
    "release": "^release must name a model release, as training wrote it, not {}$",
    "evaluate-groups": "^evaluate-groups must name a JSON file with the groups, not {}$",
}


@pytest.mark.parametrize("put", [nothing, a_folder, bytes_of(b"\xff\x00")])
@pytest.mark.parametrize("key", OF_FILES)
def test_what_is_no_file_of_an_evaluation_is_named_to_the_operator(tmp_path, key, put):
    (tmp_path / "measured.json").write_bytes(a_release().to_bytes())
    path = tmp_path / "wrong"
    put(path)
    named = {key: TRAINING[key] for key in ("epsilon", "delta", "people", "num-organisations", "colluders", "dropouts")}
    named |= {"release": str(tmp_path / "measured.json"), "evaluate-groups": "groups.json"}
    with pytest.raises(UsageError, match=OF_FILES[key].format(path)):
        EvaluationSettings.read(RunConfig(RUN | named | {"evaluation-bins": 6, key: str(path)}))


@pytest.mark.parametrize("put", [nothing, a_folder, bytes_of(b"\xff\x00")])
def test_what_is_no_roster_is_named_to_the_operator(tmp_path, put):
    path = tmp_path / "roster"
    put(path)
    with pytest.raises(UsageError, match=f"^roster must name a file with one public key a line, in hex, not {path}$"):
        _load_members(RunSettings.read(RunConfig(RUN | {"roster": str(path)}), "a plan"))
