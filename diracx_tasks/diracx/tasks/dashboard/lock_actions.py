"""Release a lock, and wait for its holder to notice."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from diracx.tasks.dashboard.actions import Job, Plan, RefusedError, Values
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages.locks import LockFacts
from diracx.tasks.plumbing.exceptions import ServerError, shown
from diracx.tasks.plumbing.operations.lock_release import UNTIL_NOTICED, of_holders, of_meanwhile, told
from diracx.tasks.plumbing.operations.locks import LIMITERS, HeldLock, holders_notice, refuse_other_holders

MAX_NOTES: Final = 10


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
            values=[("key", lock.key), ("holders", _written(lock))],
            dangerous=True,
        )

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        """See `Action.carry_out`."""
        lock = await self._held(mesh, values.get("key", ""))
        try:
            known = msgspec.json.decode(values.get("holders", ""), type=list[tuple[str, str, datetime]])
        except msgspec.DecodeError:
            raise RefusedError("the form does not say who held it: begin again on the list") from None
        refuse_other_holders(lock, [each for each in lock.holders if (each.id, each.worker, each.since) in known])
        if not await mesh.facts(LockFacts).reader.release(lock):
            return f"{shown(lock.key)} was given back meanwhile"
        mesh.forget()
        try:
            noticed = await holders_notice(mesh.connection, mesh.namespace, lock)
        except ServerError as error:
            return f"released {shown(lock.key)}; {UNTIL_NOTICED}; whether it has noticed is not known: {error}"
        job.notes += [told(each) for each in noticed[:MAX_NOTES]]
        job.failed = any(each.runs for each in noticed)
        return f"released {shown(lock.key)}"

    @staticmethod
    async def _held(mesh: Mesh, key: str) -> HeldLock:
        reader = mesh.facts(LockFacts).reader
        lock = await reader.one(key) if await reader.exists() else None
        if lock is None:
            raise RefusedError(f"no lock {shown(key)!r} is held")
        return lock


def _written(lock: HeldLock) -> str:
    """Those whom the confirmation page names, for the form."""
    holders = () if lock.kind in LIMITERS else lock.holders
    return msgspec.json.encode([(each.id, each.worker, each.since) for each in holders]).decode()
