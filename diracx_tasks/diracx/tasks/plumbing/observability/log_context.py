"""What every log line that is written in the course of a delivery can say of it.

Whoever carries a delivery binds a function that describes it to its context; a log formatter calls it. It is called
when a line is written and not before, so it costs next to nothing where none is. Lines of the task's author and of
libraries are covered, too, wherever the context reaches: the execution thread included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar

Describe = Callable[[], Mapping[str, object]]

in_hand: ContextVar[Describe | None] = ContextVar("diracx_tasks_in_hand", default=None)
"""Describes the delivery that is carried here: `task`, `id`, `attempt`."""


def fields() -> Mapping[str, object]:
    """What is known of the delivery that is carried here; empty when none is."""
    describe = in_hand.get()
    return {} if describe is None else describe()
