"""Tasks that need a service, which a test starts later than the worker, and tasks that need nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from diracx.core.settings import ServiceSettingsBase
from pydantic_settings import SettingsConfigDict

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size

FOLDER = Path(os.environ["LOLLYGAG_FOLDER"])


def note(line: str) -> None:
    """Append one line to the journal, which the test reads."""
    with open(FOLDER / "journal", "a") as journal:
        journal.write(f"{line}\n")


class DoorSettings(ServiceSettingsBase):
    """A service behind a TCP port. It is connected to as long as the worker runs."""

    model_config = SettingsConfigDict(env_prefix="GARAGE_DOOR_")

    port: int

    @asynccontextmanager
    async def lifetime_function(self) -> AsyncIterator[None]:
        only = FOLDER / "only"  # the one thread on which the service may be used, if a test wants that
        if only.exists() and threading.current_thread().name != only.read_text():
            raise ConnectionError("the service takes one connection")
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield
        finally:
            writer.close()


class ColourSettings(ServiceSettingsBase):
    """Settings that are read from a variable."""

    model_config = SettingsConfigDict(env_prefix="GARAGE_COLOUR_")

    name: str


@dataclasses.dataclass
class OpenDoor(BaseTask):
    size = Size.SMALL
    number: int

    async def execute(self, door: DoorSettings) -> None:
        note(f"opened {self.number} at {door.port}")


@dataclasses.dataclass
class OpenDoorSlowly(OpenDoor):
    size = Size.MEDIUM
    hold: bool = False

    async def execute(self, door: DoorSettings) -> None:
        note(f"opened {self.number} on {threading.current_thread().name}")
        while self.hold and not (FOLDER / "released").exists():
            time.sleep(0.01)  # noqa: ASYNC251 - it keeps its thread


@dataclasses.dataclass
class Paint(BaseTask):
    size = Size.SMALL

    async def execute(self, colour: ColourSettings) -> None:
        note(f"painted {colour.name}")


@dataclasses.dataclass
class Sweep(BaseTask):
    size = Size.SMALL
    number: int

    async def execute(self) -> None:
        note(f"swept {self.number}")


@dataclasses.dataclass
class SweepSlowly(Sweep):
    size = Size.MEDIUM
