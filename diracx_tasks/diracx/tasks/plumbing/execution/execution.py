"""One execution of a task: the only one that cancels the task's code, and that knows why.

Whoever wants to end an execution (a stop, a lapsed lease, a lost lock, a timeout) gives it a `Cancellation`. Whatever
else leaves the code of the task is the task's own failure: also a cancellation of itself or of a child, SystemExit,
KeyboardInterrupt, and any other BaseException. Nothing is concluded from `asyncio.Task.cancelling()`: a failed
TaskGroup leaves it above 0 in Python 3.11 and 3.12, and the code may cancel its own asyncio task.

    waiting --begin--> running --close--> closed
       | cancel           | cancel           | cancel
       is only noted      cancels the code   comes too late

* The first cancellation is the reason. A lapsed lease or a lost lock replaces any other: they void the outcome.
* Code that does not end is cancelled again every `INSIST_SECONDS`: it may have swallowed the first cancellation. After
  `OVERRUN_SECONDS` the execution gives up: it has ended, its locks stay held, and the process ends in order.
* Calls in threads that the code made through its loop's executor (`asyncio.to_thread`) are known. No cancellation ends
  them. What still runs when the code has ended is named in the log, and the locks are held until it has ended.
* The asyncio task that drives an execution may be cancelled by the code that it ran, at any later time. So after the
  code has ended it awaits nothing that a cancellation could break: see `background.uncancelled`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread
import logging
import math
import types
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeAlias, cast

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import LoopHeldUpError, NotServedError
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.last_resort import LastResort
from diracx.tasks.plumbing.execution.loops import log_escape
from diracx.tasks.plumbing.execution.stacks import line_of_thread, threads_of
from diracx.tasks.plumbing.locks.keeper import HeldLocks
from diracx.tasks.plumbing.submitter import current_parent

logger = logging.getLogger("diracx.tasks.worker")

YIELD_SECONDS: Final = 1.0
"""The time that cancelled code has to give its thread back."""
INSIST_SECONDS: Final = 5.0
"""Code that has not ended this long after it was cancelled is cancelled again."""
MAX_LATE_SECONDS: Final = 0.25
"""A timeout that comes later than that, because others held up the loop, is postponed."""
OVERRUN_SECONDS: Final = 60.0
"""What still runs this long after it was cancelled ends its process."""


End: TypeAlias = tuple[Any, BaseException | None]
"""The value of code that has ended, or what it raised."""

_NO_CALLS: Final[frozenset[Any]] = frozenset()

# One variable for both names, since each costs every execution: whoever spawns a group knows no `Execution`.
current_execution = cast("ContextVar[Execution | None]", current_parent)
"""The execution whose code runs in this context."""


class Execution:
    """One execution of a task.

    Args:
        name: Returns the name of the task and its id, for the log.
        owner: The asyncio task of whoever executes tasks. When it is cancelled, a cancellation that nobody explains
            comes from the end of the event loop, and is no failure of the task.
        last_resort: Ends the process when the code keeps a thread.
    """

    __slots__ = (
        "_blocked_timer",
        "_closed",
        "_code_ended",
        "_code_runs",
        "_due",
        "_ended",
        "_gave_up",
        "_last_resort",
        "_nothing_runs",
        "_owner",
        "_timeout_seconds",
        "_timers",
        "cancel_code",
        "cancellation",
        "cancelled_at",
        "code_returned",
        "groups",
        "held",
        "in_child",
        "name",
        "only_acked",
        "refusal",
        "task",
        "thread",
        "threads",
        "yielded",
    )

    def __init__(
        self,
        name: Callable[[], str] = lambda: "the task",
        owner: asyncio.Task[Any] | None = None,
        last_resort: LastResort | None = None,
    ) -> None:
        self.name = name
        self.cancellation: Cancellation | None = None
        self.cancelled_at: float | None = None
        """When it was first cancelled, on the clock; None: it was not."""
        self.refusal: NotServedError | None = None
        """Why its code has not begun although it was told to, through no fault of the task."""
        self.task: asyncio.Task[Any] | None = None
        """The asyncio task that drives the execution; None before `begin`."""
        self.cancel_code: Callable[[], object] | None = None
        """Cancels the code where it runs on another thread; None: it runs in `task`."""
        self.thread: int | None = None
        """The identifier of the thread that the code has for itself; None: it shares the event loop."""
        self.code_returned = False
        """Whether code that does not run in `task` itself has ended; `task` may not know it yet."""
        self.yielded = True
        """Whether that thread has returned to its loop since the code was cancelled."""
        self.threads: set[concurrent.futures.Future[Any]] | frozenset[Any] = _NO_CALLS
        """The calls in threads that the code has made, and that have not ended."""
        self.in_child: Callable[[Execution, BaseException | None], object] | None = None
        """Ends this process, a child that the code has forked, when it leaves the code. See `forks`."""
        self.held: HeldLocks | None = None  # its locks, while it has any
        self.groups, self.only_acked = 0, False
        """The latter: whether an ack is all that follows a success, so that it need not wait for released locks."""
        self._owner, self._last_resort = owner, last_resort
        self._timeout_seconds = self._due = math.inf
        """The latter: when the timeout falls due."""
        self._blocked_timer = False
        """Whether a step of the code blocked the loop in the moment in which its timeout fell due."""
        self._closed = self._code_runs = self._code_ended = self._gave_up = False
        self._timers: Sequence[asyncio.TimerHandle] = ()
        self._ended: asyncio.Future[Any] | None = None
        """The end of the code, where it does not run in `task` itself."""
        self._nothing_runs: asyncio.Future[None] | None = None
        """What `nothing_runs` waits for."""

    @property
    def code_runs(self) -> bool:
        """Whether its code has begun and not ended."""
        return self._code_runs

    @property
    def runs_on(self) -> bool:
        """Whether something of it still runs although it has ended. Then its locks must stay held."""
        return self._code_ended and (bool(self.threads) or self._gave_up)

    @property
    def code_ended(self) -> bool:
        """Whether its code has ended, or was given up."""
        return self._code_ended

    @property
    def code_given_up(self) -> bool:
        """Whether its code still runs although it has ended."""
        return self._gave_up

    def begin(self, task: asyncio.Task[Any] | None = None) -> bool:
        """Begin in the asyncio task that drives it, the current one. False: it was cancelled or closed before.

        An asyncio task that is cancelled before its first step never enters its coroutine, so nothing would nak the
        message and free the slot. That is why a cancellation that comes earlier is only noted.
        """
        self.task = asyncio.current_task() if task is None else task
        return self.cancellation is None and not self._closed

    def close(self) -> None:
        """The outcome is known: it is too late to cancel."""
        self._closed = True
        self.task = None  # its context refers to this object, and a cycle would cost the garbage collector

    def cancel(self, cancellation: Cancellation) -> None:
        """End the execution. Call it on the event loop of `task`."""
        before = self.cancellation
        if self.runs_on and cancellation.cause is Cause.LOCK_LOST and self._last_resort is not None:
            self._last_resort.end_now(f"{self.name()} has ended, but something of it still runs, and lost a lock")
        if self._closed:
            return
        if self.cancelled_at is None:
            self.cancelled_at = boottime()
        if before is None or (cancellation.voids and not before.voids):
            self.cancellation = cancellation
        elif before.cause is not Cause.HELD_UP:  # whose code was not cancelled
            return
        if self.task is not None:
            self._cancel()
            self._after(YIELD_SECONDS, self._say_what_runs_on)
            self._after(OVERRUN_SECONDS, self._give_up)

    def holds_up(self, seconds: float, lease_seconds: float) -> None:
        """Its code has held up the event loop for `seconds`, and still does. Call it on another thread."""
        known = self.cancellation
        if seconds > lease_seconds and (known is None or known.cause is Cause.HELD_UP):
            error = LoopHeldUpError(seconds)
            self.cancellation = Cancellation(Cause.HELD_UP, str(error), error)

    def retire_worker(self, reason: str) -> None:
        """End the worker in order: too much of what tasks left behind still runs."""
        if self._last_resort is not None:
            self._last_resort.retire(reason)

    def explain(self, error: BaseException | None) -> Cancellation | None:
        """The reason for which the execution ended with `error`; None: the task itself is the reason."""
        ends = isinstance(error, asyncio.CancelledError) and self._owner is not None and self._owner.cancelling()
        if ends and self.cancellation is None:
            self.cancellation = Cancellation(Cause.STOP, "the event loop ends")
        return self.cancellation

    def escaped(self, error: BaseException) -> None:
        """A child or callback of the task raised `error`, which would have ended its event loop. Call it on any thread
        whose loop does not run code of this execution at the moment."""
        if not self._code_runs or self.code_returned or self.task is None:
            log_escape(error, None)
            return
        cancellation = Cancellation(Cause.ESCAPED, "its code tried to end the event loop", error)
        self.task.get_loop().call_soon_threadsafe(self.cancel, cancellation)

    async def run(self, code: Awaitable[Any], timeout_seconds: float | None) -> End:
        """Await the end of the code of the task.

        Args:
            timeout_seconds: Cancel the code after this time; None: never.

        Returns:
            The value of the code and None, or None and what the code raised.
        """
        current_execution.set(self)
        self._code_runs = True
        if timeout_seconds is not None:
            self._timeout_seconds = timeout_seconds
            self._due = asyncio.get_running_loop().time() + timeout_seconds
            self._at(self._due, self._time_out, timeout_seconds)
        error: BaseException | None = None
        value = None
        try:
            value = await code
        except BaseException as raised:
            error = raised
        if self.in_child is not None:
            self.in_child(self, error)
        try:
            self._code_runs, self._code_ended = False, True
            for timer in self._timers:
                timer.cancel()
            if timeout_seconds is not None and self._blocked_timer and self.cancellation is None:
                self.cancellation = _timeout(timeout_seconds)
            if self.threads:
                self._after(YIELD_SECONDS, self._say_what_runs_on)
                if self.cancellation is not None:
                    self._after(OVERRUN_SECONDS, self._give_up)
            return value, error
        finally:
            del error  # a frame that refers to its own exception is a cycle, and would keep the task's objects alive

    async def nothing_runs(self) -> None:
        """Wait until nothing of it runs any more."""
        while self.runs_on:
            self._nothing_runs = asyncio.get_running_loop().create_future()
            self._look()  # the last call may have ended before there was a future to tell
            await self._nothing_runs

    def code_left(self) -> None:
        """The code has ended after the execution gave it up."""
        self._gave_up = False
        self._look()

    def made_call(self, call: concurrent.futures.Future[Any]) -> None:
        """The code has made a call in a thread."""
        if not isinstance(self.threads, set):
            self.threads = set()  # only now: most executions make none, and it costs the garbage collector
        self.threads.add(call)
        call.add_done_callback(self._call_ended)

    def _call_ended(self, call: concurrent.futures.Future[Any]) -> None:
        # On the thread of the call.
        if self.in_child is not None:
            self.in_child(self, None)
        assert isinstance(self.threads, set)
        self.threads.discard(call)
        if not self.threads and self._nothing_runs is not None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._nothing_runs.get_loop().call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if not (self.runs_on or self._nothing_runs is None or self._nothing_runs.done()):
            self._nothing_runs.set_result(None)

    @types.coroutine
    def in_steps(self, code: Awaitable[Any]) -> Generator[Any, Any, Any]:
        """Await `code`, and notice when its steps block the loop for all of its time, or while its timeout falls due:
        then the timer can only fire after the code has ended, or too late."""
        clock = asyncio.get_running_loop().time
        steps, stepped = code.__await__(), 0.0
        step: Callable[[], Any] = partial(next, steps)
        while True:
            begun = clock()
            try:
                awaited = step()
            except StopIteration as stop:
                return stop.value
            finally:
                now = clock()
                stepped += now - begun
                if begun < self._due <= now or stepped >= self._timeout_seconds:
                    self._blocked_timer = True
            try:
                yield awaited
                step = partial(next, steps)
            except BaseException as error:
                step = partial(steps.throw, error)

    async def outlast(self, ended: asyncio.Future[Any]) -> Any:
        """Await the end of something that no cancellation of this asyncio task ends. Returns its result, or None if the
        execution gives up before."""
        self._ended = ended
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError as error:
                if not ended.done() and self.cancellation is None and self.explain(error) is not None:
                    self._cancel()
        return ended.result()

    def _cancel(self) -> None:
        # Where the code was never run, nothing but `close` or the end of the asyncio task says that it is over.
        if self._code_ended or self._closed or self.task is None or self.task.done():
            return
        if self.cancel_code is not None:
            self.cancel_code()
        else:
            asyncio.Task.cancel(self.task)  # whoever's context this is, see `shared_loop`
        self._after(INSIST_SECONDS, self._cancel)

    def _time_out(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if (late := now - self._due) > MAX_LATE_SECONDS and not self._blocked_timer:
            # The loop was held up, and not by this task: it has not had its time.
            self._due = now + min(late, seconds)
            self._at(self._due, self._time_out, seconds)
            return
        self.cancel(_timeout(seconds))

    def _say_what_runs_on(self) -> None:
        blocked = [self.thread] if self.thread is not None and self._code_runs and not self.yielded else []
        threads = [*blocked, *threads_of(self.threads)]
        if not threads:
            return
        places = " and ".join(map(line_of_thread, threads))
        cancelled = self.cancellation
        why = "its code has ended" if cancelled is None else f"it was cancelled ({cancelled.reason})"
        # A thread that the task has for itself must be left in time. Of others only a lost lock demands it: without
        # one, a second execution beside the thread is what "at least once" promises.
        must_end = cancelled is not None and cancelled.voids and (blocked or cancelled.cause is Cause.LOCK_LOST)
        if must_end and self._last_resort is not None:
            self._last_resort.end_now(f"{self.name()}: {why}, but it still runs {places}")
            return
        logger.warning("%s: %s, but it still runs %s; it keeps its locks until then", self.name(), why, places)

    def _give_up(self) -> None:
        if not (self._code_runs or self.threads):
            return
        if self._ended is not None and not self._ended.done():
            self._gave_up = True
            self._ended.set_result(None)
        self.retire_worker(f"{self.name()} still runs {OVERRUN_SECONDS:g} s after it was cancelled")

    def _at(self, when: float, callback: Callable[..., object], *arguments: object) -> None:
        self._timers = [*self._timers, asyncio.get_running_loop().call_at(when, callback, *arguments)]

    def _after(self, seconds: float, callback: Callable[..., object], *arguments: object) -> None:
        self._at(asyncio.get_running_loop().time() + seconds, callback, *arguments)


def _timeout(seconds: float) -> Cancellation:
    text = f"ran longer than timeout_seconds={seconds:g}"
    return Cancellation(Cause.TIMEOUT, text, TimeoutError(text))
