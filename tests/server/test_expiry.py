"""Certificates that somebody named: their ends are told from sixty days before, once a day, in page and log."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from federation.errors import UsageError
from server.certificates import write_pki
from server.expiry import DailyNotices, certificates_in
from server.pairs import cannot_read

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "key.pem"), r"user .* number \d+, may not\. .*`chgrp GROUP FILE`"),
        (FileNotFoundError(2, "No such file", "key.pem"), "it is not there; `intaglio-server pki init` makes all"),
        (IsADirectoryError(21, "Is a directory", "key.pem"), "key.pem: Is a directory$"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_to_be_made_again_unless_it_is_not_there(error, said):
    """A new authority would lock everybody out, where a service's group may not read one key."""
    told = cannot_read(error)
    assert re.search(said, told)
    assert told.startswith("cannot read key.pem: ")
    assert ("pki init" in told) == isinstance(error, FileNotFoundError)


@pytest.fixture
def paths(tmp_path):
    """One that ends soon, and one that does not."""
    write_pki(tmp_path / "old", hosts=["localhost"], clients=[], now=NOW - 340 * DAY)
    write_pki(tmp_path / "new", hosts=["localhost"], clients=["bridge"], now=NOW)
    return [tmp_path / "old" / "server.pem", tmp_path / "new" / "bridge.pem"]


def test_what_is_told_of_a_certificate_is_its_file_its_end_and_what_to_do(paths):
    soon, later = certificates_in(paths)
    assert later.notice(NOW) == ""
    assert soon.notice(NOW) == (
        f"the certificate in server.pem expires on 2026-12-28, in 57 days: renew {paths[0]}, or have it renewed"
    )
    assert soon.notice(NOW - 4 * DAY) == ""
    assert soon.notice(NOW + 58 * DAY).startswith("the certificate in server.pem expired on 2026-12-28")


def test_a_file_that_holds_none_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.pem holds no certificate"):
        certificates_in([tmp_path / "nothing.pem"])


def test_the_log_has_it_once_a_day_and_a_file_that_is_gone_too(paths):
    today, said = [NOW], []
    notices = DailyNotices(lambda: certificates_in(paths), said.append, lambda: today[0])
    for _ in range(3):
        notices.look()
    assert ["in 57 days" in line for line in said] == [True]
    today[0] += DAY
    notices.look()
    assert "in 56 days" in said[1]
    paths[0].unlink()
    today[0] += DAY
    notices.look()
    assert "server.pem holds no certificate" in said[2]
    assert len(said) == 3
