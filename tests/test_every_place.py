"""Wherever a rate is shown or signed, its people, interval and audit stand beside it, and a trial says so first.

One bundle, every place that speaks of it. The browser's page has the same test beside its code (`tests/web`), and the
log of a server that serves a trial in `tests/integration/test_cli.py`.
"""

import contextlib
import dataclasses
import io
import json
import re

import pytest
import typer
from typer.testing import CliRunner

from client import cli
from client.device import face_cli
from client.device.outcomes import VerificationOutcome
from federation.onebit import Decision
from federation.release.bundle import Bundle
from federation.release.manifest import Use
from federation.verdict import Verdict
from server.dashboard.page import dashboard_page
from tests.bundles import TRUST, VERDICTS, a_bundle, a_report, signed
from tests.federation.consent.test_assertion import ASSERTION
from tests.server.dashboard.test_dashboard import QUIET

HESITANT = a_report(cells=VERDICTS[Verdict.INSUFFICIENT])
BUNDLES = {
    "passed": signed(a_bundle()),
    "trial": signed(a_bundle(use=Use.TRIAL, report=HESITANT)),
    "failed": signed(a_bundle(report=a_report(cells=VERDICTS[Verdict.FAIL]))),
}


def plain(text: str) -> str:
    """Without markup, boxes and line breaks."""
    return " ".join(re.sub(r"<[^>]*>|[│┃╭╰─]", " ", text).replace("&#39;", "'").split())


def assertion(bundle: Bundle, _folder) -> str:
    return dataclasses.replace(ASSERTION, rate=bundle.release.rate, audited=bundle.manifest.audited).wording


def command(*arguments):
    result = CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def release_sign(bundle: Bundle, folder) -> str:
    """What whoever signs reads."""
    (folder / "bundle.zip").write_bytes(bundle.to_bytes())
    command("release", "key", folder / "key.pem")
    arguments = folder / "bundle.zip", folder / "again.zip", "--as", "maker", "--key", folder / "key.pem"
    return command("release", "sign", *arguments)


def enrolled(bundle: Bundle, _folder) -> str:
    """What a person reads whose claim was accepted."""
    outcome = VerificationOutcome(Decision.MATCH, 1.0, 1, 1, 1)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        face_cli.report(outcome, match="claim accepted", non_match="", bundle=bundle, as_json=False)
    return told.getvalue()


def organisation(bundle: Bundle, _folder) -> str:
    """The organisation's page, from its first paragraph."""
    release = dataclasses.replace(QUIET.release, bundle=bundle)
    page = dashboard_page(dataclasses.replace(QUIET, release=release))
    return page[page.index('<p class="lead">') :]


PLACES = {
    "assertion": assertion,
    "whoever signs the bundle": release_sign,
    "whoever was accepted": enrolled,
    "the organisation's page": organisation,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", BUNDLES)
def test_a_rate_is_said_with_its_interval_people_and_basis_and_what_is_no_pass_says_so_first(place, name, tmp_path):
    bundle = BUNDLES[name]
    said = plain(PLACES[place](bundle, tmp_path))
    assert bundle.release.rate.text in said
    audited = bundle.manifest.audited
    first = {"passed": "", "trial": "TRIAL, audit INSUFFICIENT on 50", "failed": "NOT PASSED, audit FAIL on 50"}[name]
    if first:
        where = said.index(first)
        assert said[:where] in {"", "warning "}, "something else is said before"
        assert audited.text in said
    else:
        assert "TRIAL" not in said
        assert "NOT PASSED" not in said


def test_programs_get_the_same_as_fields(tmp_path):
    outcome = VerificationOutcome(Decision.MATCH, 1.0, 1, 1, 1)
    for bundle in BUNDLES.values():
        with pytest.MonkeyPatch.context() as patch:
            told: list[str] = []
            patch.setattr(typer, "echo", told.append)
            face_cli.report(outcome, match="", non_match="", bundle=bundle, as_json=True)
        facts = json.loads(told[0])
        assert facts["rate"] == bundle.release.rate.to_json()
        assert facts["audit"] == bundle.manifest.audited.to_json()


def test_whoever_reads_a_trial_to_use_it_is_told_first(tmp_path, capsys):
    (tmp_path / "trust.json").write_bytes(dataclasses.replace(TRUST, accepts_trials=True).to_bytes())
    (tmp_path / "trial.zip").write_bytes(BUNDLES["trial"].to_bytes())
    face_cli.read_release(tmp_path / "trial.zip", tmp_path / "trust.json")
    assert capsys.readouterr().err.startswith("TRIAL, audit INSUFFICIENT on 50 people")


def test_the_checklist_of_a_trial_says_so_first(tmp_path):
    (tmp_path / "trial.zip").write_bytes(BUNDLES["trial"].to_bytes())
    assert command("privacy", "checklist", tmp_path / "trial.zip").startswith("TRIAL, audit INSUFFICIENT on 50 people")
