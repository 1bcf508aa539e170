"""The attempt record of one message: the JSON in the bucket `attempts`, which `worker.attempts` reads and writes."""

from __future__ import annotations

from datetime import datetime

import msgspec

from diracx.tasks.plumbing.wire.failure import Failure


class AttemptRecord(msgspec.Struct, frozen=True):
    """The executions of one message so far, and how they ended."""

    stored_ns: int
    """When the stream stored the message: tells it from one of the same sequence in a stream that was made anew."""
    unended: tuple[str, ...] = ()
    """The ids of executions that began, from the second delivery on, and whose end is not written."""
    unknown: int = 0
    """Deliveries to workers that did not know the task."""
    failed: int = 0
    """Executions that failed. The next execution is retry number `failed`."""
    failures: tuple[Failure, ...] = ()
    """The latest failures, 20 at the most; fewer, or without tracebacks, if the record is too large."""
    not_before: datetime | None = None
    """The next retry begins no earlier."""
    exhausted: str | None = None
    """Why the message will not be executed again; None: it may be."""
    dropped: bool = False
    """Whether an exhausted message is dropped. False: it becomes a dead letter."""
    writer: str = ""
    """The delivery that has the message, and its latest write: `<id>.<verb>`. Whoever only writes down that an
    execution was interrupted leaves it as it is."""

    deliveries: int = 0
    """How often the server had delivered the message at the latest write of a delivery. Later deliveries wrote nothing;
    most of them found a lock busy."""

    @property
    def last_failure(self) -> Failure | None:
        """The latest failure; None: there was none, or it found no room."""
        return self.failures[-1] if self.failures else None

    @property
    def crashes(self) -> int:
        """Executions that began and whose end was never written: the process died, or has yet to write it."""
        return len(self.unended)
