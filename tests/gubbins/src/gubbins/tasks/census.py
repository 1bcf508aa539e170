"""A fan-out: one task counts the owners by many, and another one adds up what these have found."""

from __future__ import annotations

import dataclasses
from typing import Any

from diracx.tasks.depends import CallbackSpawner, GroupOutcomes
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from gubbins.tasks.depends import LollygagDB


@dataclasses.dataclass
class CountOwnersTask(BaseTask):
    """A child: counts the owners whose name ends in a text."""

    ending: str

    size = Size.SMALL
    result_ttl_seconds = 3600  # so that the callback is given the value

    async def execute(self, lollygag_db: LollygagDB, **kwargs: Any) -> int:
        """Return their number."""
        return sum(name.endswith(self.ending) for name in await lollygag_db.get_owner())


class AddUpOwnersTask(BaseTask):
    """The callback: runs once, after the last child."""

    size = Size.SMALL
    result_ttl_seconds = 3600

    async def execute(self, outcomes: GroupOutcomes, **kwargs: Any) -> int:
        """Return the sum of what the children have counted; one that has failed counts none."""
        return sum([outcome.value or 0 async for outcome in outcomes])


@dataclasses.dataclass
class CensusTask(BaseTask):
    """Counts all owners by a child for each last digit of their names."""

    digits: str = "0123456789"

    size = Size.SMALL

    async def execute(self, spawn_with_callback: CallbackSpawner, **kwargs: Any) -> str:
        """Return the id of the group."""
        return await spawn_with_callback([CountOwnersTask(digit) for digit in self.digits], AddUpOwnersTask())
