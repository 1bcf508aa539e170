"""A scheduler process: it leads, or stands by until nobody leads.

    standby --gets the leader lock--> leading --stopped, or lock lost--> standby

A scheduler does not go on without its lock renewal or its configuration follower: if one ends, it stops as after
`stop`, and `run` raises. A stop takes `STOP_SECONDS`, and the requests that release the leader lock, at the most: a
round that takes longer is broken off at any point, as if the scheduler had been killed there.

While it leads, it loads every state once, and then supplies the due schedules twice a second. A conflict or an error of
the server ends that round only: the next one reads the states concerned again. See `leadership` for the horizon and the
takeover, `planning` for the invariants of the occurrences, and `reconciler` for the crash points.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.background import in_background, wait_for_event
from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.clock import Now, boottime
from diracx.tasks.plumbing.exceptions import BackgroundEndedError, ServerError, UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.assets import Asset, assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.mesh_watch import MeshWatch
from diracx.tasks.plumbing.locks import LockOwner, RevisionConflictError
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.observability.lasting_failure import LastingFailure
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import Instance, has_task, instances_of, removed_instances
from diracx.tasks.plumbing.scheduler.leadership import DEFAULT_TAKEOVER, POLL_INTERVAL, LeaderLock, ttl_for
from diracx.tasks.plumbing.scheduler.reconciler import ScheduleReconciler
from diracx.tasks.plumbing.scheduler.state import ScheduleKey
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.process_id import process_id

logger = logging.getLogger("diracx.tasks.scheduler")

_TICK_SECONDS: Final = 0.5
_BACKOFF_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 10.0
"""How often the leader looks whether the states that it knows are still stored."""
MAX_NAMED: Final = 5
STOP_SECONDS: Final = 10.0
"""The time that the round in progress has to end after a stop."""


class SchedulerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one scheduler; all schedulers of a mesh should have the same."""

    takeover: timedelta = DEFAULT_TAKEOVER
    """The time within which a leader that vanished is replaced; 5 s or more."""
    horizon: timedelta | None = None
    """How far into the future the server holds every occurrence; None: `2 x takeover`, but at least 30 s."""

    def __post_init__(self) -> None:
        ttl_for(self.takeover)
        if self.horizon is not None and self.horizon < 2 * self.takeover:
            raise ValueError(f"the horizon must be twice the takeover time or more: {2 * self.takeover}")

    @property
    def effective_horizon(self) -> timedelta:
        """The horizon in force: `horizon`, or its default."""
        return self.horizon or max(timedelta(seconds=30), 2 * self.takeover)


def _needed(namespace: Namespace) -> list[Asset]:
    names = (namespace.tasks_stream, namespace.later_stream, namespace.locks_bucket, namespace.config_bucket)
    return [asset for asset in assets(namespace) if asset.is_one_of(*names)]


