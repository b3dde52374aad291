"""
Whose password is checked next, and who finds no place.
"""

from __future__ import annotations

import eventlet
import pytest
from eventlet.greenthread import GreenThread
from werkzeug.security import generate_password_hash

from nameko_eventlog import limits
from nameko_eventlog.explorer.passwords import PasswordChecks
from tests.explorer.conftest import Start, Stored
from tests.waiting import wait_until


HASH = generate_password_hash("secret", "pbkdf2:sha256:1")


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> PasswordChecks:
    """
    Checks of a server with 16 connections, each address after its first one paused for good.
    """
    monkeypatch.setattr(limits, "PASSWORD_GUESSES_AT_ONCE", 1)
    monkeypatch.setattr(limits, "PASSWORD_PAUSE_SECONDS", 3_600)
    checks = PasswordChecks("ops", HASH, 16)
    for address in ("a", "b", "c"):
        assert checks.check("ops", f"first of {address}", address, "") is False
    return checks


def wait_for(
    checks: PasswordChecks, password: str, address: str = "a", client: str = ""
) -> GreenThread:
    """
    Let a request wait for its check.
    """
    waiting = eventlet.spawn(checks.check, "ops", password, address, client)
    eventlet.sleep(0)
    return waiting


def are_over(*waiting: GreenThread) -> list[bool]:
    """
    Tell which of the requests have their answer.
    """
    eventlet.sleep(0)
    return [bool(one.dead) for one in waiting]


class TestPlaces:
    def test_full(self, paused: PasswordChecks) -> None:
        """
        An address has a quarter of the connections, and what is beyond that is turned away.
        """
        waiting = [wait_for(paused, f"{number}") for number in range(4)]

        assert paused.check("ops", "one more", "a", "") is None
        assert [False] * 4 == are_over(*waiting)
        for one in waiting:
            one.kill()

    def test_client_with_most(self, paused: PasswordChecks) -> None:
        """
        Behind one proxy the client with the most places gives one of them to another client.
        """
        waiting = [wait_for(paused, f"{number}", client="greedy") for number in range(4)]
        other = wait_for(paused, "another", client="other")

        assert [False, False, False, True, False] == are_over(*waiting, other)
        assert waiting[3].wait() is None
        for one in (*waiting, other):
            one.kill()

    def test_address_with_most(self, paused: PasswordChecks) -> None:
        """
        Where half of the connections wait, the address with the most gives way.
        """
        waiting = [wait_for(paused, f"a{number}", "a") for number in range(4)]
        waiting += [wait_for(paused, f"b{number}", "b") for number in range(4)]
        other = wait_for(paused, "another", "c")

        assert [False] * 3 + [True] + [False] * 5 == are_over(*waiting, other)
        for one in (*waiting, other):
            one.kill()

    def test_second_try(self, paused: PasswordChecks) -> None:
        """
        Who was turned away and tries the same password again has the place of one that comes for
        the first time; another password has not.
        """
        waiting = [wait_for(paused, f"{number}") for number in range(4)]
        assert paused.check("ops", "secret", "a", "") is None
        assert paused.check("ops", "another", "a", "") is None
        again = wait_for(paused, "secret")

        assert [False, False, False, True, False] == are_over(*waiting, again)
        assert paused.check("ops", "yet another", "a", "") is None
        for one in (*waiting, again):
            one.kill()

    def test_given_up(self, paused: PasswordChecks) -> None:
        """
        A request that does not wait any longer leaves its place.
        """
        waiting = [wait_for(paused, f"{number}") for number in range(4)]
        waiting[0].kill()
        other = wait_for(paused, "another")

        assert [False] == are_over(other)
        for one in (*waiting, other):
            one.kill()


class TestOrder:
    def test_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Addresses take turns: one that has sent many passwords does not keep others waiting.
        """
        checks = PasswordChecks("ops", HASH, 64)
        ended: list[str] = []

        def check(name: str) -> None:
            checks.check("ops", name, name[0], "")
            ended.append(name)

        for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
            eventlet.spawn(check, name)
        wait_until(lambda: len(ended) == 6)

        assert ["a1", "b1", "c1", "a2", "b2", "a3"] == ended

    def test_pause_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        After its pause an address has its next check, and the right password is let in.
        """
        monkeypatch.setattr(limits, "PASSWORD_GUESSES_AT_ONCE", 1)
        monkeypatch.setattr(limits, "PASSWORD_PAUSE_SECONDS", 0.1)
        checks = PasswordChecks("ops", HASH, 16)

        found = [checks.check("ops", given, "a", "") for given in ("1", "2", "secret", "secret")]
        assert [False, False, True, True] == found

    def test_bounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What is remembered of addresses, of wrong passwords and of those that were turned away is
        bounded: the oldest goes.
        """
        monkeypatch.setattr(limits, "PASSWORD_ADDRESSES", 4)
        monkeypatch.setattr(limits, "PASSWORDS_KNOWN_WRONG", 2)
        monkeypatch.setattr(limits, "PASSWORDS_TURNED_AWAY", 2)
        checks = PasswordChecks("ops", HASH, 4)
        for number in range(6):
            assert checks.check("ops", f"{number}", f"address {number}", "") is False
        assert (4, 2) == (len(checks._last), len(checks._wrong))

        waiting = wait_for(checks, "waits")
        assert [None] * 3 == [checks.check("ops", f"{number}", "a", "") for number in range(7, 10)]
        assert 2 == len(checks._turned_away)
        assert waiting.wait() is False

    def test_uncheckable(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        A hash that cannot be computed refuses the request, and the log says why; the next one is
        not kept waiting.
        """
        checks = PasswordChecks("ops", "pbkdf2:no-such-hash:1$salt$00", 16)

        assert [None, None] == [checks.check("ops", given, "a", "") for given in ("1", "2")]
        assert 2 == caplog.text.count("the explorer could not check a password: ")


class TestAnswers:
    def test_time_limit(
        self, explorer: Start, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A request that waits longer than the limit is told so, and leaves its place.
        """
        monkeypatch.setattr(limits, "PASSWORD_GUESSES_AT_ONCE", 1)
        monkeypatch.setattr(limits, "PASSWORD_PAUSE_SECONDS", 3_600)
        stored()
        running = explorer(username="ops", password_hash=HASH)
        assert 401 == running.get("/", credentials=("ops", "wrong")).status
        monkeypatch.setattr(limits, "ANSWER_SECONDS", 0.1)
        for number in range(limits.PASSWORD_CHECKS_WAITING_PER_ADDRESS + 1):
            late = running.get("/", credentials=("ops", f"{number}"))
            assert 503 == late.status
            assert "There was no answer within 0.1 s" in late.text

        monkeypatch.setattr(limits, "ANSWER_SECONDS", 20)
        assert 401 == running.get("/", credentials=("ops", "wrong")).status
