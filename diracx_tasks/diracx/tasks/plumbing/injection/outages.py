"""What a worker does about resources that cannot be opened: it stops the tasks that need them, and tries again.

    opening ---> open -----------------> closed
       | fails    ^                        ^
       v          | opens                  | the loop ends
      down -------+------------------------+

* Each event loop that executes tasks opens its own engines and clients (`KeptOpen`). One asyncio task for each resource
  enters its context, and leaves it when the loop ends.
* A resource that is down is tried again after 5, 10, 20, 40, 60, 60... seconds, and at once when it opens on another
  loop. A variable that is not set is not tried again: only another start of the worker can set it.
* A task is *not served* while a resource that it needs is down on some loop and open on none (`Outages`). Its messages
  are given back uncounted, with a delay, and another worker may execute them.
* Where a resource is open on some loops only, a loop that lacks it refuses the tasks that need it, see
  `execution/thread.py`.
* A loop that a task blocks cannot try again. When it is late, what it knows counts no more: the next task that needs
  the resource tries it on another thread.
* The messages of one task come back in batches, one a second, so that many of them leave the worker and the server time
  for other tasks. With 20,000 of them waiting, batches of 200 cost the worker 3 % of a core, and the server 4 %; the
  same number, one by one, 16 % and 33 %.

The log has a line when a task stops being served, and one when it is served again. The messages that are given back
meanwhile have a line a minute for each task.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import random
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any, Final

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import NotServedError, ResourceError
from diracx.tasks.plumbing.injection.resource import Resource, one_line

logger = logging.getLogger("diracx.tasks.worker")

TaskClass = type[BaseTask]

FIRST_RETRY_SECONDS: Final = 5.0
MAX_RETRY_SECONDS: Final = 60.0
SLOW_SECONDS: Final = 10.0
"""A resource that takes longer to open than this counts as down until it has opened."""
MIN_DELAY_SECONDS: Final = 5.0
MAX_DELAY_SECONDS: Final = 30.0
"""A message is given back for as long as the outage has lasted, within these two, give or take a quarter; for longer
where many wait."""
BATCH_SIZE: Final = 200
"""The number of messages of one task that come back together, at each full second of the clock."""
MAX_SPACED_SECONDS: Final = 120.0
"""Batches delay no message for longer; where more wait, they are larger. A worker that lacks what others have must not
keep their messages for long."""
LOG_INTERVAL_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 5.0
"""The time that the resources of a loop have to close."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Why a resource is not open on an event loop."""

    problem: str
    """The resource and the cause, in one line."""
    since: float
    """When it was first found down, on the clock."""
    lasting: bool
    """Whether only another start of the process can end it."""


class _Level(IntEnum):
    """How much of the process has a resource."""

    OPEN = 0
    OPEN_ON_SOME_LOOPS = 1
    DOWN = 2


