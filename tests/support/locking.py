"""Owners of locks, and a clock that only the test moves."""

from __future__ import annotations

from diracx.tasks.plumbing.locks import LockOwner


class Ticks:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def new_owner(worker: str = "w1", task: str = "lollygag:SyncOwnersTask") -> LockOwner:
    """An owner for one acquisition. Each call returns another one."""
    return LockOwner.new(task=task, id="0192", worker=worker)
