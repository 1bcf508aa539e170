"""Errors about tables that were never made, of each kind of database.

Annotations are live: some dependencies are local.
"""

import sqlite3
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from diracx.tasks.plumbing.depends import NoTransaction
from diracx.tasks.plumbing.injection.databases import missing_table, note_of_missing_table
from support.acme import LollygagDB
from support.injected_tasks import run

pytestmark = pytest.mark.usefixtures("acme_installed")

MySQLError: Any = import_module("pymysql.err").ProgrammingError  # it comes with diracx-db, and without types

NOTE = (
    "LollygagDB has no tables (no such table: Owners): run `python -m diracx.db init-sql`, with "
    "DIRACX_DB_URL_LOLLYGAGDB set as it is here"
)


@pytest.fixture(autouse=True)
def empty(acme_installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database without tables."""
    monkeypatch.setenv("DIRACX_DB_URL_LOLLYGAGDB", f"sqlite+aiosqlite:///{tmp_path}/owners.db")


class PostgresError(Exception):
    """As the drivers of PostgreSQL raise it, wrapped in an error of the same meaning."""

    def __init__(self, **codes: str) -> None:
        super().__init__('relation "Owners" does not exist')
        for name, value in codes.items():
            setattr(self, name, value)


def wrapped(error: Exception) -> DBAPIError:
    return ProgrammingError("SELECT 1", {}, error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OperationalError("", {}, sqlite3.OperationalError("no such table: Owners")), "no such table: Owners"),
        (wrapped(MySQLError(1146, "Table 'd.Owners' doesn't exist")), "(1146, \"Table 'd.Owners' doesn't exist\")"),
        (wrapped(PostgresError(sqlstate="42P01")), 'relation "Owners" does not exist'),
        (wrapped(PostgresError(pgcode="42P01")), 'relation "Owners" does not exist'),
        (wrapped(PostgresError(sqlstate="42601")), None),
        (wrapped(MySQLError(1064, "You have an error in your SQL syntax")), None),
        (OperationalError("", {}, sqlite3.OperationalError("database is locked")), None),
        (sqlite3.OperationalError("no such table: Owners"), None),
        (ValueError("no such table: Owners"), None),
    ],
)
def test_a_table_that_does_not_exist_is_known_by_the_code_of_its_driver(error: Exception, said: str | None) -> None:
    assert missing_table(error) == said
    outer = RuntimeError("in the words of an author")
    outer.__cause__ = error
    assert missing_table(outer) == said


def test_a_circle_of_causes_has_an_end() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert missing_table(one) is None


async def in_a_transaction(self: Any, db: LollygagDB) -> None:
    await db.insert_owner("alice")


async def without_a_transaction(self: Any, db: NoTransaction[LollygagDB]) -> None:
    async with db:
        await db.insert_owner("alice")


@pytest.mark.parametrize("execute", [in_a_transaction, without_a_transaction])
async def test_the_error_has_a_note_with_the_command_that_makes_the_tables(execute: Any) -> None:
    with pytest.raises(OperationalError) as raised:
        await run(execute)
    assert note_of_missing_table(raised.value) == NOTE


async def test_a_table_that_is_not_of_this_database_has_no_note() -> None:
    async def execute(self: Any, db: LollygagDB) -> None:
        await db.conn.execute(text("SELECT * FROM Strangers"))

    with pytest.raises(OperationalError) as raised:
        await run(execute)
    assert note_of_missing_table(raised.value) is None
