"""Which tasks does the configuration hold? `enabled: false` holds the tasks that are submitted one by one.

A held task stays in its queue and is not executed, until it is enabled again. Of a periodic task `enabled: false` stops
the schedule alone: an occurrence that somebody submits by hand runs.
"""

from __future__ import annotations

from diracx.tasks.plumbing.execution.job import Held, Job
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.worker.snapshot import HeldTask


class Holds:
    """The tasks that one worker holds, by the configuration that it follows.

    Args:
        registry: The tasks that the worker knows.
    """

    def __init__(self, follower: ConfigurationFollower, registry: TaskRegistry) -> None:
        self._follower = follower
        self._registry = registry
        self.active = False
        """Whether the configuration disables any task."""
        follower.on_change(self._look)

    def _look(self) -> None:
        configuration = self._follower.current
        settings = (*configuration.tasks.values(), *configuration.task_vos.values())
        self.active = any(each.enabled is False for each in settings)

    def outcome_of(self, job: Job) -> Held | None:
        """The outcome of a task that is held; None: it may execute."""
        if job.registered.periodic:
            return None
        path = self._follower.current.disabled_at(job.envelope.name, job.vo)
        return None if path is None else Held(path)

    @property
    def tasks(self) -> list[HeldTask]:
        """The tasks that are held, of any size, for all VOs or for one."""
        if not self.active:
            return []
        configuration = self._follower.current
        vos = sorted({vo for _, vo in configuration.task_vos})
        held = []
        for name in (task.name for task in self._registry if not task.periodic):
            if configuration.disabled_at(name) is not None:
                held.append(HeldTask(name, None))
            else:
                held += [HeldTask(name, vo) for vo in vos if configuration.disabled_at(name, vo) is not None]
        return held