class Outages:
    """The tasks that this process does not serve, and why. Any event loop may ask.

    Args:
        clock: Measures how long an outage lasts.
    """

    def __init__(self, clock: Clock = boottime) -> None:
        self.any = False
        """Whether any resource is down on any loop."""
        self._clock = clock
        self._lock = threading.Lock()
        """Guards all that follows."""
        self._tasks: dict[TaskClass, tuple[str, frozenset[Resource[Any]]]] = {}
        self._keepers: dict[Resource[Any], list[_Keeper]] = {}
        self._levels: dict[Resource[Any], _Level] = {}
        self._quiet_until: dict[TaskClass, float] = {}
        self._last_due: dict[TaskClass, float] = {}
        """When the last message of a task that was given back would return without batches, on the clock."""
        self._idle = False
        """No task at all is served, and the log says so."""

    def add(self, task_class: TaskClass, name: str, resources: Iterable[Resource[Any]]) -> None:
        """Learn which resources a task needs."""
        with self._lock:
            self._tasks[task_class] = name, frozenset(resources)

    def needs(self, task_class: TaskClass) -> frozenset[Resource[Any]]:
        """The resources that a task needs."""
        with self._lock:
            return self._tasks.get(task_class, ("", frozenset()))[1]

    @property
    def not_served(self) -> dict[str, str]:
        """The cause, by the name of each task that is not served."""
        with self._lock:
            outages = {name: self._outage(needs) for name, needs in self._tasks.values()}
        return {name: outage.problem for name, outage in sorted(outages.items()) if outage is not None}

    @property
    def why_idle(self) -> str | None:
        """Why no task at all is served; None: some task is, or none is known."""
        not_served = self.not_served
        if not not_served or len(not_served) < len(self._tasks):
            return None
        return f"no task is served: {'; '.join(sorted(set(not_served.values())))}"

    def refusal(self, task_class: TaskClass) -> NotServedError | None:
        """Why a task cannot execute on any loop of this process now; None: it can, or nobody has tried yet."""
        with self._lock:
            outage = self._outage(self._tasks.get(task_class, ("", frozenset()))[1])
        return None if outage is None else self.refuse_for(task_class, outage)

    def refuse(
        self, task_class: TaskClass, reason: str, delay: timedelta = timedelta(seconds=MIN_DELAY_SECONDS)
    ) -> NotServedError:
        """Make the error for one delivery of a task. It asks for a line in the log once a minute for each task."""
        now = self._clock()
        with self._lock:
            quiet = now < self._quiet_until.get(task_class, now)
            if not quiet:
                self._quiet_until[task_class] = now + LOG_INTERVAL_SECONDS
            spaced = min(self._last_due.get(task_class, now) + 1 / BATCH_SIZE, now + MAX_SPACED_SECONDS)
            due = max(now + delay.total_seconds() * random.uniform(0.75, 1.25), spaced)
            self._last_due[task_class] = due
        return NotServedError(reason, timedelta(seconds=math.ceil(due) - now), quiet=quiet)

    def refuse_for(self, task_class: TaskClass, outage: Outage) -> NotServedError:
        """Make the error for one delivery of a task that needs what is down."""
        lasted = self._clock() - outage.since
        delay = timedelta(seconds=min(max(lasted, MIN_DELAY_SECONDS), MAX_DELAY_SECONDS))
        return self.refuse(task_class, outage.problem, delay)

    def _outage(self, needs: Iterable[Resource[Any]]) -> Outage | None:
        for resource in sorted(needs, key=lambda resource: resource.name):
            if self._levels.get(resource) is _Level.DOWN:
                found = [k.outage for k in self._keepers[resource] if k.outage and not k.is_stalled]
                if found:
                    return min(found, key=lambda outage: outage.since)
        return None

    def attach(self, keeper: _Keeper) -> None:
        """A loop begins to open a resource."""
        with self._lock:
            self._keepers.setdefault(keeper.resource, []).append(keeper)

    def detach(self, keeper: _Keeper) -> None:
        """A loop has ended."""
        with self._lock:
            if keeper in self._keepers[keeper.resource]:
                self._keepers[keeper.resource].remove(keeper)
                self._assess(keeper.resource)

    def set_down(self, keeper: _Keeper, problem: str, *, lasting: bool = False) -> None:
        """A resource could not be opened on a loop."""
        with self._lock:
            since = self._clock() if keeper.outage is None else keeper.outage.since
            keeper.outage = Outage(problem, since, lasting)
            before, now = self._assess(keeper.resource)
        if now is before:
            logger.debug("still down: %s", problem)
            return
        names = self._names(keeper.resource)
        ending = (
            "; then start this worker again" if lasting else "; it is tried again, first after 5 s, then once a minute"
        )
        if now is _Level.DOWN:
            logger.error("not served: %s: %s%s", names, problem, ending)
        else:
            logger.warning("not served on one of the threads: %s: %s%s", names, problem, ending)
        was_idle, self._idle = self._idle, (idle := self.why_idle) is not None
        if self._idle and not was_idle:
            logger.critical("this worker has nothing to do: %s", idle)

    def set_open(self, keeper: _Keeper) -> None:
        """A resource is open on a loop."""
        with self._lock:
            keeper.outage, keeper.is_open = None, True
            before, now = self._assess(keeper.resource)
            others = [each for each in self._keepers[keeper.resource] if each.outage is not None]
        if now < before:
            logger.info("served again: %s: %s is open", self._names(keeper.resource), keeper.resource.name)
            self._idle = self.why_idle is not None
        for each in others:
            each.retry()

    def _assess(self, resource: Resource[Any]) -> tuple[_Level, _Level]:
        """Return how much of the process had the resource, and how much has it now."""
        keepers, before = self._keepers[resource], self._levels.get(resource, _Level.OPEN)
        now = _Level.OPEN
        if any(keeper.outage for keeper in keepers):
            now = _Level.OPEN_ON_SOME_LOOPS if any(keeper.is_open for keeper in keepers) else _Level.DOWN
        self._levels[resource] = now
        self.any = any(self._levels.values())
        return before, now

    def _names(self, resource: Resource[Any]) -> str:
        with self._lock:
            return ", ".join(sorted(name for name, needs in self._tasks.values() if resource in needs))


