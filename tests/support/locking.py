"""Owners of locks."""

from __future__ import annotations

from diracx.tasks.plumbing.locks import LockOwner


def new_owner(worker: str = "w1", task: str = "lollygag:SyncOwnersTask") -> LockOwner:
    """An owner for one acquisition. Each call returns another one."""
    return LockOwner.new(task=task, id="0192", worker=worker)
