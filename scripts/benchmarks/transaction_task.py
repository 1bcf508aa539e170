"""The task of `transaction`. Only an environment with diracx-db and the reference extension can import this."""

from __future__ import annotations

from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from gubbins.db.sql import LollygagDB as OwnersDB
from gubbins.tasks.depends import LollygagDB
from ways import watch


class Owners(BaseTask):
    """Reads the names of all owners in a transaction."""

    size = Size.SMALL

    async def execute(self, lollygag_db: LollygagDB, **kwargs: Any) -> None:
        """Read them."""
        watch.start()
        await read(lollygag_db)


async def read(database: OwnersDB) -> None:
    """The statement: the task's, and that by hand."""
    assert await database.get_owner() == ["alice"]
