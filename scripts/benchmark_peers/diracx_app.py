"""The tasks of this project and of DiracX's own: both have the same authors' interface, so this module serves both.

`Fill` runs where tasks may submit others: in `call` of this project, in a worker of DiracX's own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from submitting import submit
from tally import begun


@dataclasses.dataclass
class Noop(BaseTask):
    """Does nothing but call the tally."""

    sent: float

    size = Size[os.environ.get("PEER_SIZE", "SMALL")]

    async def execute(self) -> None:
        """Begin, and end."""
        begun(self.sent)


@dataclasses.dataclass
class Fill(BaseTask):
    """Submits tasks, then touches the file `PEER_FILLED`, if there is one to touch, and keeps its slot from them."""

    mode: str
    tasks: int

    size = Size.SMALL

    async def execute(self) -> None:
        """Submit them."""
        await submit(lambda sent: Noop(sent).schedule(), self.mode, self.tasks)
        if filled := os.environ.get("PEER_FILLED"):
            Path(filled).touch()  # noqa: ASYNC240
            await asyncio.sleep(120)
