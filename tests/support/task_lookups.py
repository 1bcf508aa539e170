"""Looking up tasks, and what other parts of the system have stored of them."""

from __future__ import annotations

import msgspec

from diracx.tasks.plumbing.operations.task_document import TaskDocument
from diracx.tasks.plumbing.operations.task_lookup import TaskLookup
from support.mesh import TaskMesh


async def find(mesh: TaskMesh, wanted: str) -> TaskDocument:
    """What an operator is told of a task of this mesh."""
    return await TaskLookup(mesh.connection, mesh.namespace, mesh.registry).find(wanted)


async def put(mesh: TaskMesh, subject: str, body: object, **headers: str) -> None:
    """Store a message, as another part of the system, or another version of it, would."""
    await mesh.connection.request(subject, msgspec.json.encode(body), headers=headers)
