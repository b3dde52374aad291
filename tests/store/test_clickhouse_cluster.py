"""
The tables of a cluster, as far as one server can tell.
"""

from __future__ import annotations

import pathlib
import re

from nameko_eventlog.store.writing import EventLogWriter
from tests.clickhouse import ClickHouse


DDL = pathlib.Path(__file__).parents[2] / "docs" / "examples" / "clickhouse_cluster.sql"

_COLUMNS = (
    "SELECT name, type FROM system.columns WHERE database = '{}' AND table = '{}'"
    " ORDER BY position FORMAT TabSeparated"
)


def test_tables(clickhouse: ClickHouse) -> None:
    """
    Each statement is valid, and without replication the tables and views are those of one server.
    """
    clickhouse.start()
    uri = clickhouse.create_database()
    writer = EventLogWriter(uri, ["json"])
    writer.prepare()
    writer.close()
    usual = uri.rpartition("/")[2]
    other = clickhouse.create_database().rpartition("/")[2]
    tables = []
    for statement in DDL.read_text().split(";\n"):
        text = re.sub(r"^--.*\n", "", statement, flags=re.MULTILINE).strip()
        if not text:
            continue
        clickhouse.execute(f"EXPLAIN AST {text}", database=other)
        if "Distributed(" in text:
            continue
        alone = re.sub(
            r"Replicated(\w*)\(\s*'[^']*', '[^']*'(?:, )?(\w*)\s*\)", r"\1(\2)", text
        ).replace(" ON CLUSTER eventlog", "")
        clickhouse.execute(alone, database=other)
        tables += re.findall(r"^CREATE (?:TABLE|MATERIALIZED VIEW) (\w+)", alone)

    assert 12 == len(tables)
    for table in tables:
        one, another = (
            clickhouse.execute(_COLUMNS.format(database, name))
            for database, name in ((other, table), (usual, table.removesuffix("_local")))
        )
        assert one
        assert one == another
