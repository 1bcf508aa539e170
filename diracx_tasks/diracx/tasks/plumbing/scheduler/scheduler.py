"""A scheduler process: leads, or stands by until nobody does."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import ServerError, UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks import LockOwner, RevisionConflictError
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.overrides.overrides import Configuration
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import Instance, instance_without_vo, instances_of
from diracx.tasks.plumbing.scheduler.leadership import DEFAULT_TAKEOVER, POLL, LeaderLock, ttl_for
from diracx.tasks.plumbing.scheduler.reconciler import Now, ScheduleKeeper, utc_now
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.wire.names import Namespace

logger = logging.getLogger("diracx.tasks.scheduler")

_TICK: Final = 0.5
_BACKOFF: Final = 2.0


class SchedulerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one scheduler behaves; all of a mesh should be told the same."""

    takeover: timedelta = DEFAULT_TAKEOVER
    """Within which a leader that vanished is replaced."""
    horizon: timedelta | None = None
    """How far ahead the server is supplied; None: the least that is safe, or 30 s if that is longer."""

    def __post_init__(self) -> None:
        ttl_for(self.takeover)
        if self.horizon is not None and self.horizon < 2 * self.takeover:
            raise ValueError(f"the horizon must be twice the takeover time or more: {2 * self.takeover}")

    @property
    def ahead(self) -> timedelta:
        """The horizon in force."""
        return self.horizon or max(timedelta(seconds=30), 2 * self.takeover)


def scheduler_id() -> str:
    """`<host>-<pid>-scheduler`."""
    return f"{socket.gethostname()}-{os.getpid()}-scheduler"


class Scheduler:
    """Keeps the schedules of the installed periodic tasks supplied until `stop`.

    Args:
        connection: Stays open for as long as `run` runs.
        registry: The tasks that it knows; those of others are left alone.
        vos: The virtual organisations.
        now: The time, aware.
        name: How it is called in states, locks and logs; None: by host and process.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        registry: TaskRegistry,
        vos: VirtualOrganisations,
        settings: SchedulerSettings,
        *,
        now: Now = utc_now,
        name: str | None = None,
    ) -> None:
        self.id = name or scheduler_id()
        self.leads = False
        """Whether it leads at the moment."""
        self.published = 0
        """Occurrences that were published."""
        self._registry = registry
        self._now = now
        self._vos = vos
        self._lease = LeaderLock(ttl_for(settings.takeover))
        self._locks = LockKeeper(Bucket(connection, namespace.locks_bucket))
        self._store = JetStreamScheduleStore(connection, namespace)
        self._keeper = ScheduleKeeper(self._store, settings.ahead, self.id, now)
        self._configuration = ConfigurationFollower(connection, namespace)
        self._configuration.on_change(self._wake)
        self._instances: list[Instance] = []
        self._made_from: tuple[Configuration, tuple[str, ...] | None] | None = None
        self._stopping = False
        self._woken = asyncio.Event()

    @property
    def next_occurrence(self) -> datetime | None:
        """The next one of all schedules that the server holds, as far as this scheduler knows: while it leads."""
        now = self._now()
        coming = (state.next_after(now) for state in self._keeper.known.values() if self.leads)
        return min((due for due in coming if due is not None), default=None)

    def stop(self) -> None:
        """End `run` in order: what is being written is written, and the leadership is given up."""
        self._stopping = True
        self._wake()

    def stop_now(self) -> None:
        """As `stop`: there is nothing that takes longer than a request."""
        self.stop()

    def _wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Lead or stand by until stopped."""
        try:
            await self._configuration.look()
        except ServerError as error:
            logger.warning("the configuration cannot be read yet: %s", error)
        told = ""
        async with self._locks, _beside(self._configuration.run()):
            while not self._stopping:
                try:
                    await self._lead_if_nobody_does()
                    told = ""
                except UnableToAcquireLockError as error:
                    logger.debug("standing by: %s", error)
                    told = ""
                except ServerError as error:
                    level = logging.DEBUG if str(error) == told else logging.WARNING
                    logger.log(level, "cannot tell who leads: %s", error)
                    told = str(error)
                await self._pause(POLL.total_seconds())

    async def _lead_if_nobody_does(self) -> None:
        lost = asyncio.Event()

        def lose() -> None:
            lost.set()
            self._wake()

        owner = LockOwner.new(task="scheduler", id=self.id, worker=self.id)
        async with self._locks.hold([self._lease], owner, lose):
            self.leads = True
            logger.info("%s leads", self.id)
            try:
                await self._lead(lost)
            finally:
                self.leads = False
                logger.info("%s leads no more", self.id)

    async def _lead(self, lost: asyncio.Event) -> None:
        loaded = False
        while not self._stopping and not lost.is_set():
            pause = _TICK
            try:
                if not loaded:
                    await self._keeper.load()
                    self._made_from = None
                    loaded = True
                if await self._advance():
                    continue
            except RevisionConflictError as error:
                logger.info("somebody else has written the state of %s; it is read anew", error)
            except ServerError as error:
                logger.warning("schedules were not supplied, will try again: %s", error)
                pause = _BACKOFF
            await self._pause(pause)

    async def _advance(self) -> bool:
        """Supply what is due; whether anything was published, and so there may be more."""
        configuration = self._configuration.current
        await self._vos.look(configuration)
        due = self._keeper.due(self._all_instances(configuration, self._vos.now(configuration)))
        if not due:
            return False
        published = await self._keeper.advance(due)
        self.published += published
        return published > 0

    def _all_instances(self, configuration: Configuration, vos: tuple[str, ...] | None) -> list[Instance]:
        """Those that should be there, and those that were and are to be ended."""
        if self._made_from != (configuration, vos):
            wanted = instances_of(self._registry, configuration, vos or ())
            for instance in wanted.values():
                if not instance.body:
                    logger.error("%s is not scheduled: %s", instance.key, instance.why_not)
            gone = set() if vos is None else self._keeper.known.keys() - wanted.keys()
            ending = (instance_without_vo(self._registry, key) for key in gone)
            self._instances = [*wanted.values(), *filter(None, ending)]
            self._made_from = (configuration, vos)
        return self._instances

    async def _pause(self, seconds: float) -> None:
        if self._stopping:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
        finally:
            self._woken.clear()


@asynccontextmanager
async def _beside(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `coroutines` for the block; an error that ended one of them comes out at its end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
