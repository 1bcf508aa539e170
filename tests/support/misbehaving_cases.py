"""How each unruly task has to end: the names of errors in its dead letter, or its success."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from diracx.tasks.plumbing.enums import Size

SUCCEEDS = "succeeds"
REFUSED = "misbehaving_tasks.acts.Refused"


NOT_CALLED = {
    *("raises_text_that_is_no_utf8", "raises_much_text", "raises_a_cycle", "recurses", "raises_stop_async_iteration"),
    *("raises_stop_iteration", "fails_in_nested_task_groups", "handles_the_failure_of_a_task_group"),
    *("cancels_a_child_and_goes_on", "awaits_a_cancelled_future", "cancels_all_on_its_loop", "runs_another_loop"),
    *("cancels_all_on_its_loop_later", "shuts_down_the_threads_of_its_loop"),
    *("stops_its_loop_and_returns", "leaves_a_child", "leaves_a_thread_that_exits", "sleeps_in_a_task_group"),
    *("sleeps_in_a_shield", "blocks_and_waits", "refuses_when_cancelled", "handles_a_timeout_of_its_own"),
    *("awaits_a_program", "interrupts_in_a_task_group", "cancels_itself_and_fails", "interrupts_in_gather"),
    *("raises_without_a_text", "refuses_in_a_task_group", "raises_generator_exit", "awaits_a_cancelled_child"),
    *("cancels_itself_at_its_end", "exits_in_a_task_group", "leaves_a_callback_that_exits", "stops_its_loop"),
    *("closes_its_loop", "leaves_a_child_that_fails", "swallows_its_cancellation", "fails_when_cancelled"),
    *("terminates_a_spawned_child", "terminates_a_child_from_a_thread", "forks_a_child_that_awaits"),
}
"""Acts that say nothing more in a call, each of which takes a second."""


@dataclass(frozen=True)
class Case:
    """A task, and its right ends.

    Args:
        act: What it does, or which error it raises where its class says.
        ends: `SUCCEEDS`, or the type of the error of each failure. Several where each of them is right.
        task: The name of its class.
        failures: After so many it is dead.
        sizes: In which it makes sense.
    """

    act: str
    ends: tuple[str, ...]
    task: str = "Unruly"
    failures: int = 2
    sizes: tuple[Size, ...] = tuple(Size)
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Of the task, and unique in a group of cases."""
        return "-".join([self.task, self.act, *map(str, self.fields.values())])

    @property
    def called(self) -> bool:
        """Whether a test calls it, too. Not those with locks: what gives them back is the same in a worker."""
        return self.task != "Guarded" and self.act not in NOT_CALLED and self.fields.get("error") in (None, "Refused")

    @property
    def body(self) -> bytes:
        return json.dumps({"act": self.act} | self.fields).encode()


def _unruly(*acts: str, ends: str | tuple[str, ...] = SUCCEEDS, **settings: Any) -> list[Case]:
    return [Case(act, (ends,) if isinstance(ends, str) else ends, **settings) for act in acts]


def _each_error(task: str) -> list[Case]:
    names = {error: error for error in ("ValueError", "SystemExit", "KeyboardInterrupt")} | {
        "Refused": REFUSED,
        "CancelledError": "asyncio.exceptions.CancelledError",
    }
    return [Case("behaves", (name,), task, fields={"error": error}) for error, name in names.items()]


CANCELLED = "asyncio.exceptions.CancelledError"

RAISED = [
    *_unruly("behaves", "handles_the_failure_of_a_task_group"),
    *_unruly("raises_an_exception", "raises_text_that_is_no_utf8", "raises_much_text", ends="ValueError"),
    *_unruly("raises_a_cycle", ends="ValueError"),
    *_unruly("raises_no_exception", "refuses_in_a_thread", ends=REFUSED),
    *_unruly("raises_generator_exit", ends="GeneratorExit"),
    *_unruly("raises_stop_async_iteration", ends="StopAsyncIteration"),
    *_unruly("raises_stop_iteration", ends="RuntimeError"),  # Python makes one of it
    *_unruly("raises_without_a_text", ends="misbehaving_tasks.acts.NoTextError"),
    *_unruly("raises_what_exits_when_it_is_printed", ends="misbehaving_tasks.acts.ExitingTextError"),
    *_unruly("recurses", ends="RecursionError"),
    *_unruly("fails_in_a_task_group", "fails_in_nested_task_groups", ends="ExceptionGroup"),
    *_unruly("refuses_in_a_task_group", ends="BaseExceptionGroup"),
    *_unruly("fails_in_a_task_group", ends="ExceptionGroup", task="Guarded"),
    *_unruly("raises_no_exception", ends=REFUSED, task="Guarded"),
    *_each_error("LocksRaise"),
    *_each_error("ClosingRaises"),
    *_unruly("behaves", ends=REFUSED, task="OpeningRaises"),
    *_unruly("behaves", ends="diracx.tasks.plumbing.exceptions.TaskDefinitionError", task="LocksAreNone"),
    *_unruly("raises_an_exception", ends="ValueError", task="RetriedYesterday", failures=4),
]

