"""A database for each test; the other fixtures come from diracx-tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from diracx.tasks.testing import sqlite_database
from gubbins.db.sql import LollygagDB


@pytest.fixture
async def lollygag_db(tmp_path: Path) -> AsyncIterator[LollygagDB]:
    """An empty database that tasks find as they do in production; `async with lollygag_db:` is a transaction."""
    async with sqlite_database(LollygagDB, tmp_path) as database:
        yield database
