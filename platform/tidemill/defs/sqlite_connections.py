"""Keeps the connections of Dagster's event log on SQLite open during a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import QueuePool


@contextmanager
def pooled_connections(instance: dg.DagsterInstance) -> Iterator[None]:
    """Keep one connection open to each database of the instance's event log, if it uses SQLite.

    Dagster opens one per statement, and closing the last one writes the whole journal back into the
    database: 9 ms of CPU per event instead of 3. Each event is committed as before.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        yield
        return
    engines: dict[str, Engine] = {}

    @contextmanager
    def connect(shard: str) -> Iterator[Connection]:
        with storage._db_lock:  # a connection must not be used by two threads at once
            if shard not in engines:
                engines[shard] = create_engine(
                    storage.conn_string_for_shard(shard),
                    poolclass=QueuePool,
                    connect_args={
                        "timeout": SQLITE_BUSY_TIMEOUT_SECONDS,
                        "check_same_thread": False,
                    },
                )
            if shard not in storage._initialized_dbs:
                storage._initdb(engines[shard])
                storage._initialized_dbs.add(shard)
            with engines[shard].begin() as connection:
                yield connection

    storage.__dict__["_connect"] = connect
    try:
        yield
    finally:
        del storage.__dict__["_connect"]
        for engine in engines.values():
            engine.dispose()
