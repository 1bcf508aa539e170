"""The tasks that run, those that are parked, those that failed, and a search."""

from __future__ import annotations

from starlette.datastructures import QueryParams

from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages import Page, View

PATH = "/tasks"


async def view(mesh: Mesh, query: QueryParams) -> View:
    """What runs now, in all workers."""
    workers = await mesh.in_flight.get()
    return {"running": [task for worker in workers for task in worker.tasks]}


PAGE = Page(name="tasks", path=PATH, title="Tasks", parts=("running",), view=view)


async def _one(mesh: Mesh, query: QueryParams) -> View:
    """What is known of the task with the id of the query."""
    return {"task": await mesh.lookup.find(query.get("id", ""))}


ONE_TASK = Page(
    name="task",
    path="/task",
    title="Task",
    parts=("document",),
    view=_one,
    query=("id",),
    in_navigation=False,
    within="tasks",
)
