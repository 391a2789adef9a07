"""Certificates that somebody named: their ends are told from sixty days before, once a day, in page and log."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from types import SimpleNamespace

import pytest

from federation.errors import UsageError
from server.certificates import write_pki
from server.expiry import DailyNotices, Ending, certificates_in, days_left, notice_of_end
from server.pairs import Ends, Pair, cannot_read

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "key.pem"), r"user .* number \d+, may not\. .*`chgrp GROUP FILE`"),
        (
            FileNotFoundError(2, "No such file", "key.pem"),
            "it is not there; `intaglio-server pki init` makes the first",
        ),
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


def test_a_file_that_holds_none_is_named_and_so_is_one_that_is_not_there(tmp_path):
    (tmp_path / "other.pem").write_bytes(b"no certificate")
    with pytest.raises(UsageError, match=rf"^{tmp_path}/other\.pem holds no certificate: "):
        certificates_in([tmp_path / "other.pem"])
    with pytest.raises(UsageError, match=rf"^cannot read {tmp_path}/nothing\.pem: No such file or directory$"):
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
    assert "server.pem: No such file" in said[2]
    assert len(said) == 3


def test_the_certificates_of_a_command_are_those_that_it_names_in_their_order(paths):
    told = certificates_in(paths[::-1])
    assert [(one.what, one.advice) for one in told] == [
        (f"the certificate in {path.name}", f"renew {path}, or have it renewed") for path in paths[::-1]
    ]
    assert [one.ends_at for one in told] == [NOW + 397 * DAY, NOW + 57 * DAY]


SECOND = dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (60 * DAY + SECOND, ""),
        (60 * DAY, "the thing expires on 2026-12-31, in 60 days: do this"),
        (2.4 * DAY, "the thing expires on 2026-11-03, in 2 days: do this"),
        (SECOND, "the thing expires on 2026-11-01, in 0 days: do this"),
        (0 * DAY, "the thing expired on 2026-11-01: do this"),
        (-3 * DAY, "the thing expired on 2026-10-29: do this"),
    ],
)
def test_an_end_is_said_from_sixty_days_before_on_and_as_past_from_its_second_on(left, said):
    assert notice_of_end("the thing", NOW + left, NOW, "do this") == said
    assert Ending("the thing", NOW + left, "do this").notice(NOW) == said
    assert days_left(NOW + left, NOW) == pytest.approx(left.total_seconds() / 86_400)


def test_each_day_has_every_line_once_in_order_and_a_day_ends_at_midnight():
    now, said = [dt.datetime(2026, 11, 1, 23, 59, 58, tzinfo=dt.UTC)], []
    ends = [Ending(f"thing {n}", now[0] + days * DAY, f"do {n}") for n, days in enumerate((3, 61, -1, 60))]
    broken = []

    def read():
        if broken:
            raise UsageError("it cannot be read")
        return ends

    notices = DailyNotices(read, said.append, lambda: now[0])
    today = [ends[n].notice(now[0]) for n in (0, 2, 3)]
    for _ in range(2):
        notices.look()
        now[0] += SECOND
    assert said == today
    notices.look()  # it is midnight
    assert said == [*today, *(ends[n].notice(now[0]) for n in (0, 2, 3))]
    now[0] += DAY
    broken.append(True)
    for _ in range(2):
        notices.look()
    assert said[6:] == ["it cannot be read"]


def certificates(**days):
    return {name: SimpleNamespace(not_valid_after_utc=NOW + left * DAY) for name, left in days.items()}


def test_the_ends_of_a_pair_are_told_by_name_each_with_its_advice_and_said_once_a_day():
    today, said = [NOW], []
    ends = Ends({"own": "do this", "authority": "do that", "other": "do nothing"}, said.append, lambda: today[0])
    pair = certificates(own=61, authority=-2, other=30)
    assert ends.days_left(pair) == {"own": 61, "authority": -2, "other": 30}
    whole = certificates(own=61, authority=62)
    assert (ends.notices(whole), said) == ([], [])  # nothing was said today, so what comes later today is
    told = [
        "the authority's certificate expired on 2026-10-30: do that",
        "the other's certificate expires on 2026-12-01, in 30 days: do nothing",
    ]
    for _ in range(2):
        assert (ends.notices(pair), said) == (told, told)
    today[0] += DAY
    (first, *_), before = ends.notices(pair), list(told)
    assert first == "the own's certificate expires on 2027-01-01, in 60 days: do this"
    assert said == [*before, *ends.notices(pair)]
    assert len(said) == 5


def test_a_pair_is_read_of_its_three_files_and_belongs_together_or_is_refused(tmp_path):
    write_pki(tmp_path, hosts=["localhost"], clients=["one", "two"], now=NOW)
    pair = Pair.read(tmp_path, "one")
    files = [(tmp_path / name).read_bytes() for name in ("ca.pem", "one.pem", "one-key.pem")]
    assert pair == Pair(tmp_path, "one", *files)
    shown = [one.subject.rfc4514_string() for one in pair.certificates()]
    assert shown == ["CN=intaglio authority", "CN=one"]
    assert not any(file.decode().split()[5] in repr(pair) for file in files)
    other = Pair.read(tmp_path, "two")
    with pytest.raises(UsageError, match=r"one-key\.pem is not the key of one\.pem in .*`intaglio-server pki renew`"):
        dataclasses.replace(pair, key=other.key).certificates()
    for part in ("authority", "certificate", "key"):
        with pytest.raises(UsageError, match=r"ca\.pem, one\.pem or one-key\.pem in .* is damaged: "):
            dataclasses.replace(pair, **{part: b"nothing"}).certificates()
    for name in ("ca.pem", "one.pem", "one-key.pem"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(UsageError, match=f"cannot read .*{name}: it is not there"):
            Pair.read(tmp_path, "one")
        (tmp_path / name).write_bytes(kept)
