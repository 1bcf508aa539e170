"""One more run of a periodic task, now."""

from __future__ import annotations

from diracx.tasks.dashboard.actions import Job, Plan, RefusedError, Values
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.plumbing.exceptions import TaskDefinitionError, UnknownTaskError, shown
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.operations.run_now import check_choice, run_now
from diracx.tasks.plumbing.operations.schedules import NoSuchScheduleError
from diracx.tasks.plumbing.registry import RegisteredTask


class RunNow:
    """Submits a periodic task as its schedule would. The values are `task`, `vo` and `entry`."""

    name = "run-now"

    async def plan(self, mesh: Mesh, values: Values) -> Plan:
        """See `Action.plan`."""
        registered, vo, entry = self._chosen(mesh, values)
        of = "".join([f" for {shown(vo)}" if vo else "", f", entry {shown(entry)}" if entry else ""])
        return Plan(
            title=f"Run {registered.name}{of} now",
            sentences=[
                f"One more run goes into {'-'.join(registered.queue)} at once, with the arguments of its schedule.",
                "Its schedule stays as it is, also if it is disabled.",
                "A run that goes on meanwhile is not ended: if they must not overlap, a lock has to keep them apart.",
            ],
            button="Run it now",
            back="/schedules",
            values=[(name, value) for name in ("task", "vo", "entry") if (value := values.get(name))],
        )

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        """See `Action.carry_out`."""
        registered, vo, entry = self._chosen(mesh, values)
        broker = JetStreamBroker(mesh.connection, mesh.namespace, mesh.registry)
        try:
            started = await run_now(broker, registered, vo, entry)
        except NoSuchScheduleError as error:
            raise RefusedError(str(error)) from None
        if started.unchecked is not None:
            job.notes.append(started.unchecked)
        job.task = started.id
        return f"submitted as {started.id}"

    @staticmethod
    def _chosen(mesh: Mesh, values: Values) -> tuple[RegisteredTask, str | None, str | None]:
        try:
            registered = mesh.registry.get(values.get("task", ""))
            check_choice(registered, values.get("vo") or None)
        except (UnknownTaskError, TaskDefinitionError, NoSuchScheduleError) as error:
            raise RefusedError(str(error)) from None
        return registered, values.get("vo") or None, values.get("entry") or None
