"""Many groups at once, whose children end in every way: each callback runs once, and is told how each child ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks import spawn_with_callback
from diracx.tasks.plumbing.groups.records import child_id
from diracx.tasks.plumbing.jetstream.headers import without_server_headers
from diracx.tasks.plumbing.jetstream.publish import MAX_BATCH_MESSAGES, BatchMessage, publish_batch
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message
from diracx.tasks.plumbing.wire.envelope import TASK_EXPIRES, TASK_ID
from diracx.tasks.testing import wait_until
from support.cancelling import cancel
from support.group_tasks import After, Child, Mortal, called, delayed
from support.mesh import TaskMesh

GROUPS, CHILDREN = 200, 20
FATES: Mapping[str, tuple[BaseTask, str, int]] = {
    "succeeds": (Child(), "succeeded", 10),
    "fails": (Child(fails=True), "failed", 3),
    "dies": (Mortal(fails=True), "failed", 2),
    "expires": (Child(), "expired", 2),
    "is cancelled": (Child(), "cancelled", 2),
    "is cancelled meanwhile": (Child(), "cancelled or succeeded", 1),
}
"""The task of each, the status that its callback is told, and how often it is drawn."""


async def test_each_of_200_callbacks_runs_once_and_is_told_how_each_child_has_ended(mesh: TaskMesh) -> None:
    fate_of: dict[str, str] = {}
    for _ in range(GROUPS):
        fates = random.choices(list(FATES), [share for _, _, share in FATES.values()], k=CHILDREN)
        group = await spawn_with_callback([FATES[fate][0] for fate in fates], After())
        fate_of |= {child_id(group, index): fate for index, fate in enumerate(fates)}

    def of(fate: str) -> list[str]:
        return [each for each, its in fate_of.items() if its == fate]

    await let_expire(mesh, of("expires"))
    await cancel(mesh, *of("is cancelled"))
    async with mesh.working(slots=50), mesh.working(slots=50), asyncio.TaskGroup() as operators:
        operators.create_task(cancel(mesh, *of("is cancelled meanwhile")))
        await wait_until(lambda: len(called) >= GROUPS, description="all callbacks have run", timeout=60)
    assert (len({group for group, _ in called}), len(called)) == (GROUPS, GROUPS)
    told = {each.id: each.status for _, outcomes in called for each in outcomes}
    assert told.keys() == fate_of.keys()
    wrong = {each: (its, told[each]) for each, its in fate_of.items() if told[each] not in FATES[its][1].split(" or ")}
    assert not wrong
    assert len(await mesh.dead_letters()) == len(of("dies"))
    assert await delayed(mesh) == 0


async def let_expire(mesh: TaskMesh, tasks: Collection[str]) -> None:
    """Store tasks that wait in their queues anew, as ones that have expired."""
    waiting = [each for each in await mesh.stored(mesh.namespace.tasks_stream) if each.headers[TASK_ID] in tasks]
    expired = {TASK_EXPIRES: "2020-01-01T00:00:00Z"}
    anew = [BatchMessage(each.subject, each.body, without_server_headers(each.headers) | expired) for each in waiting]
    await asyncio.gather(
        *(delete_message(mesh.connection, mesh.namespace.tasks_stream, each.sequence) for each in waiting)
    )
    for begin in range(0, len(anew), MAX_BATCH_MESSAGES):
        await publish_batch(mesh.connection, anew[begin : begin + MAX_BATCH_MESSAGES])
