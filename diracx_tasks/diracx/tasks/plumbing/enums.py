"""The priority and the size of a task, which together name its queue."""

from __future__ import annotations

from enum import StrEnum


class Priority(StrEnum):
    """The urgency of a task. It is strict: a worker takes a task only if no task of a higher priority waits.

    The members stand from the most to the least urgent. The value is the token in subjects and consumer names.
    """

    REALTIME = "realtime"
    NORMAL = "normal"
    BACKGROUND = "background"


class Size(StrEnum):
    """The share of a worker that a task takes. A worker process serves one size.

    The value is the token in subjects and consumer names. The numbers below are defaults of the command line.
    """

    SMALL = "small"
    """Shares one event loop with all tasks and the NATS client of its worker, so it must not block. 100 at once."""
    MEDIUM = "medium"
    """Runs on an event loop and a thread of its own, so it may block if it frees the GIL. 10 at once."""
    LARGE = "large"
    """As medium, but one at a time: the task has the worker for itself."""
