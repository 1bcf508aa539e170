"""What has been tried of one message, as the bucket `attempts` stores it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from diracx.tasks.plumbing.wire.failure import Failure


class AttemptRecord(msgspec.Struct, frozen=True):
    """What has been tried of one message."""

    stored_ns: int
    """When the stream stored the message: tells it from one of the same sequence in a stream made anew."""
    begun: int = 0
    """Executions begun, from the second delivery on."""
    ended: int = 0
    """Those of them that came to an end, failed or interrupted."""
    unknown: int = 0
    """Deliveries to workers that did not know the task."""
    failed: int = 0
    """Executions that failed: the retries already made, once the last failure is counted."""
    failures: tuple[Failure, ...] = ()
    """The latest of them, 20 at the most."""
    not_before: datetime | None = None
    exhausted: str | None = None
    """Why it will not be executed again."""
    writer: str = ""
    """Unique for each delivery that wrote: tells its own write, whose answer was lost, from another worker's."""

    @property
    def crashes(self) -> int:
        """Executions begun without an end."""
        return self.begun - self.ended
