"""The table and the statements of PostgreSQL's stores. Pure.

Each store has a row with an empty key: its last revision and its TTL. Every write first moves this row and keeps its
lock until the commit. So the revisions of a store are committed in their order, and outlive deletions. Whether a
write may happen is decided by the very statement that writes, on the newest committed row.

`clock_timestamp()` and not `now()`: this is the time of the transaction's begin, before the wait for the lock.
"""

from __future__ import annotations

import hashlib

from asyncmgr.transports._followed import SUM_MODULO

TABLE = "asyncmgr_store"

_MICROSECONDS = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_AGE = "extract(epoch FROM clock_timestamp() - t.written)::double precision"
_ALIVE = f"(t.ttl IS NULL OR {_AGE} < t.ttl)"
_ENTRY = f"t.key, t.value, t.revision, {_AGE} AS age"

NOW = f"SELECT {_MICROSECONDS}"
CURRENT_SCHEMA = "SELECT current_schema()"


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def table_of(schema: str) -> str:
    """The table in `schema`, as it stands in statements."""
    return f"{quoted(schema)}.{TABLE}"


def channel_of(schema: str, store: str) -> str:
    """The channel of a store's notifications. Channels belong to the database, so the schema is part of it."""
    return "asyncmgr_" + hashlib.sha256(f"{schema}\0{store}".encode()).hexdigest()[:24]


def creation(table: str) -> str:
    """The statement that makes the table."""
    return f"""\
CREATE TABLE IF NOT EXISTS {table} (
    store text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    revision bigint NOT NULL,
    written timestamptz NOT NULL,
    ttl double precision,
    PRIMARY KEY (store, key)
) WITH (fillfactor = 50)"""


def script(schema: str | None, role: str | None) -> str:
    """What an owner runs once where the role of the services may not make the table."""
    table = TABLE if schema is None else table_of(schema)
    lines = [] if schema is None else [f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)};"]
    lines.append(f"{creation(table)};")
    grants = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {quoted(role or 'role')};"]
    if schema is not None:
        grants.insert(0, f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {quoted(role or 'role')};")
    if role is None:
        grants = [f"-- {grant}" for grant in grants]
    return "\n".join([*lines, *grants]) + "\n"


class Statements:
    """The statements for one schema."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.table = t = table_of(schema)
        self.create_table = creation(t)
        self.find_table = "SELECT to_regclass($1) IS NOT NULL"
        self.make_store = f"""
            INSERT INTO {t} AS t (store, key, value, revision, written, ttl)
            SELECT $1, '', '', greatest({_MICROSECONDS}, max(o.revision) + 1), clock_timestamp(), $2
            FROM {t} o WHERE o.store = $1
            ON CONFLICT (store, key) DO NOTHING"""
        self.find_store = f"SELECT t.ttl FROM {t} t WHERE t.store = $1 AND t.key = ''"
        self.get = f"SELECT {_ENTRY} FROM {t} t WHERE t.store = $1 AND t.key = $2 AND {_ALIVE}"
        self.last = f"SELECT t.store, t.revision FROM {t} t WHERE t.store = ANY($1::text[]) AND t.key = ''"
        self.values = (
            f"SELECT {_ENTRY} FROM {t} t WHERE t.store = $1 AND t.key = ANY($2::text[]) AND {_ALIVE}"
        )
        below = f"WHERE t.store = $1 AND (t.key = '' OR (t.key >= $2 AND t.key < $3 AND {_ALIVE}))"
        self.snapshot = f"SELECT {_ENTRY} FROM {t} t {below}"
        self.listing = f"SELECT t.key, t.revision FROM {t} t {below}"
        self.summary = f"""
            SELECT count(*) AS keys, coalesce(sum(t.revision % {SUM_MODULO}), 0)::bigint AS revisions
            FROM {t} t WHERE t.store = $1 AND t.key <> '' AND t.key >= $2 AND t.key < $3 AND {_ALIVE}"""
        # Whoever writes a key holds the store's row and waits for the key's; this waits for neither. Materialized,
        # since a plan may run a plain subquery again for each row, each time with a limit of its own.
        self.purge = f"""
            WITH old AS MATERIALIZED (
                SELECT t.key FROM {t} t WHERE t.store = $1 AND t.key <> '' AND NOT {_ALIVE}
                LIMIT $2 FOR UPDATE SKIP LOCKED
            )
            DELETE FROM {t} t USING old WHERE t.store = $1 AND t.key = old.key AND NOT {_ALIVE}"""

    def put(self, channel: str | None) -> str:
        return self._write(channel, "true", self._upsert(""))

    def create(self, channel: str | None) -> str:
        free = f"NOT EXISTS (SELECT FROM {self.table} t WHERE t.store = $1 AND t.key = $2 AND {_ALIVE})"
        return self._write(channel, free, self._upsert(f"WHERE NOT {_ALIVE}"))

    def update(self, channel: str | None) -> str:
        there = f"t.store = $1 AND t.key = $2 AND t.revision = $4 AND {_ALIVE}"
        guard = f"EXISTS (SELECT FROM {self.table} t WHERE {there})"
        write = f"""
            UPDATE {self.table} t
            SET value = $3, revision = tick.revision, written = tick.written, ttl = tick.ttl
            FROM tick WHERE {there} RETURNING t.revision"""
        return self._write(channel, guard, write)

    def delete(self, channel: str | None, *, conditional: bool) -> str:
        there = "t.store = $1 AND t.key = $2"
        if conditional:
            there += f" AND t.revision = $3 AND {_ALIVE}"
        guard = f"EXISTS (SELECT FROM {self.table} t WHERE {there})"
        write = f"DELETE FROM {self.table} t USING tick WHERE {there} RETURNING tick.revision"
        return self._write(channel, guard, write)

    def _upsert(self, condition: str) -> str:
        return f"""
            INSERT INTO {self.table} AS t (store, key, value, revision, written, ttl)
            SELECT $1, $2, $3, tick.revision, tick.written, tick.ttl FROM tick
            ON CONFLICT (store, key) DO UPDATE
            SET value = excluded.value, revision = excluded.revision, written = excluded.written,
                ttl = excluded.ttl
            {condition} RETURNING t.revision"""

    def _write(self, channel: str | None, guard: str, write: str) -> str:
        """A write. Its row has the new revision (null = it was not done), and whether there is such a store.

        `guard` spares a refused write its turn at the store's row. It reads what may be old, and decides nothing:
        `write` looks at the newest row once more. With a `channel` the listeners are told the revision and the key.
        """
        notice = f"(SELECT count(pg_notify('{channel}', done.revision || ' ' || $2)) FROM done)"
        return f"""
            WITH tick AS (
                UPDATE {self.table} s
                SET revision = greatest(s.revision + 1, {_MICROSECONDS}), written = clock_timestamp()
                WHERE s.store = $1 AND s.key = '' AND {guard}
                RETURNING s.revision, s.written, s.ttl
            ), done AS ({write})
            SELECT (SELECT revision FROM done) AS revision,
                EXISTS (SELECT FROM {self.table} s WHERE s.store = $1 AND s.key = '') AS there,
                {notice if channel else 0} AS told"""
