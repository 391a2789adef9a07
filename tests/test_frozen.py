"""What released versions wrote is read: databases, log, rules, bundle, wallets (`python -m tests.frozen`)."""

import json
import shutil

import pytest

from client.wallet.wallet import EnrolmentState, read_wallet
from federation.consent.life import consent_of
from federation.consent.receipts import Terms
from federation.release.bundle import Bundle, require_servable
from federation.release.manifest import ReleaseTrust
from federation.rules.rulebook import Rulebook
from federation.transparency import PersonalKind
from server.database import database_url, upgrade
from server.log.cli import opened_log
from server.restoring.reconciling import reconcile
from server.storage.sqlstorage import open_storage
from tests.frozen import DATABASE, FACTS, PASSPHRASE, PEOPLE, RELEASES

VERSIONS = sorted(path.name for path in RELEASES.iterdir())


@pytest.fixture(params=VERSIONS)
def frozen(request, tmp_path):
    """A copy, whose database is brought to the schema of today as an operator would."""
    shutil.copytree(RELEASES / request.param, tmp_path / "site")
    upgrade(database_url(str(tmp_path / "site" / DATABASE)))
    return tmp_path / "site"


@pytest.fixture
def facts(frozen):
    return json.loads((frozen / FACTS).read_text())


def test_a_version_is_frozen():
    assert VERSIONS


def test_its_database_and_its_log_are_level_and_know_who_enrolled_and_who_revoked(frozen, facts):
    with open_storage(str(frozen / DATABASE)) as storage, opened_log(frozen / "log", None) as log:
        assert log.fsck().size == log.head.size
        found = reconcile(storage, log, now=facts["made_at"] + 60)
        assert sum(found.counts.values()) == 0
        stays, revoked = (bytes.fromhex(facts["keys"][who]) for who in ("stays", "revoked"))
        template = storage.template(stays)
        assert template is not None
        assert template.release_digest.hex() == facts["release"]
        assert consent_of(template.receipts).current.terms == Terms.from_file((frozen / "terms.json").read_bytes())
        assert storage.template(revoked) is None
        assert storage.knows(revoked)
        assert len(log.subjects(PersonalKind.ENROLMENT)) == len(PEOPLE)


def test_its_wallets_open(frozen, facts):
    for who, state in (("stays", EnrolmentState.ENROLLED), ("revoked", EnrolmentState.REVOKED)):
        wallet = read_wallet(frozen / f"{who}.wallet", PASSPHRASE)
        assert wallet.key_id.hex() == facts["keys"][who]
        assert wallet.enrolment is not None
        assert wallet.enrolment.state is state


def test_its_bundle_was_servable_and_its_rules_are_read(frozen, facts):
    bundle = Bundle.from_bytes((frozen / "release.zip").read_bytes())
    trust = ReleaseTrust.from_file((frozen / "trust.json").read_bytes())
    assert require_servable(bundle, trust, now=facts["made_at"]).digest == facts["release"]
    book = Rulebook.from_file((frozen / "rules.jsonl").read_bytes(), read_at=facts["made_at"])
    assert bytes.fromhex(facts["release"]) in book.deployment(facts["deployment"]).release_digests