class _Keeper:
    """Keeps one resource open on one event loop. `outage` and `is_open` are written under the lock of `Outages`."""

    def __init__(self, resource: Resource[Any], outages: Outages) -> None:
        self.resource = resource
        self.outage: Outage | None = None
        self.is_open = False
        self.tried: concurrent.futures.Future[None] = concurrent.futures.Future()
        """Done once it is open or down."""
        self._outages = outages
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._ending = False
        self._next_try = math.inf
        """When it is tried again, on the clock of the loop; infinite while it is tried."""
        self._task: asyncio.Task[None] | None = None
        self._slow = self._loop.call_later(SLOW_SECONDS, self._note_slow)

    @property
    def is_stalled(self) -> bool:
        """Whether another loop than this one is late with the next try: a task blocks it."""
        late = self._loop.time() - self._next_try
        return late > SLOW_SECONDS and self._loop is not asyncio.get_running_loop()

    def start(self) -> asyncio.Task[None]:
        """Begin to open it."""
        self._outages.attach(self)
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.resource.name} open")
        return self._task

    def retry(self) -> None:
        """Try again at once, if it is down; on any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def end(self) -> None:
        """Close it. Opening is broken off."""
        self._ending = True
        self._slow.cancel()
        self._wake.set()
        if self._task is not None and not self.is_open:
            self._task.cancel()

    async def _keep(self) -> None:
        seconds = FIRST_RETRY_SECONDS
        while not await self._open_once():
            if self.outage is not None and self.outage.lasting:
                return
            self._wake.clear()
            pause = seconds * random.uniform(0.9, 1.1)
            self._next_try = self._loop.time() + pause
            await wait_for_event(self._wake, pause)
            self._next_try = math.inf
            seconds = min(2 * seconds, MAX_RETRY_SECONDS)

    async def _open_once(self) -> bool:
        """Open the resource and keep it open to the end. Returns False if it cannot be opened."""
        try:
            if unset := self.resource.unset():
                self._down(f"{self.resource.name}: {'; '.join(unset)}", lasting=True)
                return False
            async with self.resource.opened():
                self._outages.set_open(self)
                self._tried()
                while not self._ending:
                    self._wake.clear()
                    await self._wake.wait()
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self._is_cancelled():
                raise
            # Otherwise it is the code of an author or of a client, which may raise these, too.
            if self.is_open:
                logger.warning("%s did not close in order: %s", self.resource.name, one_line(error))
                return True
            known = isinstance(error, ResourceError)
            self._down(str(error) if known else f"{self.resource.name}: {one_line(error)}")
            return False
        return True

    def _is_cancelled(self) -> bool:
        return self._ending or (self._task is not None and self._task.cancelling() > 0)

    def _note_slow(self) -> None:
        self._down(f"{self.resource.name}: it has not opened for {SLOW_SECONDS:g} s")

    def _down(self, problem: str, *, lasting: bool = False) -> None:
        self._outages.set_down(self, problem, lasting=lasting)
        self._tried()

    def _tried(self) -> None:
        self._slow.cancel()
        if not self.tried.done():
            self.tried.set_result(None)


class KeptOpen:
    """The resources of one event loop, each opened on its own and tried again while it is down."""

    def __init__(self, resources: Sequence[Resource[Any]], outages: Outages) -> None:
        self._outages = outages
        self._keepers = {resource: _Keeper(resource, outages) for resource in resources}

    async def tried(self, task_class: TaskClass | None = None) -> None:
        """Wait until the resources of a task, or all, are open or down: for `SLOW_SECONDS` at the most; on any loop."""
        needed = self._keepers if task_class is None else self._outages.needs(task_class) & self._keepers.keys()
        waiting = [tried for resource in needed if not (tried := self._keepers[resource].tried).done()]
        if waiting:  # `wait` leaves the futures alone when it is cancelled, and ends also if the other loop is closed
            await asyncio.wait(map(asyncio.wrap_future, waiting), timeout=SLOW_SECONDS)

    def has(self, task_class: TaskClass) -> bool:
        """Whether nothing that a task needs is down on this loop. On any thread."""
        return self._outage(task_class) is None

    def refusal(self, task_class: TaskClass) -> NotServedError | None:
        """Why a task cannot execute on this loop; None: it can. On any thread."""
        outage = self._outage(task_class)
        return None if outage is None else self._outages.refuse_for(task_class, outage)

    def _outage(self, task_class: TaskClass) -> Outage | None:
        if not self._outages.any:
            return None
        keepers = (self._keepers.get(resource) for resource in self._outages.needs(task_class))
        return next((keeper.outage for keeper in keepers if keeper is not None and keeper.outage is not None), None)

    async def _close(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        # It makes no asyncio task: the code of a task may have replaced the loop's task factory.
        for keeper in self._keepers.values():
            keeper.end()
        try:
            if pending := [task for task in tasks if not task.done()]:
                await asyncio.wait(pending, timeout=CLOSE_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            self.forget()

    def forget(self) -> None:
        """The loop has ended: what was down or open there counts no more. On any thread, and any number of times."""
        for keeper in self._keepers.values():
            self._outages.detach(keeper)

    @classmethod
    @asynccontextmanager
    async def on_this_loop(cls, resources: Sequence[Resource[Any]], outages: Outages) -> AsyncIterator[KeptOpen]:
        """Open resources for this event loop and the block. One that cannot be opened is down, which is no error."""
        here = cls(resources, outages)
        tasks = [keeper.start() for keeper in here._keepers.values()]
        try:
            yield here
        except GeneratorExit:  # code on the loop has closed it: nothing can be awaited there any more
            raise
        except BaseException:
            await here._close(tasks)
            raise
        await here._close(tasks)
