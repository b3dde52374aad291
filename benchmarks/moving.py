"""
Export of a day from one database, import into another, and whether both give the same answers.
"""

from __future__ import annotations

import pathlib
import tempfile
from time import perf_counter, time
from typing import Any

from benchmarks.day import ROWS, Day
from benchmarks.volume import fill, questions
from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.archives.exporting import Export
from nameko_eventlog.store.archives.formats import open_archive
from nameko_eventlog.store.archives.importing import Import
from nameko_eventlog.store.archives.sources import open_source


def run(source: str, targets: list[str], rows: int = ROWS) -> dict[str, Any]:
    """
    Fill a database, export it to Parquet, and import that into each of the others.

    Args:
        source: An empty database.
        targets: Other empty databases.
        rows: How many event logs.

    Returns:
        ``exported``: event logs a second; ``moved``: for each target how many were imported, how
        many a second, and which questions it answers differently.
    """
    day = Day(time(), rows)
    fill(source, day)
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "day.parquet")
        begin = perf_counter()
        with EventLogQuery(source, seconds=600) as query:
            work = Export(query)
            archive = open_archive(path, "parquet")
            try:
                for _ in work.write_to(archive):
                    pass
            finally:
                archive.close()
        exported = work.written / (perf_counter() - begin)
        known = _answers(source, day)
        moved = []
        for target in targets:
            begin = perf_counter()
            with Import(target) as bringing, open_source(path) as opened:
                for _ in bringing.read(opened):
                    pass
                stored = bringing.counts.stored
            rate = stored / (perf_counter() - begin)
            found = _answers(target, day)
            moved.append([stored, rate, [name for name in known if known[name] != found[name]]])
    return {"exported": exported, "moved": moved}


def _answers(database: str, day: Day) -> dict[str, Any]:
    """
    Ask every question that `volume` does; rates depend on the moment, and cursors are opaque.
    """
    with EventLogQuery(database, seconds=600) as query:
        return {name: _compared(ask(query)) for name, (ask, _) in questions(day).items()}


def _compared(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {
            key: _compared(value) for key, value in answer.items() if key not in ("cursor", "rate")
        }
    return [_compared(one) for one in answer] if isinstance(answer, list) else answer
