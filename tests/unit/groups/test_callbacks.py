"""How a group is spawned by name, and how a task asks for a spawner."""

from __future__ import annotations

from typing import Any

import pytest

from diracx.tasks.depends import CallbackSpawner
from diracx.tasks.plumbing.callbacks import spawn_with_callback
from diracx.tasks.plumbing.injection.markers import callback_spawner
from diracx.tasks.plumbing.submitter import bound_for_context
from support.injected_tasks import run
from support.spawned import After, Child, children


class Recorder:
    """Spawns nothing; satisfies `Submitter`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def submit(self, task: Any, **_: Any) -> str:
        raise AssertionError("nobody submits here")

    async def spawn(self, *tasks: Any, **options: Any) -> str:
        self.calls.append((*tasks, options))
        return "a-group"

    async def result(self, task_id: str, timeout: float | None = None) -> Any:
        raise AssertionError("nobody waits here")


async def test_an_injected_spawner_gives_the_group_to_the_bound_broker() -> None:
    recorder = Recorder()

    async def execute(self: Any, spawn: CallbackSpawner) -> list[str]:
        return [
            await spawn(children(2), After()),
            await spawn([Child(7)], After("x"), 60, labels={"vo": "lhcb"}),
        ]

    with bound_for_context(recorder):
        assert await run(execute) == ["a-group", "a-group"]
    assert recorder.calls == [
        (children(2), After(), {"ttl_seconds": 86_400, "labels": None}),
        ([Child(7)], After("x"), {"ttl_seconds": 60, "labels": {"vo": "lhcb"}}),
    ]


async def test_the_function_does_the_same_and_ignores_redis() -> None:
    with bound_for_context(recorder := Recorder()):
        assert await spawn_with_callback([Child(7)], After(), redis=object(), ttl_seconds=5, labels={}) == "a-group"
    assert recorder.calls == [([Child(7)], After(), {"ttl_seconds": 5, "labels": {}})]


async def test_a_test_may_override_the_spawner() -> None:
    spawned: list[Any] = []

    async def fake() -> Any:
        async def spawn(*tasks: Any) -> None:
            spawned.append(tasks)

        return spawn

    async def execute(self: Any, spawn: CallbackSpawner) -> None:
        await spawn(children(1), After())

    await run(execute, overrides={callback_spawner: fake})
    assert spawned == [(children(1), After())]


async def test_without_a_broker_it_says_so() -> None:
    for spawn in (spawn_with_callback, CallbackSpawner()):
        with pytest.raises(RuntimeError, match="not bound to a broker"):
            await spawn(children(1), After())
