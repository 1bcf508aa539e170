"""Registered tasks, by name and by class."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError, UnknownTaskError
from diracx.tasks.plumbing.locks import BaseLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.schedules import IntervalSeconds


class Good(BaseTask):
    async def execute(self) -> None: ...


class WithLocks(Good):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return []


class Hourly(PeriodicBaseTask):
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


def test_an_unknown_name_suggests_similar_ones() -> None:
    registry = TaskRegistry()
    registry.add("lollygag:Good", Good)
    with pytest.raises(UnknownTaskError, match=r"unknown task 'lollygag:Goof'; did you mean lollygag:Good\?"):
        registry.get("lollygag:Goof")


def test_a_class_that_is_not_registered_is_refused_with_the_fix() -> None:
    with pytest.raises(TaskDefinitionError, match=r"Good is not registered; list it in pyproject\.toml"):
        TaskRegistry().of(Good())


def test_a_task_can_be_withdrawn_with_the_reason() -> None:
    registry = TaskRegistry()
    registry.add("lollygag:Good", Good)
    registry.withdraw("lollygag:Good", "its dependencies cannot be injected")
    assert not list(registry)
    assert registry.problems == ["lollygag:Good: its dependencies cannot be injected"]
    with pytest.raises(TaskDefinitionError, match="its dependencies cannot be injected"):
        registry.get("lollygag:Good")


def test_tasks_are_listed_by_name_with_whether_they_are_periodic_and_take_locks() -> None:
    registry = TaskRegistry()
    for name, task_class in (("z:Good", Good), ("a:Hourly", Hourly), ("m:WithLocks", WithLocks)):
        registry.add(name, task_class)
    assert [(task.name, task.periodic, task.takes_locks) for task in registry] == [
        ("a:Hourly", True, True),
        ("m:WithLocks", False, True),
        ("z:Good", False, False),
    ]
    assert len(registry) == 3
