"""A mesh that knows the tasks of `support.group_tasks`."""

from __future__ import annotations

import pytest

from support.group_tasks import After, Child, Mortal, called
from support.mesh import TaskMesh


@pytest.fixture(autouse=True)
def no_call() -> None:
    called.clear()


@pytest.fixture
async def mesh(mesh: TaskMesh) -> TaskMesh:
    mesh.register(Child, Mortal, After)
    return mesh
