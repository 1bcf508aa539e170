"""A task that kills its worker, and some that are merely there."""

import asyncio
import dataclasses
import os
import signal
from pathlib import Path

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size

FOLDER = Path(os.environ["LOLLYGAG_FOLDER"])


def note(line):
    """One line in the journal, in one write, so that it is there whatever comes next."""
    with open(FOLDER / "journal", "a") as journal:
        journal.write(f"{line}\n")


class Kills(BaseTask):
    size = Size.SMALL

    async def execute(self):
        note("begin Kills")
        # Its neighbours of the same moment have begun by then.
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass
class Bystander(BaseTask):
    number: int

    size = Size.SMALL

    async def execute(self):
        await asyncio.sleep(0.1)
        note(f"end Bystander {self.number}")
