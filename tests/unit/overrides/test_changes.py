"""The limits of a configuration, and what changes between two of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.lock_registry import register_locked_object_type
from diracx.tasks.plumbing.overrides.changes import Change, SetLimit, changes_between, limits_of
from diracx.tasks.plumbing.overrides.configuration import (
    DEFAULT,
    Configuration,
    Entry,
    LimitKind,
    ObjectLimits,
    Override,
    RateLimit,
)
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.schedules import IntervalSeconds

TYPE = register_locked_object_type("storage_element_of_changes")


@dataclasses.dataclass
class Sync(BaseTask):
    name: str

    async def execute(self) -> None: ...


class Clean(PeriodicBaseTask):
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


class Sleeps(PeriodicBaseTask):
    default_schedule = IntervalSeconds(60)
    _enabled = False

    async def execute(self) -> None: ...


@dataclasses.dataclass
class Report(PeriodicVoAwareBaseTask):
    vo: str

    default_schedule = IntervalSeconds(60)

    async def execute(self) -> None: ...


def installed() -> TaskRegistry:
    registry = TaskRegistry()
    for task_class in (Sync, Clean, Sleeps, Report):
        registry.add(f"acme:{task_class.__name__}", task_class)
    return registry


@pytest.fixture
def registry() -> TaskRegistry:
    return installed()


def rows(
    registry: TaskRegistry, before: str | Configuration, after: str | Configuration
) -> list[tuple[str | None, str | None, str, str | None, str | None]]:
    """The changes of tasks and of the mesh: task, VO, setting, before, after."""
    old, new = (parse(each) if isinstance(each, str) else each for each in (before, after))
    found = changes_between(old, new, registry)
    assert [(each.before, each.after) for each in changes_between(new, old, registry)] == [
        (each.after, each.before) for each in found
    ], "the way back is the reverse"
    return [(each.task, each.vo, each.setting, each.before, each.after) for each in found]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", "# nothing yet\n{}"),
        ("vos: [lhcb]", "# ours\nvos:\n  - lhcb\ntasks: {}"),
        ("{}", "tasks: {acme:Clean: {schedule: {interval: 3600}, enabled: true}}"),
        ("{}", "tasks: {acme:Sleeps: {enabled: false}}"),
        ("{}", "tasks: {acme:Sync: {enabled: true}}"),
        ("tasks: {acme:Sync: {concurrency_limit: 5}}", "tasks: {Sync: {concurrency_limit: 5}}"),
        (
            "tasks: {acme:Sync: {enabled: false}}",
            "tasks: {acme:Sync: {enabled: false, vos: {atlas: {enabled: false}}}}",
        ),
        ("tasks: {gone:Task: {concurrency_limit: 5}}", "tasks: {Task: {concurrency_limit: 5}}"),
    ],
)
def test_another_way_to_write_the_same_changes_nothing(registry: TaskRegistry, before: str, after: str) -> None:
    assert rows(registry, before, after) == []


def test_the_settings_of_a_task_change_one_row_each(registry: TaskRegistry) -> None:
    before = "tasks: {acme:Clean: {rate_limit: {limit: 10, window_seconds: 60}}}"
    after = (
        "tasks: {acme:Clean: {enabled: false, schedule: {cron: '0 7 * * *', timezone: Europe/Zurich}, "
        "rate_limit: {limit: 10, window_seconds: 0.5}, concurrency_limit: 5}}"
    )
    assert rows(registry, before, after) == [
        ("acme:Clean", None, "concurrency_limit", None, "5"),
        ("acme:Clean", None, "enabled", "true", "false"),
        ("acme:Clean", None, "rate_limit", "10 in 60 s", "10 in 0.5 s"),
        ("acme:Clean", None, "schedule", "every 3600 s", "cron 0 7 * * * (Europe/Zurich)"),
    ]


def test_a_class_alone_means_its_installed_tasks(registry: TaskRegistry) -> None:
    registry.add("other:Sync", Sync)
    assert rows(registry, "{}", "tasks: {Sync: {concurrency_limit: 5}}") == [
        ("acme:Sync", None, "concurrency_limit", None, "5"),
        ("other:Sync", None, "concurrency_limit", None, "5"),
    ]


def test_a_task_that_is_not_installed_is_shown_as_it_is_written(registry: TaskRegistry) -> None:
    assert rows(registry, "{}", "tasks: {Gone: {enabled: true, schedule: {interval: 60}}}") == [
        ("Gone", None, "enabled", None, "true"),
        ("Gone", None, "schedule", None, "every 60 s"),
    ]


def test_a_switched_off_class_is_switched_on(registry: TaskRegistry) -> None:
    assert rows(registry, "{}", "tasks: {acme:Sleeps: {enabled: true}}") == [
        ("acme:Sleeps", None, "enabled", "false", "true")
    ]


def test_a_vo_with_a_setting_of_its_own_has_its_own_row(registry: TaskRegistry) -> None:
    before = "tasks: {acme:Sync: {concurrency_limit: 5, vos: {atlas: {concurrency_limit: 2}, lhcb: {enabled: true}}}}"
    after = "tasks: {acme:Sync: {concurrency_limit: 6, vos: {atlas: {concurrency_limit: 3}, lhcb: {enabled: true}}}}"
    assert rows(registry, before, after) == [
        ("acme:Sync", None, "concurrency_limit", "5", "6"),
        ("acme:Sync", "atlas", "concurrency_limit", "2", "3"),
    ]


def test_a_vo_that_begins_to_count_apart_is_a_change_though_the_number_is_the_same(registry: TaskRegistry) -> None:
    before = "tasks: {acme:Sync: {concurrency_limit: 5}}"
    after = "tasks: {acme:Sync: {concurrency_limit: 5, vos: {atlas: {concurrency_limit: 5}}}}"
    assert rows(registry, before, after) == [
        ("acme:Sync", "atlas", "concurrency_limit", "5 for all VOs together", "5"),
    ]


def test_vos_that_come_and_go_change_the_schedules_of_tasks_that_run_per_vo(registry: TaskRegistry) -> None:
    before = "{vos: [lhcb, cms], tasks: {acme:Report: {vos: {cms: {enabled: false}}}}}"
    after = (
        "{vos: [lhcb, atlas], tasks: {acme:Report: {vos: {atlas: {schedule: {interval: 5}, concurrency_limit: 1}}}}}"
    )
    assert rows(registry, before, after) == [
        (None, None, "vos", "lhcb, cms", "lhcb, atlas"),
        ("acme:Report", "atlas", "concurrency_limit", None, "1"),
        ("acme:Report", "atlas", "schedule", None, "every 5 s"),
    ]


@pytest.mark.parametrize(("vos", "words"), [("[lhcb]", "lhcb"), ("[]", "none")])
def test_the_first_vos_are_one_row_since_they_may_have_come_from_elsewhere(
    registry: TaskRegistry, vos: str, words: str
) -> None:
    assert rows(registry, "{}", f"vos: {vos}") == [(None, None, "vos", None, words)]


def with_entries(*names: str, task: str = "acme:Clean", **settings: object) -> Configuration:
    entries = {name: Entry(args={"b": 2, "a": name}, schedule=IntervalSeconds(5)) for name in names}
    return Configuration(tasks={task: Override(entries=entries, **settings)})  # type: ignore[arg-type]


def test_entries_take_the_place_of_the_one_schedule(registry: TaskRegistry) -> None:
    assert rows(registry, Configuration(), with_entries("x", "y")) == [
        ("acme:Clean", None, "schedule", "every 3600 s", None),
        ("acme:Clean", None, "entries.x", None, 'every 5 s; args {"a":"x","b":2}'),
        ("acme:Clean", None, "entries.y", None, 'every 5 s; args {"a":"y","b":2}'),
    ]


def test_an_entry_is_shown_with_what_it_takes_from_its_task(registry: TaskRegistry) -> None:
    one, other = (
        Configuration(tasks={"acme:Clean": Override(enabled=enabled, entries={"": Entry()})})
        for enabled in (True, False)
    )
    assert rows(registry, one, other) == [
        ("acme:Clean", None, "enabled", "true", "false"),
        ("acme:Clean", None, "entries.", "every 3600 s", "every 3600 s; disabled"),
    ]
    gone = Configuration(tasks={"gone:Task": Override(entries={"x": Entry(enabled=True)})})
    assert rows(registry, Configuration(), gone)[-1] == ("gone:Task", None, "entries.x", None, "as the task")


def test_an_entry_is_switched_on_where_the_code_switches_the_task_off_but_not_where_the_configuration_does(
    registry: TaskRegistry,
) -> None:
    entries = {"x": Entry(enabled=True), "y": Entry()}
    by_code = Configuration(tasks={"acme:Sleeps": Override(entries=entries)})
    by_configuration = Configuration(tasks={"acme:Sleeps": Override(entries=entries, enabled=False)})
    assert rows(registry, by_code, by_configuration) == [
        ("acme:Sleeps", None, "entries.x", "every 60 s", "every 60 s; disabled"),
    ]


def test_the_entries_of_a_vo_replace_the_common_ones(registry: TaskRegistry) -> None:
    common = with_entries("x", task="acme:Report")
    entries = {"y": Entry(schedule=IntervalSeconds(7))}
    after = Configuration(tasks=common.tasks, task_vos={("acme:Report", "atlas"): Override(entries=entries)})
    assert rows(registry, common, after) == [
        ("acme:Report", "atlas", "entries.x", 'every 5 s; args {"a":"x","b":2}', None),
        ("acme:Report", "atlas", "entries.y", None, "every 7 s"),
    ]


def test_a_vo_that_comes_runs_the_entries(registry: TaskRegistry) -> None:
    entries = {"": Entry(), "x": Entry(), "y": Entry(enabled=False)}
    tasks = {"acme:Report": Override(entries=entries)}
    before, after = (Configuration(vos=vos, tasks=tasks) for vos in (("lhcb",), ("lhcb", "atlas")))
    assert rows(registry, before, after)[1:] == [
        ("acme:Report", "atlas", "schedule", None, "entries without a name, x")
    ]


@pytest.mark.parametrize("override", [Override(enabled=False), Override(entries={})])
def test_a_vo_that_comes_and_runs_nothing_is_no_change_of_the_task(registry: TaskRegistry, override: Override) -> None:
    tasks = {"acme:Report": override}
    before, after = (Configuration(vos=vos, tasks=tasks) for vos in (("lhcb",), ("lhcb", "atlas")))
    assert rows(registry, before, after) == [(None, None, "vos", "lhcb", "lhcb, atlas")]


def test_a_locked_type_is_shown_as_it_is_registered(registry: TaskRegistry) -> None:
    key = ("", "storageelementofchanges", "CERN")
    configuration = Configuration(objects={key: ObjectLimits(concurrency_limit=1)})
    shown = (TYPE, "CERN")
    assert [each.object for each in changes_between(Configuration(), configuration, registry)] == [shown]
    assert [each.object for each in limits_of(configuration, registry)] == [shown]


def test_limits_of_objects_change_by_their_place(registry: TaskRegistry) -> None:
    ten, five = (ObjectLimits(concurrency_limit=limit, path="limits.Transformation.default") for limit in (10, 5))
    rate = ObjectLimits(rate_limit=RateLimit(limit=3, window_seconds=60))
    before = Configuration(objects={("", "transformation", "default"): ten})
    after = Configuration(
        objects={
            ("", "transformation", "default"): five,
            ("lhcb", "storageelement", "CERN-DST", "RemoveFile"): rate,
        }
    )
    common, lhcb = changes_between(before, after, registry)
    assert common == Change(
        task=None,
        object=("transformation", "default"),
        vo=None,
        setting="concurrency_limit",
        before="10",
        after="5",
    )
    assert lhcb.object == ("storageelement", "CERN-DST", "RemoveFile")
    assert (lhcb.vo, lhcb.setting, lhcb.before, lhcb.after) == ("lhcb", "rate_limit", None, "3 in 60 s")


def test_each_limit_has_a_row_with_the_place_where_it_is_written(registry: TaskRegistry) -> None:
    text = (
        "tasks: {Sync: {concurrency_limit: 5, rate_limit: {limit: 10, window_seconds: 60}, "
        "vos: {atlas: {concurrency_limit: 2}, lhcb: {enabled: false}}}, gone:Task: {concurrency_limit: 1}}"
    )
    places: dict[tuple[str, ...], ObjectLimits] = {
        ("", "transformation", "12345"): ObjectLimits(concurrency_limit=5, path="limits.Transformation.12345"),
        ("lhcb", "transformation", "default"): ObjectLimits(
            rate_limit=RateLimit(limit=3, window_seconds=60), path="vo_limits.lhcb.Transformation.default"
        ),
    }
    parsed = parse(text)
    configuration = Configuration(tasks=parsed.tasks, task_vos=parsed.task_vos, objects=places)
    found = limits_of(configuration, registry)
    assert [(each.task, each.object, each.kind, each.vo, each.limit, each.window_seconds) for each in found] == [
        ("acme:Sync", None, LimitKind.RATE, None, 10, 60),
        ("acme:Sync", None, LimitKind.CONCURRENCY, None, 5, None),
        ("acme:Sync", None, LimitKind.CONCURRENCY, "atlas", 2, None),
        ("gone:Task", None, LimitKind.CONCURRENCY, None, 1, None),
        (None, ("transformation", "12345"), LimitKind.CONCURRENCY, None, 5, None),
        (None, ("transformation", "default"), LimitKind.RATE, "lhcb", 3, 60),
    ]
    assert [each.path for each in found] == [
        "tasks.Sync",
        "tasks.Sync",
        "tasks.Sync.vos.atlas",
        "tasks.gone:Task",
        "limits.Transformation.12345",
        "vo_limits.lhcb.Transformation.default",
    ]
    assert list(SetLimit.__struct_fields__) == [
        *("task", "object", "kind", "vo", "limit", "window_seconds", "path"),
    ]
    assert list(Change.__struct_fields__) == ["task", "object", "vo", "setting", "before", "after"]


ENABLED = st.sampled_from([None, True, False])
SCHEDULES = st.sampled_from([None, IntervalSeconds(60), IntervalSeconds(3600)])
LIMITS = st.sampled_from([None, 1, 2])
OVERRIDES = st.builds(Override, enabled=ENABLED, schedule=SCHEDULES, concurrency_limit=LIMITS)
TASKS = st.sampled_from(["acme:Sync", "Clean", "acme:Sleeps", "Report", "gone:Task"])
VOS = st.sampled_from(["lhcb", "atlas"])
PARTS = [("7",), ("7", "x"), ("8", "x")]
PLACES = st.tuples(st.sampled_from(["", "lhcb"]), st.just("job"), st.sampled_from(["7", DEFAULT])) | st.tuples(
    st.sampled_from(["", "lhcb"]), st.just("job"), st.sampled_from(["7", DEFAULT]), st.just("x")
)
CONFIGURATIONS = st.builds(
    Configuration,
    tasks=st.dictionaries(TASKS, OVERRIDES),
    task_vos=st.dictionaries(st.tuples(TASKS, VOS), OVERRIDES),
    objects=st.dictionaries(PLACES, st.builds(ObjectLimits, concurrency_limit=LIMITS)),
)


def in_effect(configuration: Configuration, registry: TaskRegistry, vo: str | None) -> set[tuple[str, str, object]]:
    """Task, setting and value, as workers and schedulers read them for one VO, or for none."""
    classes: dict[str, Any] = {task.name: task.task_class for task in registry} | {"gone:Task": None}
    found: set[tuple[str, str, object]] = set()
    for task, task_class in classes.items():
        override = configuration.override(task, vo)
        limit = configuration.task_limit(LimitKind.CONCURRENCY, task, vo)
        enabled = getattr(task_class, "_enabled", None if task_class is None else True)
        found |= {
            (task, "enabled", enabled if override.enabled is None else override.enabled),
            (task, "schedule", override.schedule or getattr(task_class, "default_schedule", None)),
            (task, "concurrency_limit", limit and (limit.value, limit.vo)),
        }
    return found


@given(CONFIGURATIONS, CONFIGURATIONS)
def test_the_settings_with_a_row_are_those_that_differ_for_workers_and_schedulers(
    before: Configuration, after: Configuration
) -> None:
    tasks = installed()
    found = changes_between(before, after, tasks)
    differing = set()
    for vo in (None, "lhcb", "atlas"):
        differing |= {each[:2] for each in in_effect(before, tasks, vo) ^ in_effect(after, tasks, vo)}
    assert {(each.task, each.setting) for each in found if each.task} == differing
    if all(each.object is None for each in found):
        for vo in (None, "lhcb", "atlas"):
            for parts in PARTS:
                limits = [each.object_limit(LimitKind.CONCURRENCY, "job", parts, vo) for each in (before, after)]
                assert [limit and limit.value for limit in limits[:1]] == [
                    limit and limit.value for limit in limits[1:]
                ]
