"""The list of schedules for operators."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.operations.schedules import (
    NO_VO,
    ListedSchedule,
    NoSuchScheduleError,
    check_vos,
    list_schedules,
    occurrences,
)
from diracx.tasks.plumbing.overrides.configuration import Configuration, Entry, Override
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.reconciler import StoredState
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, ScheduleState
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase
from support.scheduling import Hourly, Report, SubmitPilots

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def state(
    task: str, vo: str = "", *, entry: str = "", enabled: bool = True, ended: bool = False, held: bool = True
) -> StoredState:
    pending = (NOON, NOON + HOUR) if held else (NOON,)
    words = "every 3600 s"
    stored = ScheduleState(task=task, vo=vo, schedule=words, enabled=enabled, after=NOON, pending=pending, ended=ended)
    return StoredState(msgspec.structs.replace(stored, entry=entry or msgspec.UNSET), 1)


def listed(
    *states: StoredState,
    vos: tuple[str, ...] = (),
    configuration: Configuration | None = None,
    unreadable: bool = False,
    tasks: tuple[type[PeriodicBaseTask], ...] = (Hourly, Report),
) -> list[ListedSchedule]:
    registry = TaskRegistry()
    for task_class in tasks:
        registry.add(f"test:{task_class.__name__}", task_class)
    by_key = {stored.state.key: stored for stored in states}

    def is_unreadable(key: ScheduleKey) -> bool:
        return unreadable

    now = NOON + timedelta(minutes=1)
    return list_schedules(registry, configuration or Configuration(), vos, by_key, is_unreadable, now)


def test_a_schedule_is_listed_with_its_last_and_next_occurrence() -> None:
    (hourly,) = listed(state("test:Hourly"), tasks=(Hourly,))
    assert hourly == ListedSchedule(
        task="test:Hourly",
        vo=None,
        schedule="every 3600 s",
        enabled=True,
        last=NOON,
        next=NOON + HOUR,
        why_not=None,
        entry=None,
        args={},
    )


def test_vos_in_force_and_vos_that_are_still_scheduled_are_listed_in_order() -> None:
    rows = listed(state("test:Report", "old"), state("test:Report", "gone", enabled=False), vos=("lhcb", "atlas"))
    assert [(row.task, row.vo) for row in rows] == [
        ("test:Hourly", None),
        ("test:Report", "atlas"),
        ("test:Report", "lhcb"),
        ("test:Report", "old"),
    ]


def test_entries_are_listed_with_their_arguments_and_a_removed_one_until_it_is_ended() -> None:
    entries = {"B": Entry(args={"count": 2}), "A": Entry(enabled=False, path="tasks.X.entries.A")}
    configuration = Configuration(tasks={"test:SubmitPilots": Override(entries=entries)})
    gone = state("test:SubmitPilots", "lhcb", entry="Gone")
    rows = listed(gone, vos=("lhcb",), configuration=configuration, tasks=(SubmitPilots,))
    assert [(row.vo, row.entry, row.args, row.enabled, row.why_not) for row in rows] == [
        ("lhcb", "A", {}, False, "disabled by the configuration: tasks.X.entries.A"),
        ("lhcb", "B", {"count": 2}, True, "no scheduler has taken it up yet"),
        ("lhcb", "Gone", {}, False, None),
    ]


def test_a_task_for_each_vo_is_a_row_with_that_reason_where_no_vo_is_known() -> None:
    hourly, report = listed(state("test:Hourly"))
    assert (report.task, report.vo, report.schedule, report.enabled) == ("test:Report", None, "every 3600 s", True)
    assert (report.last, report.next, report.why_not) == (None, None, NO_VO)
    assert hourly.why_not is None
    # A task whose entries were taken away has none for another reason.
    none = Configuration(tasks={"test:Report": Override(entries={})})
    assert [row.task for row in listed(vos=("lhcb",), configuration=none)] == ["test:Hourly"]


DISABLED = parse("tasks: {'test:Hourly': {enabled: false}}")


@pytest.mark.parametrize(
    ("states", "configuration", "unreadable", "why_not"),
    [
        ([], None, True, "its state cannot be read"),
        ([], DISABLED, False, "disabled by the configuration"),
        ([], None, False, "no scheduler has taken it up yet"),
        ([state("test:Hourly", ended=True, held=False)], None, False, "it has ended"),
        ([state("test:Hourly", held=False)], None, False, "no scheduler is running"),
        ([state("test:Hourly", enabled=False, held=False)], None, False, "no scheduler has enabled it yet"),
    ],
)
def test_a_schedule_without_a_next_occurrence_says_why(
    states: list[StoredState], configuration: Configuration | None, unreadable: bool, why_not: str
) -> None:
    (hourly, _) = listed(*states, configuration=configuration, unreadable=unreadable)
    assert (hourly.next, hourly.why_not) == (None, why_not)


def test_a_vo_is_one_of_those_that_are_known_and_any_where_none_is() -> None:
    check_vos(["lhcb", "atlas"], {"lhcb", "atlas"})
    check_vos(["cms"], set())


@pytest.mark.parametrize(("vo", "hint"), [("lhbc", "did you mean lhcb?"), ("x", "there is atlas, lhcb")])
def test_another_one_is_refused_with_a_near_name_or_all(vo: str, hint: str) -> None:
    with pytest.raises(NoSuchScheduleError) as refused:
        check_vos(["lhcb", vo], {"lhcb", "atlas"})
    assert str(refused.value) == f"no VO {vo!r} is known here; {hint}"


class Breaks(TaskScheduleBase):
    """An author's own schedule, which knows two occurrences."""

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        if after != NOON:
            raise ZeroDivisionError
        return NOON + HOUR


class Stands(TaskScheduleBase):
    """An author's own schedule, which does not advance."""

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        return NOON


class FromNow(TaskScheduleBase):
    def next_occurrence(self) -> datetime:  # type: ignore[override]
        raise AssertionError("it cannot be asked about the future")


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [(IntervalSeconds(3600), [0, 1, 2, 3]), (Breaks(), [0, 1]), (Stands(), [0]), (FromNow(), [0])],
)
def test_the_occurrences_of_a_while_are_those_that_its_schedule_tells(
    schedule: TaskScheduleBase, hours: list[int]
) -> None:
    found = occurrences(Rule(schedule), NOON, NOON + 3 * HOUR, 10)
    assert found == [NOON + hour * HOUR for hour in hours]


def test_so_many_occurrences_are_told_at_the_most_and_none_beyond_the_while() -> None:
    rule = Rule(IntervalSeconds(1))
    assert len(occurrences(rule, NOON, NOON + HOUR, 100)) == 100
    assert occurrences(rule, NOON + 2 * HOUR, NOON + HOUR, 100) == []
