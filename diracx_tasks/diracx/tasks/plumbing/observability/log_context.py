"""The fields that every log line gets while a delivery is processed: `task`, `id`, `attempt`.

The worker binds a function that describes the delivery to the context, and a log formatter calls it for each line. A
delivery without a log line costs next to nothing. The fields reach the lines of the task and of libraries, too, in
every thread that runs in the context, the execution thread included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar

DescribeDelivery = Callable[[], Mapping[str, object]]

current_delivery: ContextVar[DescribeDelivery | None] = ContextVar("diracx_tasks_delivery", default=None)
"""Describes the delivery that this context processes; None outside of one."""


def delivery_fields() -> Mapping[str, object]:
    """Return the log fields of the delivery that this context processes; empty outside of one."""
    describe = current_delivery.get()
    return {} if describe is None else describe()
