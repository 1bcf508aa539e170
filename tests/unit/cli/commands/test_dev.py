"""The command that `dev` proposes to try."""

from __future__ import annotations

import dataclasses
import json
import shlex

from diracx.tasks.cli.commands.dev import example
from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.schedules import IntervalSeconds


class Hourly(PeriodicBaseTask):
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


@dataclasses.dataclass
class PerVo(PeriodicVoAwareBaseTask):
    vo: str

    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


@dataclasses.dataclass
class Plain(BaseTask):
    owner: str
    count: int
    tags: list[str] = dataclasses.field(default_factory=list)

    async def execute(self) -> None: ...


@dataclasses.dataclass
class Choosy(BaseTask):
    owner: str

    def __post_init__(self) -> None:
        if self.owner not in ("alice", "bob"):
            raise ValueError("nobody")

    async def execute(self) -> None: ...


class Bare(BaseTask):
    async def execute(self) -> None: ...


def installed(*classes: type[BaseTask]) -> TaskRegistry:
    registry = TaskRegistry()
    for task_class in classes:
        registry.add(f"acme:{task_class.__name__}", task_class)
    return registry


def test_a_task_that_is_submitted_by_hand_comes_before_a_periodic_one_with_fields_that_fit() -> None:
    registry = installed(Hourly, Plain)
    proposed = example(registry)
    assert proposed is not None
    verb, name, option, fields = shlex.split(proposed)
    assert (verb, name, option) == ("submit", "acme:Plain", "--kwargs")
    assert registry.get(name).codec.from_arguments([], json.loads(fields)) == Plain("...", 1)


def test_a_task_without_fields_needs_no_option() -> None:
    assert example(installed(Bare, Plain)) == "submit acme:Bare"


def test_a_task_whose_fields_can_be_filled_in_comes_before_others() -> None:
    proposed = example(installed(Choosy, Plain))
    assert proposed is not None
    assert proposed.startswith("submit acme:Plain ")
    assert example(installed(Choosy)) == "submit acme:Choosy --kwargs '{...}'"


def test_where_all_tasks_are_periodic_one_is_run_once() -> None:
    assert example(installed(Hourly)) == "schedule run acme:Hourly"
    assert example(installed(PerVo)) == "schedule run acme:PerVo --vo NAME"


def test_where_nothing_is_installed_nothing_is_proposed() -> None:
    assert example(TaskRegistry()) is None
