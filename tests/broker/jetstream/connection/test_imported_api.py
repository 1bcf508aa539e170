"""A mesh in another account, whose JetStream API this account imports under a prefix."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import ClassVar

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from support.connecting import connect
from support.mesh import TaskMesh

ACCOUNTS = """
accounts {
    MESH {
        jetstream: enabled
        users: [{ user: mesh, password: p }]
        exports: [{ service: "$JS.API.>", response_type: stream }, { service: "$JS.ACK.>" }, { service: "$KV.>" }
                  { service: "diracx.>" }, { service: "$SRV.>", response_type: stream }]
    }
    FARM {
        users: [{ user: farm, password: p }]
        imports: [{ service: { account: MESH, subject: "$JS.API.>" }, to: "FARM.API.>" }
                  { service: { account: MESH, subject: "$KV.>" }, to: "FARM.API.$KV.>" }
                  { service: { account: MESH, subject: "$JS.ACK.>" } }
                  { service: { account: MESH, subject: "diracx.>" } }
                  { service: { account: MESH, subject: "$SRV.>" } }]
    }
}
"""


@dataclasses.dataclass
class FailsOnce(BaseTask):
    """Runs under a lock; its first execution fails."""

    job: str

    ran: ClassVar[list[str]] = []
    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0, max_retries=1)

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.job)]

    async def execute(self) -> None:
        self.ran.append(self.job)
        if self.ran.count(self.job) == 1:
            raise ValueError("not yet")


@dataclasses.dataclass
class Dies(BaseTask):
    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError("dead")


async def test_a_worker_in_another_account_takes_locks_retries_and_dead_letters_in_the_mesh() -> None:
    FailsOnce.ran.clear()
    async with EmbeddedServer(extra_config=ACCOUNTS) as server:
        settings = ConnectionSettings(servers=(server.url,), user="farm", password="p", api_prefix="FARM.API")
        registry = TaskRegistry()
        async with JetStreamBroker.connect(settings=settings, registry=registry, role="worker") as broker:
            mesh = TaskMesh(broker)
            mesh.register(FailsOnce, Dies)
            await broker.submit(FailsOnce("a"))
            await broker.submit(Dies())
            await broker.submit(FailsOnce("b"), labels={"at": "once"})
            await mesh.burst(lock_retry_delay=timedelta(seconds=0.1))
            assert sorted(FailsOnce.ran) == ["a", "a", "b", "b"]
            assert await mesh.locks.keys() == await mesh.attempts.keys() == []
            assert (await mesh.state())["messages"] == 0
            async with connect(server, user="mesh", password="p") as inside:
                letters = await inside.api("STREAM.INFO.DIRACX_DLQ")
                assert letters["state"]["num_subjects"] >= 1
