"""A web application beside DiracX's own diracx-tasks is told when it connects."""

from __future__ import annotations

from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry
from support.distributions import install_metadata
from support.mesh import TaskMesh

THEIRS = {"console_scripts": {"diracx-tasks": "diracx.tasks.task_run:main"}}


@pytest.mark.parametrize("registry", [None, TaskRegistry()])
async def test_who_connects_with_the_installed_tasks_is_told_of_a_mixed_installation_once(
    registry: TaskRegistry | None,
    server: EmbeddedServer,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Commands and workers bring a registry, and have told it before."""
    install_metadata(tmp_path, "diracx-tasks", THEIRS, version="0.7.0", folder_name="diracx_tasks")
    monkeypatch.syspath_prepend(tmp_path)
    async with JetStreamBroker.connect(server.url, namespace=namespace, registry=registry, bind=False) as broker:
        await TaskMesh(broker).remove()
    told = [record for record in caplog.records if record.name == "diracx.tasks.installation"]
    assert len(told) == (registry is None)
