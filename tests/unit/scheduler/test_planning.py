"""The occurrences that the scheduler decides to publish, by stored state, rule and time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.exceptions import ScheduleEndedError
from diracx.tasks.plumbing.scheduler.planning import MAX_OCCURRENCES_PER_PLAN, Plan, Rule, decide, next_decision
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, ScheduleState
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule, TaskScheduleBase

HORIZON = timedelta(seconds=30)
NOON = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)
KEY = ScheduleKey("lollygag:OwnerCleanupTask")


def at(text: str) -> datetime:
    """A time of that day."""
    return datetime.fromisoformat(f"2026-12-01T{text}+00:00")


def second(number: float) -> datetime:
    return NOON + timedelta(seconds=number)


def plan(
    state: ScheduleState | None,
    schedule: TaskScheduleBase,
    now: datetime,
    *,
    enabled: bool = True,
    arguments: bytes = b"",
    held: Mapping[datetime, int] | None = None,
) -> Plan:
    decided = decide(KEY, state, Rule(schedule, enabled, arguments), now, HORIZON, held=held or {})
    assert decided is not None
    return decided


def dues(decided: Plan) -> list[datetime]:
    return [occurrence.due for occurrence in decided.occurrences]


def supplied(schedule: TaskScheduleBase, now: datetime) -> ScheduleState:
    return plan(None, schedule, now).state


def test_a_new_schedule_begins_with_its_next_occurrence_however_far_away() -> None:
    assert dues(plan(None, CronSchedule("0 6 * * *"), NOON)) == [datetime(2026, 12, 2, 6, tzinfo=UTC)]


def test_a_fast_schedule_is_supplied_beyond_the_horizon() -> None:
    published = dues(plan(None, IntervalSeconds(10), NOON))
    assert published == [second(number) for number in range(10, 51, 10)]


def test_nothing_is_decided_while_the_horizon_is_covered() -> None:
    hourly = IntervalSeconds(3600)
    state = supplied(hourly, NOON)
    assert decide(KEY, state, Rule(hourly), at("12:59:29"), HORIZON) is None
    assert next_decision(state, Rule(hourly), HORIZON) == at("12:59:30")
    assert dues(plan(state, hourly, at("12:59:30"))) == [at("14:00:00")]


def test_an_occurrence_expires_when_the_next_one_is_due() -> None:
    (occurrence,) = plan(None, IntervalSeconds(3600), NOON).occurrences
    assert occurrence.expires == at("14:00:00")


def test_an_occurrence_of_a_fast_schedule_waits_five_seconds_for_a_worker() -> None:
    assert {each.expires - each.due for each in plan(None, IntervalSeconds(1), NOON).occurrences if each.expires} == {
        timedelta(seconds=5)
    }


def test_missed_occurrences_are_caught_up_once_by_the_latest() -> None:
    hourly = IntervalSeconds(3600)
    decided = plan(supplied(hourly, NOON), hourly, at("19:30:00"))
    assert dues(decided) == [at("19:00:00"), at("20:00:00")]


def test_an_occurrence_that_the_server_held_is_not_caught_up() -> None:
    hourly = IntervalSeconds(3600)
    assert dues(plan(supplied(hourly, NOON), hourly, at("13:30:00"))) == [at("14:00:00")]


def test_years_of_missed_occurrences_are_found_without_a_walk() -> None:
    fast = CountingSchedule()
    state = supplied(fast, NOON)
    fast.calls = 0
    decided = plan(state, fast, NOON + timedelta(days=3650))
    assert decided.occurrences[0].due == NOON + timedelta(days=3650)
    assert fast.calls < 1_000


class CountingSchedule(TaskScheduleBase):
    """Every second; counts its calls."""

    calls = 0

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        self.calls += 1
        return IntervalSeconds(1).next_occurrence(after)

    def __str__(self) -> str:
        return "every second"


def test_a_disabled_schedule_withdraws_the_held_occurrences() -> None:
    hourly = IntervalSeconds(3600)
    decided = plan(supplied(hourly, NOON), hourly, at("12:30:00"), enabled=False)
    assert decided.state.cancelled == (at("13:00:00"),)
    assert not decided.state.enabled
    assert not decided.state.pending
    assert decide(KEY, decided.state, Rule(hourly, False), at("12:31:00"), HORIZON) is None


def test_a_schedule_that_was_never_enabled_leaves_no_state() -> None:
    assert decide(KEY, None, Rule(IntervalSeconds(3600), False), NOON, HORIZON) is None


def test_an_occurrence_missed_while_disabled_is_not_caught_up() -> None:
    hourly = IntervalSeconds(3600)
    disabled = plan(supplied(hourly, NOON), hourly, at("12:30:00"), enabled=False).state
    assert dues(plan(disabled, hourly, at("18:30:00"))) == [at("19:00:00")]


def test_an_occurrence_about_to_fall_due_is_not_published_again_after_it_was_withdrawn() -> None:
    hourly = IntervalSeconds(3600)
    disabled = plan(supplied(hourly, NOON), hourly, at("12:59:55"), enabled=False).state
    assert dues(plan(disabled, hourly, at("12:59:56"))) == [at("14:00:00")]


def test_a_changed_schedule_keeps_the_occurrences_that_both_have() -> None:
    state = supplied(IntervalSeconds(20), NOON)
    assert state.pending == (second(20), second(40), second(60))
    decided = plan(state, IntervalSeconds(30), second(1))
    assert decided.state.pending == (second(30), second(60))
    assert decided.state.cancelled == (second(20), second(40))
    assert dues(decided) == [second(30)]


def test_a_clock_that_is_set_back_repeats_no_occurrence() -> None:
    ten = IntervalSeconds(10)
    state = plan(supplied(ten, NOON), ten, second(30)).state
    disabled = plan(state, ten, second(30), enabled=False).state
    assert min(dues(plan(disabled, ten, second(25)))) > second(30)


def test_a_rule_that_has_ended_is_marked_once() -> None:
    thrice = RRuleSchedule("DTSTART:20261201T120000Z RRULE:FREQ=HOURLY;COUNT=3")
    state = supplied(thrice, at("11:00:00"))
    assert not state.ended
    state = plan(state, thrice, at("11:59:50")).state
    decided = plan(state, thrice, at("12:59:50"))
    assert decided.state.ended
    assert decided.occurrences[-1].expires is None
    assert decide(KEY, decided.state, Rule(thrice), at("18:00:00"), HORIZON) is None
    assert next_decision(decided.state, Rule(thrice), HORIZON) is None


def test_a_rule_that_had_ended_before_it_began_publishes_nothing() -> None:
    over = RRuleSchedule("DTSTART:20250101T120000Z RRULE:FREQ=HOURLY;COUNT=3")
    decided = plan(None, over, NOON)
    assert decided.state.ended
    assert not decided.occurrences


ONE, OTHER = b'{"a":1}', b'{"a":2}'


def test_new_arguments_replace_the_occurrences_that_the_server_still_holds_and_add_none() -> None:
    ten = IntervalSeconds(10)
    state = plan(None, ten, NOON, arguments=ONE).state
    assert state.arguments == ONE
    # By the server's clock, the first one has fallen due.
    held = {second(20): 7, second(30): 8, second(40): 9, second(50): 10}
    decided = plan(state, ten, second(9), arguments=OTHER, held=held)
    assert {each.due: each.replaces for each in decided.occurrences} == held
    assert all(each.expires == each.due + timedelta(seconds=10) for each in decided.occurrences)
    assert decided.catch_up is None
    assert decided.state == msgspec.structs.replace(state, args=msgspec.Raw(OTHER))
    assert decide(KEY, decided.state, Rule(ten, True, OTHER), second(9), HORIZON) is None


def test_arguments_that_are_no_longer_given_are_a_change() -> None:
    hourly = IntervalSeconds(3600)
    state = plan(None, hourly, NOON, arguments=ONE).state
    decided = plan(state, hourly, second(1), held={at("13:00:00"): 7})
    assert dues(decided) == [at("13:00:00")]
    assert decided.state.arguments == b""


def test_new_arguments_come_with_a_new_rule_and_with_the_next_occurrences() -> None:
    state = plan(None, IntervalSeconds(20), NOON, arguments=ONE).state
    held = {second(20): 1, second(40): 2, second(60): 3}
    decided = plan(state, IntervalSeconds(30), second(1), arguments=OTHER, held=held)
    assert [(each.due, each.replaces) for each in decided.occurrences] == [(second(60), 3), (second(30), None)]
    assert decided.state.cancelled == (second(20), second(40))
    decided = plan(state, IntervalSeconds(20), second(31), arguments=OTHER, held={second(40): 2, second(60): 3})
    assert [(each.due, each.replaces) for each in decided.occurrences] == [
        (second(40), 2),
        (second(60), 3),
        (second(80), None),
    ]


def test_new_arguments_of_a_rule_that_has_ended_replace_its_last_occurrence() -> None:
    once = RRuleSchedule("DTSTART:20261201T130000Z RRULE:FREQ=HOURLY;COUNT=1")
    state = plan(None, once, NOON, arguments=ONE).state
    decided = plan(state, once, second(1), arguments=OTHER, held={at("13:00:00"): 7})
    assert [(each.due, each.expires) for each in decided.occurrences] == [(at("13:00:00"), None)]
    assert decided.state.ended


def test_more_occurrences_than_one_write_holds_are_withdrawn_and_published_again_by_the_next_plan() -> None:
    fast, horizon = IntervalSeconds(0.5), timedelta(seconds=240)
    state: ScheduleState | None = None
    while (decided := decide(KEY, state, Rule(fast, True, ONE), NOON, horizon)) is not None:
        state = decided.state
    assert state is not None
    held = {due: number for number, due in enumerate(state.pending)}
    decided = decide(KEY, state, Rule(fast, True, OTHER), NOON, horizon, held=held)
    assert decided is not None
    assert len(decided.occurrences) == MAX_OCCURRENCES_PER_PLAN
    assert {*decided.state.pending, *decided.state.cancelled} == set(state.pending)
    again = decide(KEY, decided.state, Rule(fast, True, OTHER), NOON, horizon)
    assert again is not None
    assert again.occurrences[0].due == decided.state.pending[-1] + timedelta(seconds=0.5)


class FromNow(TaskScheduleBase):
    """As in DiracX: an hour from now, whenever it is asked."""

    def __init__(self) -> None:
        self._now = NOON
        self._asked = 0

    def next_occurrence(self) -> datetime:  # type: ignore[override]
        self._asked += 1
        return self._now + timedelta(hours=1)

    def asked_at(self, now: datetime) -> FromNow:
        self._now = now
        return self


def test_a_schedule_that_answers_from_now_is_asked_again_once_the_known_occurrence_has_passed() -> None:
    hourly = FromNow()
    first = plan(None, hourly, NOON)
    assert [(each.due, each.expires) for each in first.occurrences] == [(at("13:00:00"), None)]
    assert decide(KEY, first.state, Rule(hourly.asked_at(at("12:59:59"))), at("12:59:59"), HORIZON) is None
    assert next_decision(first.state, Rule(hourly), HORIZON) == at("13:00:00")
    second_plan = plan(first.state, hourly.asked_at(at("13:00:01")), at("13:00:01"))
    assert [(each.due, each.expires) for each in second_plan.occurrences] == [(at("14:00:01"), at("15:00:02"))]
    assert hourly._asked == 2


def test_what_a_schedule_that_answers_from_now_missed_is_not_caught_up() -> None:
    hourly = FromNow()
    state = plan(None, hourly, NOON).state
    decided = plan(state, hourly.asked_at(at("20:00:00")), at("20:00:00"))
    assert dues(decided) == [at("21:00:00")]
    assert decided.catch_up is None


def test_new_arguments_leave_the_known_occurrence_of_a_schedule_that_answers_from_now_where_it_is() -> None:
    hourly = FromNow()
    state = plan(None, hourly, NOON, arguments=ONE).state
    decided = plan(state, hourly.asked_at(second(9)), second(9), arguments=OTHER, held={at("13:00:00"): 7})
    assert dues(decided) == [at("13:00:00")]
    assert hourly._asked == 1


def test_a_changed_or_disabled_schedule_that_answers_from_now_is_asked_anew() -> None:
    hourly = FromNow()
    state = plan(None, IntervalSeconds(7200), NOON).state
    decided = plan(state, hourly.asked_at(second(9)), second(9))
    assert (dues(decided), decided.state.cancelled) == ([at("13:00:09")], state.pending)
    disabled = plan(decided.state, hourly, second(20), enabled=False).state
    assert disabled.cancelled == (at("13:00:09"),)
    assert dues(plan(disabled, hourly.asked_at(second(60)), second(60))) == [at("13:01:00")]


def test_a_schedule_that_answers_from_now_cannot_flood_the_queue() -> None:
    class AtOnce(TaskScheduleBase):
        def next_occurrence(self) -> datetime:  # type: ignore[override]
            return now + timedelta(milliseconds=1)

    now = NOON
    state = plan(None, AtOnce(), now).state
    now = state.after + timedelta(milliseconds=2)
    assert dues(plan(state, AtOnce(), now)) == [state.after + timedelta(seconds=1)]


def test_a_schedule_that_answers_from_now_may_end() -> None:
    class Over(TaskScheduleBase):
        def next_occurrence(self) -> datetime:  # type: ignore[override]
            raise ScheduleEndedError("over", NOON)

    decided = plan(None, Over(), NOON)
    assert (decided.state.ended, decided.occurrences) == (True, ())
    assert decide(KEY, decided.state, Rule(Over()), at("18:00:00"), HORIZON) is None


@pytest.mark.parametrize(
    "answer", [LATEST_TIME + timedelta(microseconds=1), datetime.max.replace(tzinfo=UTC)], ids=["2262", "9999"]
)
def test_an_occurrence_that_the_server_cannot_hold_ends_the_schedule_and_is_not_run_now(answer: datetime) -> None:
    class FromNow(TaskScheduleBase):
        def next_occurrence(self) -> datetime:  # type: ignore[override]
            return answer

    class Pure(TaskScheduleBase):
        def next_occurrence(self, after: datetime | None = None) -> datetime:
            return answer

    for schedule in (FromNow(), Pure(), RRuleSchedule("FREQ=YEARLY;INTERVAL=1000")):
        decided = plan(None, schedule, NOON)
        assert (decided.state.ended, decided.occurrences) == (True, ())


@pytest.mark.parametrize("answer", [datetime(2026, 12, 1, 13), None, NOON])  # noqa: DTZ001
def test_an_answer_without_a_time_zone_or_not_after_now_is_an_error(answer: datetime) -> None:
    class Odd(TaskScheduleBase):
        def next_occurrence(self) -> datetime:  # type: ignore[override]
            return answer

    with pytest.raises(ValueError, match=r"return an aware datetime|does not advance"):
        plan(None, Odd(), NOON)
