"""How a library of a token is asked: one call at a time, twice at most, and from the start before the second one."""

from __future__ import annotations

import threading

import pkcs11
import pytest

from federation.commandline import tokens
from federation.commandline.tokens import Library, TokenUri, asked, library_of, while_running
from federation.errors import IntaglioError, UnavailableError, UsageError

URI = TokenUri("/lib/token.so", "safe", label="log")
GONE, WRONG = pkcs11.DeviceRemoved(), UsageError("the token 'safe' refused the PIN")


class Scripted(Library):
    """Notes when it begins again, and whether somebody else could ask at the same time."""

    def __init__(self, beginning=None):
        super().__init__(URI.library)
        self.told, self.beginning = [], beginning

    def begin_again(self):
        self.note("again")
        if self.beginning is not None:
            raise self.beginning

    def note(self, what):
        free = []
        other = threading.Thread(target=lambda: free.append(self.lock.acquire(blocking=False)))
        other.start()
        other.join()
        self.told.append((what, "held" if free == [False] else "free"))


def outcome(monkeypatch, *answers, beginning=None):
    library, left = Scripted(beginning), list(answers)
    monkeypatch.setattr(tokens, "library_of", lambda uri: {URI: library}[uri])

    def ask(given):
        assert given is library
        library.note("ask")
        answer = left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    try:
        found = asked(URI, ask)
    except (IntaglioError, KeyError) as error:
        found = error
    library.note("over")
    return found, [what for what, _ in library.told], {state for what, state in library.told if what != "over"}, library


@pytest.mark.parametrize(
    ("answers", "told", "found"),
    [
        ([b"signed"], ["ask"], b"signed"),
        ([GONE, b"signed"], ["ask", "again", "ask"], b"signed"),
        ([WRONG, b"signed"], ["ask", "again", "ask"], b"signed"),
        ([WRONG, WRONG], ["ask", "again", "ask"], WRONG),
        ([GONE, WRONG], ["ask", "again", "ask"], WRONG),
        ([WRONG, GONE], ["ask", "again", "ask"], UnavailableError),
        ([GONE, GONE], ["ask", "again", "ask"], UnavailableError),
        ([KeyError("a bug")], ["ask"], KeyError),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_fails_is_asked_once_more_from_the_start_under_one_lock(monkeypatch, answers, told, found):
    got, happened, states, library = outcome(monkeypatch, *answers)
    assert got == found if isinstance(found, bytes) else got is found or type(got) is found
    assert (happened, states) == ([*told, "over"], {"held"})
    assert library.told[-1] == ("over", "free")
    if found is UnavailableError:
        assert "the token 'safe' with the key 'log' was taken away" in str(got)
        assert str(got.__cause__) == "the token 'safe' answers with DeviceRemoved"
        assert got.retry_after_seconds == 30


def test_a_library_that_does_not_begin_again_is_away_and_is_not_asked(monkeypatch):
    got, happened, _, library = outcome(monkeypatch, GONE, b"signed", beginning=pkcs11.GeneralError())
    assert (type(got), happened) == (UnavailableError, ["ask", "again", "over"])
    assert str(got.__cause__) == "the token 'safe' answers with GeneralError"
    assert library.told[-1] == ("over", "free")


def test_beginning_again_forgets_sessions_and_keys_and_keeps_which_pins_were_refused(monkeypatch):
    library, steps = Library(URI.library), []

    class Module:
        def reinitialize(self):
            steps.append((dict(library._sessions), dict(library._keys)))

    monkeypatch.setattr(library, "_module", Module)
    mine = URI.its_token
    library._sessions[mine], library._keys[URI], library._pins[mine] = "session", "key", "1234"
    library._refused[*mine, "0000"] = "why"
    library.begin_again()
    assert steps == [({}, {})]  # a session closed after that would be another one's
    assert (library._pins, library._refused) == ({mine: "1234"}, {(*mine, "0000"): "why"})
    assert "1234" not in repr(library)
    assert "0000" not in repr(library)


def test_one_path_has_one_library_and_two_have_two(monkeypatch):
    monkeypatch.setattr(tokens, "_LIBRARIES", {})
    same = TokenUri(URI.library, "another", label="key")
    other = TokenUri("/lib/other.so", "safe", label="log")
    assert library_of(URI) is library_of(same)
    assert library_of(URI) is not library_of(other)
    assert {path: library.path for path, library in tokens._LIBRARIES.items()} == {
        path: path for path in ("/lib/token.so", "/lib/other.so")
    }


def test_while_a_program_runs_a_wrong_name_is_a_part_that_is_away_for_anybody_and_told_to_its_operator():
    with pytest.raises(UnavailableError, match="its operator must put it back") as caught, while_running(URI):
        raise WRONG
    assert caught.value.__cause__ is WRONG
    assert (caught.value.retry_after_seconds, "PIN" in str(caught.value)) == (30, False)
    with pytest.raises(UnavailableError, match="busy"), while_running(URI):
        raise UnavailableError("busy", retry_after_seconds=1)
