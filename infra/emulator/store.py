"""Everything the stand-in remembers, as JSON documents in one SQLite file.

Knows documents by kind and key, and nothing of what they mean. A write that returned has reached the operating system:
it survives the death of this process (SIGKILL), though not a power cut.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Store:
    """Documents in `path`, used from one thread (the event loop's): every call is a few tens of microseconds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit: each statement is durable by itself, and transaction() groups several explicitly.
        self._connection = sqlite3.connect(path, isolation_level=None)
        # One process has the folder at a time: no locks for each statement.
        self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode=WAL")
        # NORMAL: no fsync per commit. A killed process loses nothing, which is all that is promised.
        self._connection.execute("PRAGMA synchronous=NORMAL")
        # The journal goes into the file, with an fsync that all requests wait for, each 40 MB instead of each 4 MB.
        self._connection.execute("PRAGMA wal_autocheckpoint=10000")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS documents"
            " (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        self._depth = 0

    def get(self, kind: str, key: str) -> Any | None:
        """The document, or None."""
        row = self._connection.execute("SELECT value FROM documents WHERE kind=? AND key=?", (kind, key)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, kind: str, key: str, value: Any) -> None:
        """Creates or replaces the document. `value` is anything JSON holds."""
        self._connection.execute(
            "INSERT INTO documents VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET value=excluded.value",
            (kind, key, json.dumps(value, separators=(",", ":"))),
        )

    def delete(self, kind: str, key: str) -> None:
        """Removes the document; nothing happens when there is none."""
        self._connection.execute("DELETE FROM documents WHERE kind=? AND key=?", (kind, key))

    def items(self, kind: str, prefix: str = "") -> list[tuple[str, Any]]:
        """Key and document of every key that starts with `prefix`, in the order of the keys' code points."""
        rows = self._connection.execute(
            "SELECT key, value FROM documents WHERE kind=? AND key>=? AND key<? ORDER BY key",
            (kind, prefix, prefix + "\U0010ffff"),
        )
        return [(key, json.loads(value)) for key, value in rows]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen together or not at all. May be nested: the outermost one decides."""
        if self._depth == 0:
            self._connection.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self._connection.execute("ROLLBACK")
            raise
        self._depth -= 1
        if self._depth == 0:
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Writes the journal back into the file and closes it."""
        self._connection.close()
