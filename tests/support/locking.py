"""Those who want locks, and a clock that stands still."""

from __future__ import annotations

from diracx.tasks.plumbing.locks import Holder


class Ticks:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def holder(worker: str = "w1", task: str = "lollygag:SyncOwnersTask") -> Holder:
    """Somebody who wants a lock; each call is another owner."""
    return Holder.new(task=task, id="0192", worker=worker)
