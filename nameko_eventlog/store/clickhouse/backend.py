"""
The backend for ClickHouse: implements `backends.Backend`.
"""

from __future__ import annotations

from nameko_eventlog.store.clickhouse.migrating import probe, try_tables
from nameko_eventlog.store.clickhouse.purging import ClickHousePurger as Purger
from nameko_eventlog.store.clickhouse.reading import ClickHouseReader as Reader
from nameko_eventlog.store.clickhouse.rejects import ClickHouseRejects as Rejects
from nameko_eventlog.store.clickhouse.writing import ClickHouseWriter as Writer


__all__ = ["Purger", "Reader", "Rejects", "Writer", "probe", "try_tables"]
