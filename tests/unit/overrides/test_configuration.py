"""Which of the values of a configuration counts for a task, or for an object that it locks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diracx.tasks.plumbing.overrides.configuration import (
    DEFAULT,
    Configuration,
    Entry,
    Limit,
    LimitKind,
    ObjectLimits,
    Override,
    RateLimit,
    type_name,
)
from diracx.tasks.plumbing.schedules import IntervalSeconds

TASK = "pilots:SubmitPilots"
RATE = RateLimit(10, 60)
NAMES = st.sampled_from([TASK, "SubmitPilots"])


@pytest.mark.parametrize("name", [TASK, "SubmitPilots"])
def test_the_settings_of_a_vo_win_one_by_one_over_those_of_the_task(name: str) -> None:
    entries = {"CERN": Entry(args={"ce_regex": "cern"})}
    configuration = Configuration(
        tasks={name: Override(enabled=False, schedule=IntervalSeconds(5), rate_limit=RATE, entries=entries, path="t")},
        task_vos={(name, "lhcb"): Override(enabled=True, concurrency_limit=1, path="v")},
    )
    assert configuration.override(TASK, "lhcb") == Override(
        enabled=True,
        schedule=IntervalSeconds(5),
        rate_limit=RATE,
        concurrency_limit=1,
        entries=entries,
        path="v",
        limits_path="v",
    )
    for vo in (None, "", "atlas"):
        assert configuration.override(TASK, vo).enabled is False
        assert configuration.override(TASK, vo).concurrency_limit is None
    assert configuration.override("other:SubmitPilot", "lhcb") == Override()


def test_the_entries_of_a_vo_replace_the_common_ones() -> None:
    common, own = {"a": Entry(), "b": Entry()}, {"b": Entry(enabled=False)}
    configuration = Configuration(
        tasks={TASK: Override(entries=common)}, task_vos={(TASK, "lhcb"): Override(entries=own)}
    )
    assert configuration.override(TASK, "lhcb").entries == own
    assert configuration.override(TASK, "atlas").entries == common


def test_the_class_alone_names_its_task_in_every_category() -> None:
    configuration = Configuration(tasks={"X": Override(enabled=False)}, task_vos={("X", "v"): Override(enabled=True)})
    for task in ("a:X", "b:X"):
        assert configuration.override(task).enabled is False
        assert configuration.override(task, "v").enabled is True
    assert Configuration(tasks={"a:X": Override(enabled=False)}).override("b:X").enabled is None


@pytest.mark.parametrize(
    ("common", "of_vo", "path"),
    [
        (None, None, None),
        (True, None, None),
        (False, None, "tasks.X.enabled"),
        (False, True, None),
        (None, False, "tasks.X.vos.v.enabled"),
        (True, False, "tasks.X.vos.v.enabled"),
        (False, False, "tasks.X.vos.v.enabled"),
    ],
)
def test_a_disabled_task_knows_where_it_is_written(common: bool | None, of_vo: bool | None, path: str | None) -> None:
    configuration = Configuration(
        tasks={"X": Override(enabled=common, path="tasks.X")},
        task_vos={("X", "v"): Override(enabled=of_vo, path="tasks.X.vos.v")},
    )
    assert configuration.disabled_at("a:X", "v") == path
    assert configuration.disabled_at("a:X") == ("tasks.X.enabled" if common is False else None)


def test_a_limit_of_a_task_counts_one_vo_apart_or_all_together() -> None:
    configuration = Configuration(
        tasks={TASK: Override(rate_limit=RATE, concurrency_limit=5, path="t", limits_path="limits.Task")},
        task_vos={(TASK, "lhcb"): Override(concurrency_limit=1, path="v")},
    )
    assert configuration.task_limit(LimitKind.CONCURRENCY, TASK, "lhcb") == Limit(LimitKind.CONCURRENCY, 1, "lhcb", "v")
    assert configuration.task_limit(LimitKind.RATE, TASK, "lhcb") == Limit(LimitKind.RATE, RATE, "", "limits.Task")
    for vo in (None, "", "atlas"):
        found = configuration.task_limit(LimitKind.CONCURRENCY, TASK, vo)
        assert found == Limit(LimitKind.CONCURRENCY, 5, "", "limits.Task")
    assert configuration.task_limit(LimitKind.RATE, "pilots:Other", "lhcb") is None


def test_a_type_matches_in_every_spelling() -> None:
    assert {type_name(obj) for obj in ("StorageElement", "storage_element", "storage-element", "STORAGEELEMENT")} == {
        "storageelement"
    }
    configuration = Configuration(objects={("", "storageelement", "CERN"): ObjectLimits(concurrency_limit=1, path="p")})
    found = configuration.object_limit(LimitKind.CONCURRENCY, "Storage_Element", ("CERN",))
    assert found == Limit(LimitKind.CONCURRENCY, 1, "", "p")
    assert configuration.object_limit(LimitKind.CONCURRENCY, "storage_element", ("cern",)) is None


LIMITED_TASKS = st.builds(Override, concurrency_limit=st.none() | st.integers(1, 9))
VOS = st.sampled_from(["", "lhcb", "atlas"])
KEYS = st.sampled_from(["CERN", DEFAULT])
PARTS = st.sampled_from([(), ("RemoveFile",), ("RemoveFile", "Slowly"), ("CreateFile",)])
PLACES = st.builds(lambda vo, key, parts: (vo, "job", key, *parts), st.sampled_from(["", "lhcb"]), KEYS, PARTS)
OBJECT_LIMITS = st.builds(ObjectLimits, rate_limit=st.none() | st.just(RATE), concurrency_limit=st.integers(1, 99))


@given(st.dictionaries(PLACES, OBJECT_LIMITS, min_size=5), st.sampled_from(LimitKind), KEYS, PARTS, VOS)
def test_the_most_specific_place_counts_for_an_object(
    objects: Mapping[tuple[str, ...], ObjectLimits], kind: LimitKind, key: str, parts: tuple[str, ...], vo: str
) -> None:
    """Of the places that match and set the limit: the VO first, then the key itself, then the most parts."""
    matching = {
        place: getattr(limits, kind)
        for place, limits in objects.items()
        if place[0] in ("", vo)
        and place[2] in (key, DEFAULT)
        and place[3:] == parts[: len(place) - 3]
        and getattr(limits, kind) is not None
    }
    configuration = Configuration(objects=objects)
    found = configuration.object_limit(kind, "Job", (key, *parts), vo or None)
    if not matching:
        assert found is None
    else:
        best = max(matching, key=lambda place: (place[0] == vo, place[2] == key, len(place)))
        assert found == Limit(kind, matching[best], best[0], "")


@given(
    st.dictionaries(NAMES, LIMITED_TASKS, max_size=1),
    st.dictionaries(st.tuples(NAMES, st.sampled_from(["lhcb", "atlas"])), LIMITED_TASKS, max_size=1),
    VOS,
)
def test_the_limit_of_a_task_is_that_of_its_settings(
    tasks: Mapping[str, Override], task_vos: Mapping[tuple[str, str], Override], vo: str
) -> None:
    configuration = Configuration(tasks=tasks, task_vos=task_vos)
    found = configuration.task_limit(LimitKind.CONCURRENCY, TASK, vo)
    value = configuration.override(TASK, vo).concurrency_limit
    assert (None if found is None else found.value) == value
    own = [each.concurrency_limit for (_, name), each in task_vos.items() if name == vo]
    assert found is None or found.vo == (vo if own and own[0] is not None else "")
