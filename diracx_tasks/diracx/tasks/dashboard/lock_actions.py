"""Release a lock, and wait for its holder to notice."""

from __future__ import annotations

from diracx.tasks.dashboard.actions import Job, Plan, RefusedError, Values
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages.locks import LockFacts
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.operations.lock_release import holders_that_run, is_waited_for, of_holders, of_meanwhile
from diracx.tasks.plumbing.operations.locks import HeldLock


class ReleaseLock:
    """Takes a lock from whoever holds it. The value is `key`."""

    name = "release"

    async def plan(self, mesh: Mesh, values: Values) -> Plan:
        """See `Action.plan`."""
        lock = await self._held(mesh, values.get("key", ""))
        return Plan(
            title=f"Release {shown(lock.key)}",
            sentences=[of_holders(lock), *of_meanwhile(lock)],
            button="Release it",
            back="/locks",
            values=[("key", lock.key)],
            dangerous=True,
        )

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        """See `Action.carry_out`."""
        lock = await self._held(mesh, values.get("key", ""))
        released = mesh.connection.clock.now()
        if not await mesh.facts(LockFacts).reader.release(lock.key):
            return f"{shown(lock.key)} was given back meanwhile"
        if not is_waited_for(lock):
            return f"released {shown(lock.key)}"
        job.notes.append("It is released. Its holders are waited for, until they have noticed.")
        mesh.forget()
        running = await holders_that_run(
            mesh.connection, mesh.namespace, [holder.id for holder in lock.holders], released
        )
        job.notes.clear()
        if running:
            return f"released {shown(lock.key)}; it has not ended the task of each holder yet: {', '.join(running[:5])}"
        return f"released {shown(lock.key)}; no holder runs on"

    @staticmethod
    async def _held(mesh: Mesh, key: str) -> HeldLock:
        reader = mesh.facts(LockFacts).reader
        lock = await reader.one(key) if await reader.exists() else None
        if lock is None:
            raise RefusedError(f"no lock {shown(key)!r} is held")
        return lock
