"""
Probes: whether a database accepts writes, asked over a separate connection.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.consuming.counts import StoreCounts
from nameko_eventlog.store.backends import backend_of
from nameko_eventlog.store.writing import EventLogWriter, has_id


class Probe:
    """
    Tests whether a database lets writers work.

    Args:
        uri: The database's address.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __call__(self) -> bool:
        """
        Run the test.

        Raises:
            DatabaseError: The database does not allow it.
        """
        backend_of(self._uri).probe(self._uri)
        return True


def try_tables(uri: str) -> str:
    """
    Test whether the tables are writable, without changing anything.

    Returns:
        A description of the tables, and of what the store does about them when it starts.

    Raises:
        DatabaseError: They are not writable.
    """
    description: str = backend_of(uri).try_tables(uri)
    return description


class RefusedBatchProbe:
    """
    Tests whether a database accepts a batch that it has refused.

    A database that answers may still refuse writes, or accept a small write on a full disk. So the
    probe writes the refused batch, as much of it as one transaction takes. When it is delivered
    again, its message ids identify it as duplicates. Messages without an id are written and rolled
    back.

    Args:
        uri: The database's address.
        accept: The content types that may be decoded.
        refused: The batch.
        counts: Where rows and duplicates are counted.
    """

    def __init__(
        self,
        uri: str,
        accept: Collection[str],
        refused: Sequence[ReceivedMessage],
        counts: StoreCounts | None = None,
    ) -> None:
        self._writer = EventLogWriter(uri, accept, counts)
        self._refused = refused

    def __call__(self) -> bool:
        """
        Run the test.

        Raises:
            DatabaseError: The database does not accept the batch.
        """
        try:
            self._writer.try_write([one for one in self._refused if not has_id(one)])
            self._writer.write_first([one for one in self._refused if has_id(one)])
        finally:
            self._writer.close()
        return True
