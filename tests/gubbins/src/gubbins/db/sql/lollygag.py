"""`LollygagDB`: owners and their cars."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from diracx.db.sql.utils import BaseSQLDB
from sqlalchemy import CursorResult, ForeignKey, String, event, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class LollygagDBBase(DeclarativeBase):
    """The tables."""


class Owners(LollygagDBBase):
    """Who owns cars."""

    __tablename__ = "Owners"

    owner_id: Mapped[int] = mapped_column("OwnerID", primary_key=True)
    name: Mapped[str] = mapped_column("Name", String(255), unique=True)


class Cars(LollygagDBBase):
    """Cars; whether the owner exists is looked at when the transaction is committed."""

    __tablename__ = "Cars"

    car_id: Mapped[int] = mapped_column("CarID", primary_key=True)
    model: Mapped[str] = mapped_column("Model", String(255))
    owner_id: Mapped[int] = mapped_column("OwnerID", ForeignKey(Owners.owner_id, deferrable=True, initially="DEFERRED"))


class LollygagDB(BaseSQLDB):
    """Owners by name, and their cars.

    `DIRACX_DB_URL_LOLLYGAGDB` says where; `python -m diracx.db init-sql` makes the tables, once.
    """

    metadata = LollygagDBBase.metadata

    async def insert_owner(self, name: str) -> int:
        """Store an owner and return its id; one who is there already keeps it, so it may be done again.

        Two at a time for one name are for the caller to exclude: `SyncOwnersTask` has a mutex for each owner.
        """
        known: int | None = await self.conn.scalar(select(Owners.owner_id).where(Owners.name == name))
        if known is not None:
            return known
        result = await self.conn.execute(insert(Owners).values(name=name))
        return _id_of(result)

    async def insert_car(self, model: str, owner_id: int) -> int:
        """Store a car and return its id."""
        result = await self.conn.execute(insert(Cars).values(model=model, owner_id=owner_id))
        return _id_of(result)

    async def get_owner(self) -> list[str]:
        """The names of all owners, in the order of their ids."""
        return list(await self.conn.scalars(select(Owners.name).order_by(Owners.owner_id)))

    @asynccontextmanager
    async def engine_context(self) -> AsyncIterator[None]:
        """The engine; on SQLite with connections that many tasks can use at a time."""
        async with super().engine_context():
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
            yield


def _prepare_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        # With a write-ahead log readers do not wait for the writer; writers wait for each other.
        "journal_mode = WAL",
        "busy_timeout = 60000",
        # A commit outlives its process, not a power cut: an owner can be synced again, a flush for each takes 10 ms.
        "synchronous = OFF",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _id_of(result: CursorResult[Any]) -> int:
    """The id of the row that was inserted."""
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])
