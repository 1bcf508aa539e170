"""The task classes that are accepted, and those that are refused."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partialmethod
from pathlib import Path
from typing import Any, ClassVar

import pydantic.dataclasses
import pytest
from pydantic import BaseModel

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.registry.definition import check_definition
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase


class Good(BaseTask):
    async def execute(self) -> None: ...


class WithLocks(Good):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return []


class AsyncPolicy(RetryPolicyBase):
    async def schedule_retry(self, attempt: int, exception: BaseException) -> None:  # type: ignore[override]
        return None


async def coroutine(task: BaseTask) -> list[BaseLock]:
    return []


class Hourly(PeriodicBaseTask):
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


@dataclasses.dataclass
class PerVo(PeriodicVoAwareBaseTask):
    vo: str
    default_schedule: ClassVar = IntervalSeconds(3600)

    async def execute(self) -> None: ...


class NoExecute(BaseTask):
    pass


class VoWithoutField(PeriodicVoAwareBaseTask):
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


class NoSchedule(PeriodicBaseTask):
    async def execute(self) -> None: ...


class Model(PeriodicVoAwareBaseTask, BaseModel):
    vo: str
    default_schedule: ClassVar = IntervalSeconds(3600)

    async def execute(self) -> None: ...


@pydantic.dataclasses.dataclass
class CheckedPerVo(PeriodicVoAwareBaseTask):
    vo: str
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


class FromNow(TaskScheduleBase):
    def next_occurrence(self) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + timedelta(hours=1)


class NeedsZone(TaskScheduleBase):
    def next_occurrence(self, after: datetime, zone: str) -> datetime:  # type: ignore[override]
        return after


class Async(TaskScheduleBase):
    async def next_occurrence(self) -> datetime:  # type: ignore[override]
        return datetime.now(UTC)


class NoText(FromNow):
    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


def variant(**attributes: Any) -> type[BaseTask]:
    return type("Variant", (Good,), attributes)


def periodic(**attributes: Any) -> type[BaseTask]:
    return type("Variant", (Hourly,), attributes)


@pytest.mark.parametrize(
    "task_class",
    [
        Good,
        WithLocks,
        Hourly,
        PerVo,
        Model,
        CheckedPerVo,
        variant(timeout_seconds=0.5),
        variant(result_ttl_seconds=60),
        periodic(result_ttl_seconds=0.5),
        periodic(_enabled=False),
        periodic(default_schedule=FromNow()),
        variant(execution_locks=[]),
        variant(execution_locks=(MutexLock(JOB, 1),)),
        variant(execution_locks=cached_property(lambda self: [])),
        variant(serialize=staticmethod(lambda: None)),
        variant(serialize=partialmethod(lambda self: None)),
    ],
)
def test_a_class_that_can_work_is_accepted(task_class: type[BaseTask]) -> None:
    check_definition(task_class)


@pytest.mark.parametrize(
    ("task_class", "message"),
    [
        (dict, "builtins.dict is no subclass of diracx.tasks.plumbing.base_task.BaseTask"),
        (Good(), "is no subclass of"),
        (None, "None is no subclass of"),
        (NoExecute, "NoExecute has no execute(); write `async def execute(self)`"),
        (variant(priority="normal"), "Variant: priority is 'normal'; make it a member of Priority"),
        (variant(size=3), "Variant: size is 3; make it a member of Size"),
        (variant(retry_policy=ExponentialBackoff), "make it an instance of a retry policy"),
        (variant(retry_policy=None), "Variant: retry_policy is None; make it an instance of a retry policy"),
        (
            variant(retry_policy=AsyncPolicy()),
            "Variant: AsyncPolicy.schedule_retry is async; write `def ",
        ),
        (variant(dlq_eligible=1), "Variant: dlq_eligible is 1; make it True or False"),
        (variant(timeout_seconds="5"), "Variant: timeout_seconds is '5'; make it a number of seconds or None"),
        (variant(timeout_seconds=0), "Variant: timeout_seconds is 0; make it more than 0"),
        (variant(timeout_seconds=float("nan")), "Variant: timeout_seconds is nan; make it more than 0"),
        (variant(result_ttl_seconds="5"), "Variant: result_ttl_seconds is '5'; make it a number of seconds or None"),
        (variant(result_ttl_seconds=True), "Variant: result_ttl_seconds is True; make it a number of seconds or None"),
        (variant(result_ttl_seconds=0), "Variant: result_ttl_seconds is 0; make it more than 0 seconds"),
        (
            variant(result_ttl_seconds=1e9),
            "result_ttl_seconds is 1000000000.0; make it more than 0 seconds, and 31536000",
        ),
        (variant(schedule="hourly"), "Variant: schedule is 'hourly', but a method of tasks; write default_schedule = "),
        (variant(schedule=property(lambda self: 1)), "Variant: schedule is <property object"),
        (variant(serialize=1), "Variant: serialize is 1, but a method of tasks; write `def serialize(self, ...)`"),
        (variant(__post_init__=coroutine), "Variant.__post_init__ is async, and nothing awaits it; write `def "),
        (variant(execution_locks=lambda self: []), "Variant.execution_locks is a method; put @property above it"),
        (variant(execution_locks=classmethod(lambda cls: [])), "Variant.execution_locks is a method; put @property"),
        (variant(execution_locks=staticmethod(list)), "Variant.execution_locks is a method; put @property"),
        (variant(execution_locks=property(coroutine)), "Variant.execution_locks is async; write `def "),
        (variant(execution_locks=cached_property(coroutine)), "Variant.execution_locks is async; write `def "),
        (variant(execution_locks=None), "Variant.execution_locks is None; make it a list of locks, e.g. [MutexLock("),
        (variant(execution_locks=MutexLock(JOB, 1)), "Variant.execution_locks is MutexLock(mutex.job.1); make it a"),
        (variant(execution_locks=["job"]), "Variant.execution_locks is ['job']; make it a list of locks"),
        (NoSchedule, "NoSchedule: default_schedule is None; make it an instance of a schedule"),
        (periodic(_enabled=0), "Variant: _enabled is 0; make it True, or False if only the configuration may switch"),
        (
            periodic(default_schedule=NeedsZone()),
            "NeedsZone.next_occurrence takes (after, zone); write `def next_occurrence(self, after=None)`, or",
        ),
        (periodic(default_schedule=Async()), "Variant: Async.next_occurrence is async; write `def next_occurrence("),
        (
            periodic(default_schedule=NoText()),
            "Variant: the text of its default_schedule raises ZeroDivisionError: no text; mend its __str__",
        ),
        (VoWithoutField, "VoWithoutField runs once per VO: give it the field `vo: str`"),
    ],
)
def test_a_class_that_cannot_work_is_refused_with_the_fix(task_class: Any, message: str) -> None:
    with pytest.raises(TaskDefinitionError) as caught:
        check_definition(task_class)
    assert message in str(caught.value)
    with pytest.raises(TaskDefinitionError):
        TaskRegistry().add("lollygag:Variant", task_class)


@pytest.mark.parametrize("name", ["__init__", "__class__", "__post_init__", "__eq__"])
def test_a_field_with_a_name_that_python_uses_is_refused(name: str) -> None:
    task_class = dataclasses.make_dataclass("Hides", [(name, str)], bases=(Good,))
    with pytest.raises(TaskDefinitionError, match=rf"Hides: tasks have {name} already; give the field another name"):
        check_definition(task_class)


PUBLIC = sorted(name for name in dir(PeriodicVoAwareBaseTask) if not name.startswith("_"))


@pytest.mark.parametrize("name", [*PUBLIC, "default_schedule"])
def test_a_field_that_hides_what_tasks_have_is_refused_by_name(name: str) -> None:
    plain = dataclasses.make_dataclass("Hides", [(name, str, "x")], bases=(Good,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic itself warns
        model = pydantic.create_model("Hides", __base__=(Good, BaseModel), **{name: (str, "x")})  # type: ignore[call-overload]
    for task_class in (plain, model):
        with pytest.raises(TaskDefinitionError, match=rf"Hides: (tasks have {name} already|{name} is an attribute of)"):
            check_definition(task_class)


def test_a_field_that_json_cannot_carry_is_refused_when_the_class_is_registered() -> None:
    @dataclasses.dataclass
    class Odd(Good):
        thing: Path = field()

    with pytest.raises(TaskDefinitionError, match=r"Odd: the field \$\.thing"):
        TaskRegistry().add("lollygag:Odd", Odd)
