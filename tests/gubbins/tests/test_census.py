"""`CensusTask`: children and a callback, executed by the workers of a `mesh`."""

from __future__ import annotations

import asyncio

from diracx.tasks.depends import ChildOutcome, GroupOutcomes
from diracx.tasks.testing import Mesh, Succeeded
from gubbins.db.sql import LollygagDB
from gubbins.tasks.census import AddUpOwnersTask, CensusTask, CountOwnersTask
from gubbins.tasks.lollygag import SyncOwnersTask


async def test_the_owners_are_counted_by_children_and_added_up_by_the_callback(
    mesh: Mesh, lollygag_db: LollygagDB
) -> None:
    await asyncio.gather(*(SyncOwnersTask(f"owner-{number}").schedule() for number in (1, 11, 2)))
    await mesh.work()
    await CensusTask("12").schedule()
    delivered = {each.id: each.outcome for each in await mesh.work()}
    children = mesh.submitted(CountOwnersTask)
    assert [delivered[each.id] for each in children] == [Succeeded(2), Succeeded(1)]
    assert delivered[mesh.assert_submitted(AddUpOwnersTask).id] == Succeeded(3)


async def test_a_child_that_has_failed_counts_none() -> None:
    outcomes = GroupOutcomes.of(
        [ChildOutcome(index=0, status="succeeded", value=2), ChildOutcome(index=1, status="failed")]
    )
    assert await AddUpOwnersTask().execute(outcomes) == 2
