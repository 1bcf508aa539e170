"""The server's advisories of dead tasks, which may come more than once when a consumer changes its leader."""

from __future__ import annotations

import dataclasses

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader
from diracx.tasks.plumbing.embedded.cluster import ClusteredServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.dead_letters import DeadLetterBox


@dataclasses.dataclass
class Dies(BaseTask):
    """Becomes a dead letter."""

    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError("it was told to")


async def test_a_task_whose_advisory_comes_again_is_one_dead_letter_in_the_list_and_in_the_count(
    cluster_mesh: ClusterMesh,
) -> None:
    mesh = cluster_mesh
    mesh.register(Dies)
    letters = mesh.namespace.dead_letters_stream
    box, reader = DeadLetterBox(mesh.connection, mesh.namespace), DeadLetterReader(mesh.connection, mesh.namespace)
    async with mesh.working():
        task_id = await Dies().schedule()
        await wait_until(mesh.dead_letters, description="it is a dead letter", timeout=60)

        async def advised() -> bool:
            return len(await mesh.stored(letters)) > 1

        await wait_until(advised, description="the server advised of it", timeout=60)
        await mesh.end_leader(mesh.namespace.tasks_stream, "normal-small", end=ClusteredServer.stop)
        # Whether the new leader repeats it is the server's affair; here it is repeated in any case.
        (letter,) = await mesh.dead_letters()
        sequence = int(letter.subject.rpartition(".")[2])
        await box.advise(sequence, "MSG_TERMINATED")
        await box.advise(sequence, "MAX_DELIVERIES")
    assert [each.id for each in await reader.all()] == [task_id]
    assert [each.id for each in await reader.latest(10, lambda _: True)] == [task_id]
    assert (await StatusReader(mesh.connection, mesh.namespace).read()).status.dead_letters == 1
    assert len(await box.dead_tasks()) == 1
