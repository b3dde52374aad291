"""
Checking passwords, which is slow on purpose: one after another, with addresses taking turns.

The right credentials are remembered as a digest, keyed with a secret of this process, and pass at
once. Others wait for their turn, so that nobody is locked out by the guesses of others.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from itertools import count

import eventlet
from eventlet import tpool
from eventlet.event import Event
from eventlet.semaphore import Semaphore
from werkzeug.security import check_password_hash

from nameko_eventlog import limits
from nameko_eventlog.explorer.pacing import Pace


_log = logging.getLogger("nameko_eventlog.explorer")


@dataclass(eq=False)
class _Waiter:
    username: str
    password: str
    address: str
    client: str
    is_back: bool
    verdict: Event = field(default_factory=Event)


class PasswordChecks:
    """
    Checks credentials.

    Args:
        username: The right user name.
        password_hash: The hash of the right password.
        connections: The maximum number of connections. Half of them may wait here, a quarter from
            one address, so that others are served in the meantime.
    """

    def __init__(self, username: str, password_hash: str, connections: int) -> None:
        self._most = min(limits.PASSWORD_CHECKS_WAITING, connections // 2)
        self._most_of_address = min(limits.PASSWORD_CHECKS_WAITING_PER_ADDRESS, connections // 4)
        self._username = username.encode(errors="surrogatepass")
        self._hash = password_hash
        self._key = os.urandom(32)
        self._right: bytes | None = None
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._pace = Pace(
            limits.PASSWORD_GUESSES_AT_ONCE,
            limits.PASSWORD_PAUSE_SECONDS,
            limits.PASSWORD_ADDRESSES,
        )
        self._waiters: list[_Waiter] = []
        self._arrival = Semaphore(0)
        self._running = 0
        self._turns = count(1)
        self._turned_away: OrderedDict[bytes, None] = OrderedDict()
        # the last turn of an address, and of a client behind an address
        self._last: OrderedDict[tuple[str, ...], int] = OrderedDict()

    def check(self, username: str, password: str, address: str, client: str) -> bool | None:
        """
        Check credentials; wait for a turn if they are not known yet.

        Args:
            username: The given user name.
            password: The given password.
            address: Where the request comes from.
            client: The client named by a proxy at that address. It is only used to share that
                address's turns among the clients behind the proxy.

        Returns:
            Whether they are right, or None if too many are waiting already.
        """
        digest = self._digest(username, password)
        if self._right is not None and hmac.compare_digest(digest, self._right):
            return True
        if digest in self._wrong:
            return False
        waiter = _Waiter(username, password, address, client, digest in self._turned_away)
        if not self._admit(waiter):
            self._turn_away(digest)
            return None
        self._waiters.append(waiter)
        self._arrival.release()
        if self._running < limits.PASSWORD_CHECKS_AT_ONCE:
            self._running += 1
            eventlet.spawn(self._run)
        try:
            is_right: bool | None = waiter.verdict.wait()
        finally:
            if waiter in self._waiters:  # its connection or its time has ended
                self._waiters.remove(waiter)
        if is_right is None:
            self._turn_away(digest)
        else:
            self._turned_away.pop(digest, None)
        if is_right:
            self._right = digest
            self._pace.uncount(address)
        elif is_right is not None:
            self._wrong[digest] = None
            if len(self._wrong) > limits.PASSWORDS_KNOWN_WRONG:
                self._wrong.popitem(last=False)
        return is_right

    def _admit(self, waiter: _Waiter) -> bool:
        """
        Make room for *waiter*: the last waiter of whoever has the most gives way.

        If all have the same number, a first attempt gives way to credentials that were turned away
        before: a reader tries the same password again, while a guesser tries others.
        """
        of_address = [one for one in self._waiters if one.address == waiter.address]
        if len(of_address) >= self._most_of_address:
            return self._displace(of_address, "client", waiter)
        if len(self._waiters) >= self._most:
            return self._displace(self._waiters, "address", waiter)
        return True

    def _displace(self, waiters: list[_Waiter], by: str, waiter: _Waiter) -> bool:
        places = Counter(getattr(one, by) for one in waiters)
        which, most = places.most_common(1)[0]
        own = places[getattr(waiter, by)]
        if own + 1 < most:
            last = [one for one in waiters if getattr(one, by) == which][-1]
        else:
            first_time = [
                one
                for one in waiters
                if not one.is_back and waiter.is_back and places[getattr(one, by)] >= own
            ]
            if not first_time:
                return False
            last = first_time[-1]
        self._waiters.remove(last)
        last.verdict.send(None)
        return True

    def _run(self) -> None:
        """
        Check the waiting credentials until there are none.
        """
        try:
            while self._waiters:
                waiter = self._next()
                if waiter is None:
                    delay = min(self._pace.delay(one.address) for one in self._waiters)
                    self._arrival.acquire(timeout=delay)
                    continue
                self._waiters.remove(waiter)
                self._pace.count(waiter.address)
                try:
                    is_right = tpool.execute(check_password_hash, self._hash, waiter.password)
                except Exception as exc:
                    _log.error("the explorer could not check a password: %r", exc)
                    waiter.verdict.send(None)
                    continue
                given = waiter.username.encode(errors="surrogatepass")
                waiter.verdict.send(is_right and hmac.compare_digest(given, self._username))
        finally:
            self._running -= 1

    def _next(self) -> _Waiter | None:
        """
        Return the next waiter, or None if all must pause. Addresses take turns, and so do the
        clients behind an address.
        """
        ready = [one for one in self._waiters if self._pace.delay(one.address) == 0]
        if not ready:
            return None

        turn = next(self._turns)

        def last_turns(one: _Waiter) -> tuple[int, int, int]:
            of_client = self._last.get((one.address, one.client), 0)
            is_new = not one.is_back
            # one turn in three goes by clients, one to those that were turned away before, and one
            # to the first in line, because a guesser may claim to be a reader's client
            order = ((of_client, is_new), (is_new, of_client), (0, 0))[turn % 3]
            return self._last.get((one.address,), 0), *order

        waiter = min(ready, key=last_turns)  # the first one of several
        for key in ((waiter.address,), (waiter.address, waiter.client)):
            self._last.pop(key, None)
            self._last[key] = turn
        while len(self._last) > limits.PASSWORD_ADDRESSES:
            self._last.popitem(last=False)
        return waiter

    def _turn_away(self, digest: bytes) -> None:
        self._turned_away[digest] = None
        if len(self._turned_away) > limits.PASSWORDS_TURNED_AWAY:
            self._turned_away.popitem(last=False)

    def _digest(self, username: str, password: str) -> bytes:
        text = f"{len(username)}:{username}:{password}".encode(errors="surrogatepass")
        return hmac.new(self._key, text, hashlib.sha256).digest()
