"""The schedules of the installed tasks."""

from __future__ import annotations

import dataclasses

from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.overrides import parse
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import instance_of_removed_vo, instances_of
from diracx.tasks.plumbing.scheduler.state import ScheduleKey
from support.scheduling import Delayed, Hourly, Report, Ticks


@dataclasses.dataclass
class Unmakeable(Ticks):
    number: int


def registry() -> TaskRegistry:
    found = TaskRegistry()
    for task_class in (Hourly, Report, Delayed, Unmakeable):
        found.add(f"test:{task_class.__name__}", task_class)
    return found


def test_each_periodic_task_has_one_schedule_and_each_vo_aware_one_has_one_for_each_vo() -> None:
    found = instances_of(registry(), Configuration(), ["lhcb", "atlas", "lhcb"])
    assert {str(key): instance.body for key, instance in found.items()} == {
        "test:Hourly": b"{}",
        "test:Report@atlas": b'{"vo":"atlas"}',
        "test:Report@lhcb": b'{"vo":"lhcb"}',
        "test:Unmakeable": b"",
    }


def test_the_configuration_of_a_vo_wins_over_that_of_the_task() -> None:
    text = "tasks: {'test:Report': {schedule: {interval: 60}, vos: {atlas: {enabled: false}}}}"
    found = instances_of(registry(), parse(text), ["lhcb", "atlas"])
    lhcb, atlas = found[ScheduleKey("test:Report", "lhcb")], found[ScheduleKey("test:Report", "atlas")]
    assert (lhcb.description, lhcb.rule.enabled, lhcb.disabled_reason) == ("every 60 s", True, None)
    assert (atlas.rule.enabled, atlas.disabled_reason) == (False, "disabled by the configuration")


def test_a_task_that_needs_arguments_is_disabled_with_the_reason() -> None:
    instance = instances_of(registry(), Configuration(), [])[ScheduleKey("test:Unmakeable")]
    assert not instance.rule.enabled
    assert instance.disabled_reason is not None
    assert instance.disabled_reason.startswith("it cannot be made without arguments: ")


def test_only_the_schedule_of_a_removed_vo_of_an_installed_task_is_ended() -> None:
    ended = instance_of_removed_vo(registry(), ScheduleKey("test:Report", "old"))
    assert ended is not None
    assert (ended.rule.enabled, ended.disabled_reason) == (False, "the VO was removed")
    for key in (ScheduleKey("test:Hourly", ""), ScheduleKey("other:Report", "old"), ScheduleKey("test:Hourly", "old")):
        assert instance_of_removed_vo(registry(), key) is None
