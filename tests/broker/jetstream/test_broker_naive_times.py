"""A time without a zone, where a task is submitted."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from support.mesh import TaskMesh


@dataclasses.dataclass
class SyncLater(BaseTask):
    async def execute(self) -> None: ...


async def test_a_naive_time_is_refused_with_the_task_and_the_mend_and_nothing_is_stored(mesh: TaskMesh) -> None:
    mesh.register(SyncLater)
    with pytest.raises(ValueError, match="test:SyncLater") as refused:
        await SyncLater().schedule(at_time=datetime(2030, 1, 1))  # noqa: DTZ001 - the mistake
    assert "2030-01-01T00:00:00 has no time zone; use e.g. datetime.now(UTC)" in str(refused.value)
    assert await mesh.waiting() == 0
