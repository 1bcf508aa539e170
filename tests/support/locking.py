"""Those who want locks, and a clock that stands still."""

from __future__ import annotations

from diracx.tasks.plumbing.locks import Holder


def holder(worker: str = "w1", task: str = "lollygag:SyncOwnersTask") -> Holder:
    """Somebody who wants a lock; each call is another owner."""
    return Holder.new(task=task, id="0192", worker=worker)