class Scheduler:
    """Keeps the schedules of the installed periodic tasks supplied until `stop`.

    Args:
        connection: A connection that stays open while `run` runs.
        registry: The tasks to schedule. Stored schedules of other tasks are left alone for a week.
        vos: The virtual organisations.
        now: The time by which occurrences are planned; None: that of the server.
        name: The id of this scheduler in states, locks and logs; None: see `process_id`.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        registry: TaskRegistry,
        vos: VirtualOrganisations,
        settings: SchedulerSettings,
        *,
        now: Now | None = None,
        name: str | None = None,
    ) -> None:
        self.id = name or process_id("scheduler")
        self.leads = False
        """Whether this scheduler leads at the moment."""
        self.published = 0
        """The number of occurrences that this scheduler has published."""
        self._clock = clock = connection.clock
        self._registry = registry
        self._now = now or clock.now
        self._vos = vos
        self._leader_lock = LeaderLock(ttl_for(settings.takeover))
        self._locks = LockKeeper(Bucket(connection, namespace.locks_bucket), on_end=self._background_ended)
        self._store, horizon = JetStreamScheduleStore(connection, namespace), settings.effective_horizon
        self._reconciler = ScheduleReconciler(self._store, horizon, self.id, self._now, clock.corrected)
        self._configuration = ConfigurationFollower(connection, namespace)
        self._configuration.on_change(self._wake)
        self._configured = False
        """Whether the configuration was read: without it, disabled schedules would run, and entries would end."""
        self._instances: list[Instance] = []
        self._instance_inputs: tuple[Configuration, tuple[str, ...] | None] | None = None
        self._unmakeable: dict[ScheduleKey, str | None] = {}
        """Why schedules cannot make their task; each reason is logged once."""
        self._no_configuration = LastingFailure(logger, "the configuration cannot be read yet", "it is read")
        self._no_leader = LastingFailure(logger, "the leader cannot be determined", "the leader can be determined")
        self._no_supply = LastingFailure(logger, "schedules were not supplied", "schedules are supplied again")
        self._mesh = MeshWatch(connection, _needed(namespace), logger)
        self._stopping = False
        self._stop_limit: asyncio.Timeout | None = None
        """The limit on the time of the round in progress; None while `run` does not run."""
        self._wake_event = asyncio.Event()

    @property
    def next_occurrence(self) -> datetime | None:
        """The next occurrence of all schedules; None if there is none, or if this scheduler does not lead."""
        now = self._now()
        coming = (state.next_after(now) for state in self._reconciler.known.values() if self.leads)
        return min((due for due in coming if due is not None), default=None)

    @property
    def problem(self) -> str | None:
        """Why this scheduler can neither lead nor stand by, and what to do; None: as far as is known, it can."""
        if self._mesh.problem is not None:
            return self._mesh.problem
        for failure in (self._no_configuration, self._no_leader, self._no_supply):
            if failure.reason is not None:
                return f"{failure.cannot}: {failure.reason}"
        return None

    @property
    def clock_ahead(self) -> timedelta | None:
        """How far the clock of its machine is ahead of the server's; negative: behind. None: that is not known."""
        return self._clock.ahead

    def why_stuck(self) -> str | None:
        """Why only a restart of the process helps; None if it needs none."""
        return self._vos.why_stuck(self._configuration.current)

    def stop(self) -> None:
        """End `run` in order: finish the round in progress, within `STOP_SECONDS`, and give up the leadership."""
        if self._stop_limit is not None and not self._stopping:
            self._stop_limit.reschedule(asyncio.get_running_loop().time() + STOP_SECONDS)
        self._stopping = True
        self._wake()

    def stop_now(self) -> None:
        """End `run` at once: break off the round in progress, and give up the leadership."""
        self.stop()
        if self._stop_limit is not None and not self._stop_limit.expired():
            self._stop_limit.reschedule(asyncio.get_running_loop().time())

    def _background_ended(self, error: BackgroundEndedError) -> None:
        self.stop()

    def _wake(self) -> None:
        self._wake_event.set()

    async def run(self) -> None:
        """Lead or stand by until stopped.

        Raises:
            BackgroundEndedError: The renewal of the leader lock, or the configuration follower, has ended. The
                leadership was given up.
        """
        following, mesh = self._configuration.run(), self._mesh.run()
        async with self._locks, in_background(self._background_ended, configuration_follower=following, mesh=mesh):
            try:
                async with asyncio.timeout(None) as self._stop_limit:
                    await self._take_part()
            except TimeoutError:
                if self._stop_limit is None or not self._stop_limit.expired():
                    raise
                logger.warning("the round in progress was broken off, since it did not end after the stop")
            finally:
                self._stop_limit = None

    async def _take_part(self) -> None:
        while not self._stopping:
            try:
                if not self._configured:
                    await self._configuration.refresh()
                    self._configured = True
                    self._no_configuration.succeeded()
                await self._try_to_lead()
            except UnableToAcquireLockError as error:
                logger.debug("standing by: %s", error)
                self._no_leader.succeeded()
            except ServerError as error:
                (self._no_leader if self._configured else self._no_configuration).failed(str(error))
            await self._pause(POLL_INTERVAL.total_seconds())

    async def _try_to_lead(self) -> None:
        lost = asyncio.Event()

        def lose() -> None:
            lost.set()
            self._wake()

        owner = LockOwner.new(task="scheduler", id=self.id, worker=self.id, since=self._now())
        async with self._locks.hold([self._leader_lock], owner, lose):
            self.leads = True
            self._no_leader.succeeded()
            logger.info("%s is the leader", self.id)
            try:
                await self._lead(lost)
            finally:
                self.leads = False
                self._no_supply.forget()
                logger.info("%s is no longer the leader", self.id)

    async def _lead(self, lost: asyncio.Event) -> None:
        loaded, look_at = False, 0.0
        while not self._stopping and not lost.is_set():
            pause = _TICK_SECONDS
            try:
                if not loaded:
                    await self._reconciler.load()
                    self._instance_inputs = None
                    loaded, look_at = True, boottime() + LOOK_SECONDS
                elif boottime() >= look_at:
                    look_at = boottime() + LOOK_SECONDS
                    if await self._states_are_gone():
                        loaded = False
                        continue
                published = await self._advance()
                self._no_supply.succeeded()
                if published:
                    continue
            except RevisionConflictError as error:
                logger.info(
                    "the state of %s is read again: another scheduler has written it, or an occurrence fell due first",
                    error,
                )
            except ServerError as error:
                self._no_supply.failed(str(error))
                pause = _BACKOFF_SECONDS
            await self._pause(pause)

    async def _states_are_gone(self) -> bool:
        """Whether states that this scheduler has read or written are not stored any more, and the server holds no
        occurrence of their schedules either. Without this look they would begin anew only when the next is due."""
        if not (gone := await self._store.missing(self._reconciler.known)):
            return False
        some = ", ".join(map(str, gone[:MAX_NAMED])) + (", ..." if len(gone) > MAX_NAMED else "")
        logger.warning("the states of %d schedules are gone, and these begin anew: %s", len(gone), some)
        return True

    async def _advance(self) -> bool:
        """Supply the due schedules; return whether anything was published, since there may then be more to publish."""
        configuration = self._configuration.current
        self._vos.refresh(configuration)
        instances = self._all_instances(configuration, self._vos.current(configuration))
        await self._reconciler.forget_gone(instances, self._has_task)
        due = self._reconciler.due(instances)
        if not due:
            return False
        published = await self._reconciler.advance(due)
        self.published += published
        return published > 0

    def _has_task(self, key: ScheduleKey) -> bool:
        return has_task(self._registry, key)

    def _all_instances(self, configuration: Configuration, vos: tuple[str, ...] | None) -> list[Instance]:
        """The instances that should be scheduled, and those to end because their VO or entry was removed."""
        if self._instance_inputs != (configuration, vos):
            wanted = instances_of(self._registry, configuration, vos or ())
            unmakeable = {key: each.disabled_reason for key, each in wanted.items() if not each.body}
            for key, reason in unmakeable.items() - self._unmakeable.items():
                logger.error("%s is not scheduled: %s", key, reason)
            self._unmakeable = unmakeable
            if vos == ():
                self._warn_of_no_vo()
            known = self._reconciler.known
            removed = removed_instances(self._registry, known, wanted, vos_known=vos is not None)
            self._instances = [*wanted.values(), *removed]
            self._instance_inputs = (configuration, vos)
        return self._instances

    def _warn_of_no_vo(self) -> None:
        per_vo = [task.name for task in self._registry if issubclass(task.task_class, PeriodicVoAwareBaseTask)]
        if per_vo:
            logger.warning(
                "not scheduled, since no VO is known: %s; write `vos:` in the configuration, or give --vo NAME",
                ", ".join(per_vo),
            )

    async def _pause(self, seconds: float) -> None:
        if self._stopping:
            return
        try:
            await wait_for_event(self._wake_event, seconds)
        finally:
            self._wake_event.clear()
