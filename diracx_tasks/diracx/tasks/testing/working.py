"""One call of `Mesh.work`: bursts of workers, and when there is nothing more to wait for.

A burst of one size executes what is due, and ends when nothing is due and nothing executes. The call repeats the bursts
of all sizes, since a task of one size may submit a task of another. It ends when a whole round has ended no task, and
each task that is left waits for something else than the tasks of this mesh:

    Retry          for its time
    LockBusy       for somebody else
    Held           for another configuration
    Interrupted    e.g. for a worker that knows the task

What a group of the mesh is about to bring is waited for: its callback, once all children have ended, and children that
a worker stores.

A refused task (`LockBusy`, `Held`) is asked for again in each call, and once more after the last task of the mesh has
ended, which may have held the lock. So a test can release a lock and call again. A task that waits for a time, by its
rate limiter or its own `lock_retry_delay`, is not waited for.

Tasks that go on for ever, one after another or one alone, end the call with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from diracx.tasks.plumbing.execution.job import Held, Interrupted, LockBusy, Outcome, Retry
from diracx.tasks.plumbing.worker import Worker

_POLL_SECONDS: Final = 0.05
MAX_LISTED: Final = 10
"""How many deliveries a text lists."""
_WAITS: Final = (LockBusy, Held, Interrupted)
"""Outcomes of deliveries that executed nothing, or not to the end."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The outcome of one delivery to a worker of the mesh."""

    task: str
    """The name of the task, `<category>:<ClassName>`."""
    id: str
    outcome: Outcome

    @property
    def wait(self) -> str | None:
        """What the task waits for after this delivery, for people; None: it has ended."""
        match self.outcome:
            case Retry(at=at, failure=failure):
                why = f"waits for its retry at {at.isoformat()}, after {failure.type}: {failure.message}"
            case LockBusy(error=error):
                why = f"waits for its lock: {error}"
            case Held(path=path):
                why = f"is held by {path}: false"
            case Interrupted(reason=reason):
                why = f"was given back: {reason}"
            case _:
                return None
        return f"{self.task} {self.id} {why}"


class Work:
    """One call of `Mesh.work`.

    Args:
        limit: The number of executions that may end in the call.
        timeout: The time that the call may take, in seconds.
        refused: Earlier deliveries of tasks that are to be asked for again in this call.
    """

    def __init__(self, limit: int, timeout: float, refused: Iterable[Delivered] = ()) -> None:
        self._limit = limit
        self._unasked = {(each.task, each.id): each for each in refused}
        self._timeout = timeout
        self._all: list[Delivered] = []
        self._ended = 0
        """The number of deliveries so far that were no mere wait."""
        self._latest: dict[tuple[str, str], tuple[int, int]] = {}
        """The position of the latest delivery of each task, and `_ended` at that time."""
        self._worker: Worker | None = None
        self._endless: str | None = None
        """Why the call has to end with an error; None: it has not."""

    async def run(
        self, bursts: Sequence[Callable[[], Awaitable[object]]], groups_move: Callable[[], Awaitable[bool]]
    ) -> list[Delivered]:
        """Repeat the bursts until nothing is left to wait for, and return the deliveries.

        A wait that was over before the end of the call is left out.

        Args:
            groups_move: Whether something of a group falls due in a moment.

        Raises:
            AssertionError: The time or the limit is over.
        """
        timer = asyncio.get_running_loop().call_later(self._timeout, self._time_is_over)
        try:
            while self._endless is None:
                ended = self._ended
                for burst in bursts:
                    await burst()
                if self._endless is None and ended == self._ended:
                    if not (self._may_go_on() or await groups_move()):
                        return [each for at, each in enumerate(self._all) if not self._is_past_wait(at)]
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            timer.cancel()
        raise AssertionError(self._endless + self._unended())

    @contextmanager
    def stopping(self, worker: Worker) -> Iterator[None]:
        """Stop this worker when the time or the limit is over during the block."""
        self._worker = worker
        if self._endless is not None:
            worker.stop_now()
        try:
            yield
        finally:
            self._worker = None

    def record(self, delivered: Delivered) -> None:
        """Take note of a delivery."""
        self._ended += not isinstance(delivered.outcome, _WAITS)
        self._latest[delivered.task, delivered.id] = len(self._all), self._ended
        self._unasked.pop((delivered.task, delivered.id), None)
        self._all.append(delivered)
        if self._ended > self._limit and self._endless is None:
            names = ", ".join(dict.fromkeys(each.task for each in self._all[-MAX_LISTED:]))
            self._stop(
                f"{self._ended} executions have ended, many more than tasks waited at the beginning, the latest of "
                f"{names}: does a task submit itself for ever, or retry without a delay? If the test means it, give a "
                "higher limit="
            )

    def _time_is_over(self) -> None:
        self._stop(f"the work has not ended within {self._timeout:g} s")

    def _stop(self, why: str) -> None:
        self._endless = self._endless or why
        if self._worker is not None:
            self._worker.stop_now()

    def _may_go_on(self) -> bool:
        """Whether a task was refused before something happened that may have changed the answer."""
        refused = (self._all[position] for position, ended in self._latest.values() if ended < self._ended)
        return bool(self._unasked) or any(map(may_have_changed, refused))

    def _is_past_wait(self, position: int) -> bool:
        each = self._all[position]
        return isinstance(each.outcome, _WAITS) and self._latest[each.task, each.id][0] != position

    def _unended(self) -> str:
        latest = [*self._unasked.values(), *(self._all[position] for position, _ in self._latest.values())]
        return waits(latest)


def waits(deliveries: Iterable[Delivered]) -> str:
    """What tasks wait for, a line for each of the latest."""
    lines = [f"\n  {each.wait}" for each in deliveries if each.wait is not None]
    return "".join(lines[-MAX_LISTED:])


def may_have_changed(delivered: Delivered) -> bool:
    """Whether a refused task may run when it is asked for again, and comes back by itself before long."""
    outcome = delivered.outcome
    if isinstance(outcome, LockBusy):
        return outcome.error.pace is None and outcome.wanted_delay is None
    return isinstance(outcome, Held)
