"""An extension of DiracX with databases and service settings. The fixture `acme_installed` installs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from diracx.core.settings import ServiceSettingsBase
from diracx.db.os import JobParametersDB
from diracx.db.os.utils import BaseOSDB
from diracx.db.sql import JobDB
from diracx.db.sql.utils import BaseSQLDB
from pydantic_settings import SettingsConfigDict
from sqlalchemy import ForeignKey, MetaData, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    metadata = MetaData()


class Owner(Base):
    __tablename__ = "Owners"
    owner_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Car(Base):
    __tablename__ = "Cars"
    car_id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey(Owner.owner_id, deferrable=True, initially="DEFERRED"))


class LollygagDB(BaseSQLDB):
    """Owners and cars. That the owner of a car exists is checked at the commit."""

    metadata = Base.metadata

    async def insert_owner(self, name: str) -> int:
        found = await self.conn.execute(insert(Owner).values(name=name).returning(Owner.owner_id))
        return found.scalar_one()

    async def insert_car_of_nobody(self) -> None:
        """Insert a car that makes the commit fail. Call it first: SQLite ignores the pragma within a transaction."""
        await self.conn.execute(text("PRAGMA foreign_keys = ON"))
        await self.conn.execute(insert(Car).values(owner_id=4711))

    async def owners(self) -> list[str]:
        return list((await self.conn.execute(select(Owner.name).order_by(Owner.owner_id))).scalars())


class PreferredJobDB(JobDB):
    """Extends the class of diracx."""


class UnlistedDB(BaseSQLDB):
    """Has no entry point."""

    metadata = MetaData()


class OwnTransactionDB(BaseSQLDB):
    """Has a real `transaction`, not the sentinel of diracx-db, so it needs no engine."""

    metadata = MetaData()

    @classmethod
    async def transaction(cls) -> AsyncIterator[str]:  # type: ignore[override]
        yield "its own"


class LogsDB(BaseOSDB):
    """Extends no class of diracx."""

    fields: dict[str, Any] = {"Timestamp": {"type": "date"}}  # noqa: RUF012 - its base declares it so
    index_prefix = "acme_logs"

    def index_name(self, vo: str, doc_id: int) -> str:
        return f"{self.index_prefix}_{vo}_{doc_id}"


class PreferredJobParametersDB(JobParametersDB):
    """Extends the class of diracx."""


class GarageSettings(ServiceSettingsBase):
    """Settings that a service of the extension reads from its environment."""

    model_config = SettingsConfigDict(env_prefix="ACME_GARAGE_")

    doors: int
    colour: str

    open_now: ClassVar[list[str]] = []

    @asynccontextmanager
    async def lifetime_function(self) -> AsyncIterator[None]:
        self.open_now.append(self.colour)
        try:
            yield
        finally:
            self.open_now.remove(self.colour)
