"""The fields that every log line gets while a delivery is processed: `task`, `id`, `attempt`; in JSON also `queue`,
`trace_id` and `labels`.

The worker binds a function that describes the delivery to the context, and a log formatter calls it for each line. A
delivery without a log line costs next to nothing. The fields reach the lines of the task and of libraries, too, in
every thread that runs in the context, the execution thread included.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Protocol


class DescribeDelivery(Protocol):
    """Describes one delivery."""

    def __call__(self, details: bool) -> Mapping[str, object]:
        """Return its log fields; with `details` also those that would make a line of text too long."""


current_delivery: ContextVar[DescribeDelivery | None] = ContextVar("diracx_tasks_delivery", default=None)
"""Describes the delivery that this context processes; None outside of one."""

JSON_FIELDS: Final = "diracx_json_fields"
"""An attribute of a log record: further fields of its line in JSON, which a line of text does not show."""


def delivery_fields(details: bool = False) -> Mapping[str, object]:
    """Return the log fields of the delivery that this context processes; empty outside of one.

    Args:
        details: Also those that would make a line of text too long.
    """
    describe = current_delivery.get()
    return {} if describe is None else describe(details)
