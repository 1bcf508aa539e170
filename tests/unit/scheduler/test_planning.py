"""The occurrences that the scheduler decides to publish, by stored state, rule and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from diracx.tasks.plumbing.scheduler.planning import Plan, Rule, decide, next_decision
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


def plan(state: ScheduleState | None, schedule: TaskScheduleBase, now: datetime, *, enabled: bool = True) -> Plan:
    decided = decide(KEY, state, Rule(schedule, enabled), now, HORIZON)
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
