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


def test_a_class_with_two_names_is_each_of_them_and_is_submitted_under_the_one_of_the_class() -> None:
    registry = TaskRegistry()
    for name in ("lollygag:Earlier", "lollygag:Good", "lollygag:A", "lollygag:Good"):
        registry.add(name, Good)
    assert [task.name for task in registry] == ["lollygag:A", "lollygag:Earlier", "lollygag:Good"]
    assert registry.of(Good()).name == "lollygag:Good"
    for name in ("lollygag:A", "lollygag:Earlier", "lollygag:Good"):
        assert registry.of(Good(), name).name == registry.get(name).name == name


@pytest.mark.parametrize("names", [("b:Good", "a:Good", "a:A"), ("b:Good", "a:Good"), ("a:A", "b:Good")])
def test_the_name_of_a_class_with_several_does_not_depend_on_their_order(names: tuple[str, ...]) -> None:
    for order in (names, names[::-1]):
        registry = TaskRegistry()
        for name in order:
            registry.add(name, Good)
        assert registry.of(Good()).name == min(name for name in names if name.endswith(":Good"))


def test_of_names_that_are_not_that_of_the_class_the_first_in_the_alphabet_counts() -> None:
    registry = TaskRegistry()
    for name in ("b:One", "a:Two"):
        registry.add(name, Good)
    assert registry.of(Good()).name == "a:Two"


def test_a_name_that_the_class_does_not_have_is_refused_with_those_that_it_has() -> None:
    registry = TaskRegistry()
    registry.add("a:Good", Good)
    registry.add("a:Hourly", Hourly)
    with pytest.raises(TaskDefinitionError, match=r"Good is not a:Hourly; its names are a:Good$"):
        registry.of(Good(), "a:Hourly")


@pytest.mark.parametrize("name", ["Good", "a:", "a:Two words", "a:Größe", "a:b:Good", "a:A\n", "a:" + "A" * 300])
def test_a_name_that_a_task_cannot_have_is_refused(name: str) -> None:
    registry = TaskRegistry()
    with pytest.raises(TaskDefinitionError, match="is no name of a task: ") as caught:
        registry.add(name, Good)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert not len(registry)
