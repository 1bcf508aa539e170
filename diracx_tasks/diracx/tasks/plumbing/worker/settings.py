"""The settings of one worker."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.enums import Size

DEFAULT_SLOTS: Final = {Size.SMALL: 100, Size.MEDIUM: 10, Size.LARGE: 1}
"""How many messages of a size a worker has in flight at once by default."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one worker."""

    size: Size
    """The worker takes tasks of this size only."""
    max_concurrent_tasks: int
    """Slots: how many tasks execute at once. A task that has ended leaves its slot before its message is settled, if
    its result or its completion in a group is to be written; up to 100 messages do so."""
    burst: bool = False
    """End when no task is left that is due; tasks that wait for a retry are left in their queues."""
    grace: timedelta = timedelta(seconds=30)
    """How long running tasks may go on after a stop was requested. The stop itself may take 9 s longer."""
    lock_retry_delay: timedelta = timedelta(seconds=5)
    """How long a task waits for a busy lock at first, give or take a quarter, and while the configuration holds it. The
    wait grows, see `settlement.lock_backoff`."""
    isolation_timeout: timedelta = timedelta(seconds=60)
    """How long a task that must run isolated waits for that; then it goes back, and another worker may isolate it."""
    isolation_window: timedelta = timedelta(seconds=60)
    """How long a task runs isolated at the most; then the worker takes messages again beside it."""
    unknown_tries: int = 10
    """After this many deliveries to workers that do not know the task it becomes a dead letter."""
    unknown_delay: timedelta = timedelta(seconds=5)
    """The time between two of these deliveries. A message that was moved to another queue waits as long before it is
    moved again."""
