"""The counts at the end, read from the database and from JetStream."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.jetstream import JetStreamBroker


@dataclass(frozen=True)
class Count:
    """One row of the table."""

    what: str
    expected: int
    found: int

    @property
    def as_expected(self) -> bool:
        """Whether the found count is the expected one."""
        return self.found == self.expected


async def read_counts(broker: JetStreamBroker, owners: list[str], folder: Path, worker_exit: int) -> list[Count]:
    """Count after the worker has ended."""
    wanted = set(owners)
    rows = read_rows(folder / "lollygag.db")
    names = broker.namespace
    stream, dead = names.tasks_stream, names.dead_letters_stream
    always = f"{names.name}.dlq.trouble.FailsAlwaysTask.*"
    return [
        Count("owners in the database", len(wanted), len(rows)),
        Count("of these, in the file", len(wanted), len(wanted & set(rows))),
        Count("executions of FailsTwiceTask", 3, (folder / "tally").stat().st_size),
        Count(f"tasks left in {stream}", 0, await count(broker, stream, ">")),
        Count(f"dead letters in {dead}", 1, await count(broker, dead, f"{names.name}.dlq.>")),
        Count("of these, of FailsAlwaysTask", 1, await count(broker, dead, always)),
        Count(f"failures in {names.attempts_bucket}", 0, await count(broker, f"KV_{names.attempts_bucket}", ">")),
        Count(f"locks in {names.locks_bucket}", 0, await count(broker, f"KV_{names.locks_bucket}", ">")),
        Count("exit code of the worker", 0, worker_exit),
    ]


def read_rows(database: Path) -> list[str]:
    """The names of the owners in the database."""
    with closing(sqlite3.connect(database)) as connection:
        return [name for (name,) in connection.execute("SELECT Name FROM Owners")]


async def count(broker: JetStreamBroker, stream: str, subjects: str) -> int:
    """How many messages of a stream have a matching subject."""
    info: dict[str, Any] = await broker.connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": subjects})
    return sum((info["state"].get("subjects") or {}).values())


def rows_of(counts: list[Count]) -> list[list[str]]:
    """The rows of the table."""
    return [
        [line.what, f"{line.expected:,}", f"{line.found:,}{'' if line.as_expected else ' differs'}"] for line in counts
    ]
