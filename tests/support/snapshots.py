"""Snapshots of the status of a mesh in which nothing is wrong, for tests that change a part of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.operations.status_document import (
    QueueStatus,
    SchedulerStatus,
    Status,
    StatusSnapshot,
    WorkerStatus,
)

NOW = datetime(2026, 12, 1, 6, tzinfo=UTC)


def healthy(status: Mapping[str, Any] | None = None, **changes: Any) -> StatusSnapshot:
    """Nine empty queues, a worker of each size and a leading scheduler.

    Args:
        status: The fields of the document that differ.
        changes: The fields of the snapshot that differ.
    """
    queues = [a_queue(priority, size) for priority in Priority for size in Size]
    document = Status(
        namespace="diracx",
        server="nats://127.0.0.1:4222",
        queues=queues,
        delayed=0,
        dead_letters=0,
        locks=0,
        scheduler=SchedulerStatus(leader="node1-411-scheduler-ab3d", standbys=[]),
        workers=[a_worker(size) for size in Size],
        held=[],
        at=NOW,
    )
    return StatusSnapshot(status=msgspec.structs.replace(document, **(status or {})), **changes)


def a_queue(priority: Priority, size: Size, **changes: Any) -> QueueStatus:
    """An empty queue."""
    subject = f"diracx.tasks.{priority}.{size}"
    queue = QueueStatus(
        subject=subject,
        priority=priority,
        size=size,
        waiting=0,
        in_hand=0,
        redelivered=0,
        oldest_seconds=None,
        parked=0,
    )
    return msgspec.structs.replace(queue, **changes)


def a_worker(size: Size, **changes: Any) -> WorkerStatus:
    """An idle worker."""
    worker = WorkerStatus(
        id=f"node1-412-{size}-x7k2", size=size, slots=100, busy=0, host="node1", pid=412, since=NOW - timedelta(hours=1)
    )
    return msgspec.structs.replace(worker, **changes)
