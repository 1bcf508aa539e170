"""Tasks that are pydantic models, one of them for each VO, and a dataclass that holds a model."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.schedules import IntervalSeconds


def note(line: str) -> None:
    """Append one line to the journal, which the test reads."""
    with (Path(os.environ["LOLLYGAG_FOLDER"]) / "journal").open("a") as journal:
        journal.write(f"{line}\n")


class Pilot(BaseModel):
    site: str
    cores: PositiveInt = 1


class SubmitPilots(BaseTask, BaseModel):
    model_config = ConfigDict(extra="forbid")

    pilots: list[Pilot]
    queue_name: str = Field("short", alias="queueName")
    size: ClassVar = Size.SMALL

    async def execute(self) -> str:
        note(f"submit {self.queue_name} {[(type(each).__name__, each.site, each.cores) for each in self.pilots]}")
        return self.queue_name


class ReportPilots(PeriodicVoAwareBaseTask, BaseModel):
    vo: str
    pilot: Pilot = Pilot(site="CERN", cores=2)
    size: ClassVar = Size.SMALL
    default_schedule: ClassVar = IntervalSeconds(1)

    async def execute(self) -> None:
        note(f"report {self.vo} {self.pilot!r}")


@dataclasses.dataclass
class KillPilot(BaseTask):
    pilot: Pilot
    size = Size.SMALL

    async def execute(self) -> None:
        note(f"kill {self.pilot!r}")
