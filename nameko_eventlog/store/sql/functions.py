"""
Expressions that each database writes in its own way.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import BigInteger, Join
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from nameko_eventlog.limits import LISTED_BODY_BYTES
from nameko_eventlog.store.summaries import BUCKETS_PER_DOUBLING, SHORTEST


class StoredBytes(FunctionElement[int]):
    """
    The size of a body; a large body is not loaded to find it.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(StoredBytes, "sqlite")
def _bytes_in_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    body = compiler.process(element.clauses, **kwargs)
    if sqlite3.sqlite_version_info >= (3, 43):  # does not read all of the body
        return f"octet_length({body})"
    return f"length(CAST({body} AS BLOB))"


@compiles(StoredBytes, "postgresql")
def _bytes_in_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    # a body that is large as stored is not decompressed; a smaller one may become much larger
    body = compiler.process(element.clauses, **kwargs)
    return (
        f"CASE WHEN pg_column_size({body}) > {LISTED_BODY_BYTES} THEN pg_column_size({body})"
        f" ELSE octet_length(CAST({body} AS TEXT)) END"
    )


class TimeOf(FunctionElement[int]):
    """
    The time of a position, in milliseconds since 1970.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(TimeOf, "sqlite")
def _time_in_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"eventlog_time({compiler.process(element.clauses, **kwargs)})"


@compiles(TimeOf, "postgresql")
def _time_in_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    position = f"CAST({compiler.process(element.clauses, **kwargs)} AS TEXT)"
    hexadecimal = f"'x' || left({position}, 8) || substr({position}, 10, 4)"
    return f"CAST(CAST({hexadecimal} AS bit(48)) AS bigint)"


class OrderedJoin(Join):
    """
    A join in which SQLite reads the left table first.
    """

    inherit_cache = True


@compiles(OrderedJoin, "sqlite")
def _join_in_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    left, right, condition = (
        compiler.process(one, **kwargs) for one in (element.left, element.right, element.onclause)
    )
    return f"{left} CROSS JOIN {right} ON {condition}"


class Unindexed(FunctionElement[Any]):
    """
    A column whose index SQLite must not use; it has no statistics from which to choose another.
    """

    inherit_cache = True


@compiles(Unindexed, "sqlite")
def _unindexed_in_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"+{compiler.process(element.clauses, **kwargs)}"


@compiles(Unindexed, "postgresql")
def _unindexed_in_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    return str(compiler.process(element.clauses, **kwargs))


class BucketOf(FunctionElement[int]):
    """
    The number of the bucket that has a duration: `summaries.bucket_of`.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(BucketOf, "sqlite")
def _bucket_in_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"eventlog_bucket({compiler.process(element.clauses, **kwargs)})"


@compiles(BucketOf, "postgresql")
def _bucket_in_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    duration = compiler.process(element.clauses, **kwargs)
    doublings = f"ln(greatest({duration}, {SHORTEST})) / ln(2)"
    return f"CAST(ceil({doublings} * {BUCKETS_PER_DOUBLING}) AS bigint)"
