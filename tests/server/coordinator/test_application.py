"""What is packed of a checkout, and that its hash is the one that organisations allow."""

from __future__ import annotations

import hashlib

import pytest
from flwr.cli.build import build_fab_from_disk

from federation.errors import UsageError
from server.coordinator.application import application_files
from server.fleet.start import app_hash

PYPROJECT = """
[project]
name = "made-up"
version = "1.0.0"
description = "made up"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.42,<1.43"]
[tool.flwr.app]
publisher = "somebody"
fab-format-version = 1
flwr-version-target = "1.42.0"
fab-include = ["client/**/*.py", "LICENSE"]
[tool.flwr.app.components]
serverapp = "client.node.app:app"
clientapp = "client.node.app:app"
"""


# Flower's own, whenever a folder with a .gitignore is packed.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


@pytest.fixture
def checkout(tmp_path):
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "LICENSE": "free",
        ".gitignore": "drafts/\n",
        "client/node/app.py": "app = 1\n",
        "client/deep/er.py": "x = 1\n",
        "client/drafts/no.py": "never packed\n",
        "client/notes.txt": "never packed\n",
        "node_modules/heavy/index.py": "never packed\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_only_the_files_of_the_application_are_there_and_only_for_a_while(checkout):
    names = ("pyproject.toml", ".gitignore", "LICENSE", "client/node/app.py", "client/deep/er.py")
    with application_files(checkout) as files:
        found = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
    drafts = found.pop("client/drafts/no.py")  # Flower leaves it out, by the .gitignore that comes along
    assert found == {name: (checkout / name).read_bytes() for name in names}
    assert drafts == b"never packed\n"
    assert not files.exists()


def test_they_go_also_when_what_packs_them_fails(checkout):
    seen = []

    def fails(files):
        seen.append(files)
        raise KeyError("packed")

    with pytest.raises(KeyError, match="packed"), application_files(checkout) as files:
        fails(files)
    assert [files.exists() for files in seen] == [False]


def test_its_hash_is_that_of_the_checkout_as_flower_packs_it(checkout):
    assert app_hash(checkout) == hashlib.sha256(build_fab_from_disk(checkout)).hexdigest()


@pytest.mark.parametrize("text", [None, "", "[tool.flwr]\napp = 1\n", "no toml"])
def test_a_folder_that_names_no_files_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=r"fab-include|is no TOML"), application_files(tmp_path):
        pass
