"""The occurrences of a tick, compared with those of its parts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, TaskScheduleBase
from diracx.tasks.testing.occurrences import chosen, occurrences

BEGIN = datetime(2027, 3, 27, tzinfo=UTC)
MINUTES = st.integers(0, 3 * 24 * 60)
CRON = st.sampled_from(["0 * * * *", "30 2 * * *", "*/45 3-7 * * *", "0 0 29 * 1"])
SCHEDULES = st.integers(2, 200).map(lambda n: IntervalSeconds(n * 1_200)) | CRON.map(
    lambda text: CronSchedule(text, "Europe/Zurich")
)


def dues(schedules: list[TaskScheduleBase], after: datetime, to: datetime) -> list[tuple[datetime, str]]:
    registry = TaskRegistry()
    for number, schedule in enumerate(schedules):
        namespace = {"default_schedule": schedule, "execute": execute}
        registry.add(f"test:T{number}", type(f"T{number}", (PeriodicBaseTask,), namespace))
    found = occurrences(registry, Configuration(), None, after, to)
    return [(due, str(instance.key)) for due, instances in found for instance in instances]


async def execute(self: PeriodicBaseTask) -> None: ...


@given(st.lists(SCHEDULES, min_size=1, max_size=3), st.sets(MINUTES, min_size=2, max_size=6))
def test_ticks_in_steps_have_the_occurrences_of_one_tick_each_once(
    schedules: list[TaskScheduleBase], minutes: set[int]
) -> None:
    times = [BEGIN + timedelta(minutes=each) for each in sorted(minutes)]
    whole = dues(schedules, times[0], times[-1])
    assert [due for step in pairwise(times) for due in dues(schedules, *step)] == whole
    assert whole == sorted(whole)
    for number, schedule in enumerate(schedules):
        expected, at = [], times[0]
        while (at := schedule.next_occurrence(at)) <= times[-1]:
            expected.append(at)
        assert [due for due, key in whole if key == f"test:T{number}"] == expected


@pytest.mark.parametrize("each", ["acme:Sync", type("Sync", (PeriodicBaseTask,), {"execute": execute})()])
def test_what_is_no_class_of_tasks_is_told(each: object) -> None:
    with pytest.raises(TaskDefinitionError, match=r" is no class; name the classes of tasks, e\.g\. tick\("):
        chosen(TaskRegistry(), [each])  # type: ignore[list-item]
