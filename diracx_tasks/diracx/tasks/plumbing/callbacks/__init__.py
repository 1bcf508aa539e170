"""Which task runs after the last of a group?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks.outcomes import ChildOutcome, GroupOutcomes
from diracx.tasks.plumbing.submitter import DEFAULT_GROUP_TTL_SECONDS, current_submitter

__all__ = ["ChildOutcome", "GroupOutcomes", "fire_callback", "spawn_with_callback"]


async def spawn_with_callback(
    children: Iterable[BaseTask],
    callback: BaseTask,
    *,
    redis: Any = None,
    ttl_seconds: float = DEFAULT_GROUP_TTL_SECONDS,
    labels: Mapping[str, Any] | None = None,
) -> str:
    """Store a group of tasks, and the task that runs after the last of them. All are stored, or nothing is.

    In `execute()` a parameter `CallbackSpawner` does the same. A task that runs again, after a crash or for a retry,
    gets the group that it spawned before, and nothing is stored twice. Outside of a task each call spawns a new group.

    Args:
        children: The tasks of the group, at most 100,000. Without any, the callback runs at once.
        callback: The task that runs once all children have ended: succeeded, failed for good, expired or cancelled.
        redis: Ignored. Code that was written for DiracX gives one.
        ttl_seconds: After this time, at most 365 days, the callback runs although children have not ended.
        labels: JSON values for people and filters, of the children and of the callback.

    Returns:
        The id of the group, once the server has stored it.

    Raises:
        RuntimeError: No broker is bound.
        SendTaskError: The server did not store the group, or a task is too large.
        TaskDefinitionError: No entry point lists the class of a task; the text has its index.
        MalformedTaskError: A field or a label, as for `BaseTask.schedule`; the text has the index of the task.
        ValueError: `ttl_seconds` is out of range, or there are too many children.
        TypeError: `children` is one task, or none at all.
    """
    return await current_submitter().spawn(children, callback, ttl_seconds=ttl_seconds, labels=labels)


def fire_callback(redis: Any, group_id: str, broker: Any) -> NoReturn:
    """Let the callback of a group go. Nobody needs to: the worker that ends its last child does.

    Raises:
        NotImplementedError: Always. The text says so.
    """
    raise NotImplementedError(
        "fire_callback(): the callback of a group runs by itself, after its last child or when its time to live is "
        "over; remove the call"
    )
