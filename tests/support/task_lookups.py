"""Looking up tasks, and what other parts of the system have stored of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from diracx.tasks.plumbing.operations.task_document import PastDelivery, TaskDocument
from diracx.tasks.plumbing.operations.task_lookup import TaskLookup
from support.mesh import TaskMesh


async def find(mesh: TaskMesh, wanted: str) -> TaskDocument:
    """What an operator is told of a task of this mesh."""
    return await TaskLookup(mesh.connection, mesh.namespace, mesh.registry).find(wanted)


async def put(mesh: TaskMesh, subject: str, body: object, **headers: str) -> None:
    """Store a message, as another part of the system, or another version of it, would."""
    await mesh.connection.request(subject, msgspec.json.encode(body), headers=headers)


def past_delivery(at: datetime, outcome: str, message: str, **others: Any) -> PastDelivery:
    """A delivery of a:B on the worker w, at its first attempt."""
    fields: dict[str, Any] = {"task": "a:B", "worker": "w", "seconds": 0.1, "attempt": 1, "error": "", "status": None}
    return PastDelivery(at=at, outcome=outcome, message=message, **fields | others)
