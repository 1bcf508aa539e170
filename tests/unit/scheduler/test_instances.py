"""The schedules of the installed tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from diracx.tasks.plumbing.overrides.configuration import Configuration, Entry, Override
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import Instance, has_task, instances_of, removed_instances
from diracx.tasks.plumbing.scheduler.state import ScheduleKey
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds
from support.scheduling import Delayed, Hourly, OffByDefault, Report, SubmitPilots, Ticks


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
    assert (lhcb.rule.words, lhcb.rule.enabled, lhcb.disabled_reason) == ("every 60 s", True, None)
    assert (atlas.rule.enabled, atlas.disabled_reason) == (False, "disabled by the configuration")


def test_a_task_that_needs_arguments_is_disabled_with_the_reason() -> None:
    instance = instances_of(registry(), Configuration(), [])[ScheduleKey("test:Unmakeable")]
    assert not instance.rule.enabled
    assert instance.disabled_reason is not None
    assert instance.disabled_reason.startswith("it cannot be made without arguments: ")


def pilots(
    common: Mapping[str, Entry] | None, atlas: Mapping[str, Entry] | None = None, **common_settings: Any
) -> dict[str, Instance]:
    """The schedules of SubmitPilots for lhcb and atlas, by key."""
    found = TaskRegistry()
    found.add("acme:SubmitPilots", SubmitPilots)
    configuration = Configuration(
        tasks={"SubmitPilots": Override(entries=common, **common_settings)},
        task_vos={} if atlas is None else {("acme:SubmitPilots", "atlas"): Override(entries=atlas)},
    )
    return {str(key): each for key, each in instances_of(found, configuration, ["lhcb", "atlas"]).items()}


def test_each_entry_is_a_schedule_of_its_own_and_those_of_a_vo_replace_the_common_ones() -> None:
    every_2_h = IntervalSeconds(7200)
    common = {"CERN": Entry(args={"ce_regex": "cern"}, schedule=every_2_h), "R A.L": Entry(args={"ce_regex": "ral"})}
    found = pilots(common, {"": Entry(args={"ce_regex": "all", "count": 5})}, schedule=CronSchedule("0 6 * * *"))
    assert {key: (each.body, each.rule.words) for key, each in found.items()} == {
        "acme:SubmitPilots@atlas": (b'{"vo":"atlas","ce_regex":"all","count":5}', "cron 0 6 * * * (UTC)"),
        "acme:SubmitPilots@lhcb+CERN": (b'{"vo":"lhcb","ce_regex":"cern"}', "every 7200 s"),
        "acme:SubmitPilots@lhcb+R=20A=2EL": (b'{"vo":"lhcb","ce_regex":"ral"}', "cron 0 6 * * * (UTC)"),
    }
    assert found["acme:SubmitPilots@atlas"].arguments == {"ce_regex": "all", "count": 5}


def test_no_entries_at_all_are_no_schedule() -> None:
    assert set(pilots({"CERN": Entry()}, {})) == {"acme:SubmitPilots@lhcb+CERN"}


def test_the_order_of_the_arguments_in_the_file_does_not_matter() -> None:
    one, other = ({"A": Entry(args=args)} for args in ({"count": 2, "ce_regex": "x"}, {"ce_regex": "x", "count": 2}))
    key = "acme:SubmitPilots@lhcb+A"
    assert pilots(one)[key].rule.arguments == pilots(other)[key].rule.arguments == b'{"ce_regex":"x","count":2}'


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"ce_rgx": "x"}, "tasks.X.args: SubmitPilots has no field 'ce_rgx'; did you mean ce_regex?"),
        ({"count": "five"}, "tasks.X.args: Expected `int`, got `str` - at `$.count`"),
        ({"vo": "atlas"}, "tasks.X.args: the scheduler gives `vo`; leave it out"),
        ({"count": object()}, "tasks.X.args: Encoding objects of type object is unsupported"),
    ],
)
def test_an_entry_whose_arguments_do_not_fit_is_disabled_with_its_path_and_no_other(
    args: dict[str, object], why: str
) -> None:
    found = pilots({"Bad": Entry(args=args, path="tasks.X"), "Good": Entry()}, {})
    bad, good = found["acme:SubmitPilots@lhcb+Bad"], found["acme:SubmitPilots@lhcb+Good"]
    assert (bad.body, bad.rule.enabled, bad.disabled_reason) == (b"", False, why)
    assert good.rule.enabled


BY_CONFIGURATION = "disabled by the configuration"


@pytest.mark.parametrize(
    ("of_task", "of_entry", "why"),
    [
        (None, None, None),
        (None, False, f"{BY_CONFIGURATION}: tasks.X"),
        (False, None, BY_CONFIGURATION),
        (False, True, BY_CONFIGURATION),
        (True, False, f"{BY_CONFIGURATION}: tasks.X"),
    ],
)
def test_an_entry_runs_unless_it_or_its_task_is_disabled(
    of_task: bool | None, of_entry: bool | None, why: str | None
) -> None:
    found = pilots({"A": Entry(enabled=of_entry, path="tasks.X")}, enabled=of_task)
    assert found["acme:SubmitPilots@lhcb+A"].disabled_reason == why


@pytest.mark.parametrize(
    ("override", "enabled"),
    [
        (Override(), False),
        (Override(enabled=True), True),
        (Override(schedule=IntervalSeconds(60)), False),
        (Override(entries={"": Entry(enabled=True)}), True),
        (Override(entries={"": Entry()}), False),
        (Override(entries={"": Entry(enabled=True)}, enabled=False), False),
    ],
)
def test_a_class_that_is_off_by_default_runs_only_where_the_configuration_says_so(
    override: Override, enabled: bool
) -> None:
    found = TaskRegistry()
    found.add("acme:OffByDefault", OffByDefault)
    (instance,) = instances_of(found, Configuration(tasks={"OffByDefault": override}), []).values()
    assert instance.rule.enabled is enabled
    if override.enabled is None and not enabled:
        assert instance.disabled_reason == (
            "off by default: `_enabled = False` in the code; the configuration may switch it on"
        )


def test_a_class_that_is_off_by_default_can_be_switched_on_for_one_vo() -> None:
    @dataclasses.dataclass
    class OffPerVo(Report):
        _enabled = False

    found = TaskRegistry()
    found.add("acme:OffPerVo", OffPerVo)
    configuration = Configuration(task_vos={("OffPerVo", "lhcb"): Override(enabled=True)})
    instances = instances_of(found, configuration, ["lhcb", "atlas"])
    assert {key.vo: each.rule.enabled for key, each in instances.items()} == {"lhcb": True, "atlas": False}


def removed(*keys: ScheduleKey, configuration: Configuration | None = None, vos_known: bool = True) -> dict[str, str]:
    """Why the schedules with these keys end, if they do, when lhcb is the only VO."""
    wanted = instances_of(registry(), configuration or Configuration(), ["lhcb"])
    found = removed_instances(registry(), keys, wanted, vos_known=vos_known)
    assert all(each.removed and not each.rule.enabled for each in found)
    return {str(each.key): each.disabled_reason or "" for each in found}


def test_only_the_schedule_of_a_removed_vo_of_an_installed_task_is_ended() -> None:
    old = ScheduleKey("test:Report", "old")
    others = ScheduleKey("test:Hourly"), ScheduleKey("other:Report", "old"), ScheduleKey("test:Hourly", "old")
    assert removed(old, *others, ScheduleKey("test:Report"), ScheduleKey("test:Report", "lhcb")) == {
        "test:Report@old": "the VO was removed"
    }
    assert removed(old, ScheduleKey("test:Report", "lhcb", "gone"), vos_known=False) == {}


def test_the_schedule_of_an_entry_that_the_configuration_has_no_more_is_ended() -> None:
    keys = [ScheduleKey("test:Report", "lhcb", "Gone"), ScheduleKey("test:Hourly", "", "Gone")]
    why = "its entry was removed"
    assert removed(*keys) == {"test:Report@lhcb+Gone": why, "test:Hourly+Gone": why}
    assert removed(*keys, vos_known=False) == {"test:Hourly+Gone": why}
    named = Configuration(tasks={"test:Report": Override(entries={"New": Entry()})})
    assert removed(ScheduleKey("test:Report", "lhcb"), configuration=named) == {"test:Report@lhcb": why}


@pytest.mark.parametrize(
    ("key", "there"),
    [
        (ScheduleKey("test:Hourly"), True),
        (ScheduleKey("test:Hourly", entry="A"), True),
        (ScheduleKey("test:Report", "lhcb"), True),
        (ScheduleKey("test:Report"), False),
        (ScheduleKey("test:Hourly", "lhcb"), False),
        (ScheduleKey("test:Delayed"), False),
        (ScheduleKey("test:Nowhere", "lhcb"), False),
        (ScheduleKey("test:Ticks"), True),
    ],
    ids=str,
)
def test_a_task_has_a_schedule_as_it_is_installed_here(key: ScheduleKey, there: bool) -> None:
    tasks = registry()
    tasks.add("test:Ticks", Ticks)
    tasks.withdraw("test:Ticks", "it cannot be loaded, and may be mended")
    assert has_task(tasks, key) == there
