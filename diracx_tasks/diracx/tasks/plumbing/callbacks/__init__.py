"""Which task runs after the last of a group? Groups are not in this version: the names are those of DiracX.

A task that calls one fails with a line that says so, rather than an import of its module.
"""

from __future__ import annotations

from typing import Any, NoReturn


def spawn_with_callback(children: Any, callback: Any, *, redis: Any = None, ttl_seconds: int = 86400) -> NoReturn:
    """Store a group of tasks, and the task that runs after the last of them.

    Args:
        children: The tasks of the group.
        callback: The task that runs after them.
        redis: Has no counterpart.
        ttl_seconds: How long the group is remembered.

    Raises:
        NotImplementedError: Always.
    """
    raise _not_available("spawn_with_callback()")


def fire_callback(redis: Any, group_id: str, broker: Any) -> NoReturn:
    """Submit the task that runs after a group.

    Raises:
        NotImplementedError: Always.
    """
    raise _not_available("fire_callback()")


def _not_available(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name}: groups with callbacks are not available in this version; submit what follows with "
        "`await task.schedule()`"
    )
