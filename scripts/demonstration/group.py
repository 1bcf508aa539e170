"""A fan-out: a task spawns children, and a callback runs after the last of them."""

from __future__ import annotations

import asyncio

import mesh_process
from counts import Count
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from gubbins.tasks.census import CensusTask
from narration import Narration

TIMEOUT_SECONDS = 60.0


async def run_census(broker: JetStreamBroker, owners: int, tell: Narration) -> Count:
    """Have a group count the owners, and show what it returned."""
    children = len(CensusTask().digits)
    tell.step(
        f"The worker goes on. A CensusTask spawns a group: {children} children, each of which counts the owners whose "
        "name ends in one digit, and a callback that adds up what they return. `submit --wait` waits for the task and "
        "prints what it returned, the id of the group:"
    )
    submission = f"diracx-task-run submit --wait --timeout {TIMEOUT_SECONDS:.0f} census:CensusTask"
    tell.command(submission)
    told = await asyncio.to_thread(mesh_process.run, submission)
    tell.lines(told)
    group = told.rpartition("Result: ")[2].strip()
    # The callback is released by the last child, a moment later.
    found = await broker.result(f"{group}-callback", timeout=TIMEOUT_SECONDS)
    look = f"diracx-task-run task {group}"
    tell.command(look)
    tell.lines(await asyncio.to_thread(mesh_process.run, look))
    return Count("owners counted by a group", owners, found)