CANCELS = [
    *_unruly("raises_cancelled_error", "cancels_itself_and_waits", "is_cancelled_by_a_child", ends=CANCELLED),
    *_unruly("awaits_a_cancelled_child", "awaits_a_cancelled_future", ends=CANCELLED),
    *_unruly("cancels_itself_and_waits", "awaits_a_cancelled_child", ends=CANCELLED, task="Guarded"),
    *_unruly("cancels_itself_and_waits", ends=CANCELLED, task="Timed"),
    # Python cancels an asyncio task that returns right after its own cancellation; that it has returned counts as well.
    *_unruly("cancels_itself_and_returns", "cancels_itself_at_its_end", ends=(SUCCEEDS, CANCELLED)),
    *_unruly("cancels_itself_and_returns", "cancels_itself_at_its_end", ends=(SUCCEEDS, CANCELLED), task="Guarded"),
    *_unruly("cancels_itself_and_fails", ends=("ValueError", CANCELLED)),
    *_unruly("cancels_itself_often_and_goes_on", "cancels_itself_after_its_end", "cancels_a_child_and_goes_on"),
    *_unruly("cancels_itself_after_its_end", task="Guarded"),
    # Not among those that block: in a small worker they hold up these, and their timeouts as well.
    *_unruly("waits_for_a_thread", ends="TimeoutError", task="Timed"),
    *_unruly("behaves", "handles_a_timeout_of_its_own", task="Timed"),
    *_unruly("cancels_all_on_its_loop", "cancels_all_on_its_loop_later", ends=CANCELLED),
    *_unruly("cancels_all_on_its_loop", ends=CANCELLED, task="Guarded"),
    *_unruly("cancels_all_on_its_loop", ends=CANCELLED, task="Timed"),
]

EXITS = [
    *_unruly("exits", "exits_in_gather", "exits_in_a_task_group", ends="SystemExit"),
    *_unruly("exits_in_a_callback", "exits_in_a_thread", ends="SystemExit"),
    *_unruly("exits_in_gather", ends="SystemExit", task="Guarded"),
    *_unruly("interrupts", "interrupts_in_gather", "interrupts_in_a_task_group", ends="KeyboardInterrupt"),
    *_unruly("interrupts", ends="KeyboardInterrupt", task="Guarded"),
    *_unruly("leaves_a_child_that_exits", "leaves_a_callback_that_exits"),
    *_unruly("stops_its_loop", "stops_its_loop_and_returns", "stops_its_loop_from_a_thread"),
    *_unruly("closes_its_loop", "stops_and_closes_its_loop", "runs_another_loop", ends="RuntimeError"),
    *_unruly("shuts_down_the_threads_of_its_loop", ends="RuntimeError"),
    *_unruly("leaves_a_child", "leaves_a_child_that_fails"),
    *_unruly("leaves_a_thread", "leaves_a_thread_that_exits", "leaves_a_thread_of_the_executor"),
    *_unruly("leaves_a_thread", "leaves_a_thread_of_the_executor", task="Guarded"),
]

TIMES = [
    *_unruly("sleeps", "sleeps_in_a_task_group", "sleeps_in_a_shield", ends="TimeoutError", task="Timed"),
    *_unruly("swallows_its_cancellation", ends="TimeoutError", task="Timed"),
    *_unruly("swallows_its_cancellation_and_goes_on", ends="TimeoutError", task="Timed"),
    *_unruly("fails_when_cancelled", ends="TimeoutError", task="Timed"),
    *_unruly("exits_when_cancelled", ends=("TimeoutError", "SystemExit"), task="Timed"),
    *_unruly("refuses_when_cancelled", ends=("TimeoutError", REFUSED), task="Timed"),
    *_unruly("has_a_timeout_of_its_own", ends="TimeoutError", task="Timed"),
    *_unruly("blocks", "blocks_and_waits", ends="TimeoutError", task="Timed"),
    *_unruly("blocks_and_fails", ends=("TimeoutError", "ValueError"), task="Timed"),
]

PROCESSES = [
    *_unruly("terminates_a_forked_child", "terminates_a_spawned_child", "terminates_a_child_from_a_thread"),
    *_unruly("forks_a_child_that_raises", "forks_a_child_that_awaits", "forks_a_child_in_a_thread"),
    *_unruly("interrupts_a_forked_child", "uses_a_pool_of_processes", "runs_a_program", "awaits_a_program"),
]

GROUPS = {"raised": RAISED, "cancels": CANCELS, "exits": EXITS, "times": TIMES, "processes": PROCESSES}
