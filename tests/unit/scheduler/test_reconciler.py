"""Two schedulers that both believe they lead, in thousands of interleavings: see `support.interleaving`."""

from __future__ import annotations

import asyncio
import itertools
import logging
from datetime import datetime, timedelta

import pytest

from diracx.tasks.plumbing.scheduler.reconciler import REMOVAL_AGE
from diracx.tasks.plumbing.scheduler.state import ScheduleKey
from diracx.tasks.plumbing.schedules import TaskScheduleBase
from support.interleaving import START, Interleaving, Server, instance

SEEDS = 400
"""How many interleavings a test, or a part of one, tries."""


@pytest.mark.parametrize("part", range(4))
def test_two_schedulers_lose_and_double_nothing_in_any_interleaving(part: int) -> None:
    happened = 0
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        run = Interleaving(seed, intervals=(3, 10, 47))
        run.run(steps=100)
        assert not run.doubled(), f"seed {seed}"
        assert not run.missing(), f"seed {seed}"
        happened += run.server.happened.total()
    assert happened > 5 * SEEDS, "the interleavings are too tame"


@pytest.mark.parametrize("part", range(2))
def test_changing_rules_double_nothing_in_any_interleaving(part: int) -> None:
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        run = Interleaving(seed, intervals=(3, 10))
        for _ in range(6):
            run.run(steps=20)
            seconds, enabled = run.random.choice([3, 5, 10, 30]), run.random.random() < 0.7
            run.configure([instance("c:T0", seconds, enabled=enabled), run.instances[1]])
        assert not run.doubled(), f"seed {seed}"
        assert not [key for key, due in run.missing() if key.task == "c:T1"], f"seed {seed}"


def test_a_disabled_schedule_is_silent_once_both_know_of_it() -> None:
    for seed in range(300):
        run = Interleaving(seed, intervals=(3,))
        run.run(steps=40)
        run.configure([instance("c:T0", 3, enabled=False)])
        for scheduler in run.both:
            scheduler.offset = timedelta(0)
            scheduler.kill()
            scheduler.get_through()
        before = run.server.happened.total()
        run.server.pass_time(300)
        assert run.server.happened.total() == before, f"seed {seed}"


def test_a_scheduler_whose_write_was_refused_reads_again_and_continues() -> None:
    run = Interleaving(0, intervals=(10,))
    one, two = run.both
    two.get_through()
    run.server.pass_time(20)
    one.get_through()
    run.server.pass_time(20)
    two.get_through()
    run.server.pass_time(45)
    assert not run.missing()


def test_a_scheduler_that_returns_after_days_catches_up_with_one_occurrence() -> None:
    run = Interleaving(0, intervals=(10,))
    run.server.pass_time(3 * 86_400)
    before = run.server.happened.total()
    run.both[0].kill()
    run.both[0].get_through()
    assert run.server.happened.total() == before + 1


def test_a_stale_scheduler_withdraws_nothing_that_was_published_after_it_stopped() -> None:
    run = Interleaving(0, intervals=(100,))
    stale, fresh = run.both
    run.configure([instance("c:T0", 100, enabled=False)])
    while run.server.states[ScheduleKey("c:T0")].state.enabled:
        stale.step()
    fresh.get_through()
    run.configure(run.instances)
    fresh.get_through()
    held = dict(run.server.schedules)
    assert held
    while not stale.step():
        pass
    assert run.server.schedules == held


@pytest.mark.parametrize("part", range(2))
def test_changing_arguments_lose_and_double_nothing_in_any_interleaving(part: int) -> None:
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        run = Interleaving(seed, intervals=(3, 10))
        for number in range(6):
            run.run(steps=20)
            run.configure([instance("c:T0", 3, arguments=b"[%d]" % number), run.instances[1]])
        assert not run.doubled(), f"seed {seed}"
        assert not run.missing(), f"seed {seed}"
        for scheduler in run.both:
            scheduler.offset = timedelta(0)
            scheduler.kill()
            scheduler.get_through()
        held = {run.server.bodies[each] for each in run.server.schedules if each[0].task == "c:T0"}
        assert held == {b"[5]"}, f"seed {seed}"


def test_an_entry_that_comes_and_goes_doubles_nothing_and_leaves_nothing_in_any_interleaving() -> None:
    for seed in range(SEEDS):
        run = Interleaving(seed, intervals=(10,))
        for _ in range(6):
            run.run(steps=20)
            there = run.random.random() < 0.5
            entry = instance("c:T0", 3, entry="A", enabled=there, removed=not there)
            run.configure([run.instances[0], entry])
            if run.random.random() < 0.3:
                run.server.pass_time(REMOVAL_AGE.total_seconds())
        assert not run.doubled(), f"seed {seed}"
        run.configure([run.instances[0], instance("c:T0", 3, entry="A", enabled=False, removed=True)])
        for scheduler in run.both:
            scheduler.offset = timedelta(0)
        for _ in range(2):
            for scheduler in run.both:
                scheduler.kill()
                scheduler.get_through()
            run.server.pass_time(REMOVAL_AGE.total_seconds() + 5)
        assert {key.entry for key in run.server.states} == {""}, f"seed {seed}"
        assert {key.entry for key, _ in run.server.schedules} <= {""}, f"seed {seed}"


class FromNow(TaskScheduleBase):
    """As in DiracX: some seconds from now, by the clock of the machine."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def next_occurrence(self) -> datetime:  # type: ignore[override]
        # The clocks of the schedulers are up to 2.5 s off.
        return self._server.clock + timedelta(seconds=7)


def test_a_schedule_that_answers_from_now_is_asked_once_for_each_occurrence_in_any_interleaving() -> None:
    for seed in range(SEEDS):
        run = Interleaving(seed, intervals=(10,))
        run.configure([run.instances[0], instance("c:FromNow", 0, schedule=FromNow(run.server))])
        run.run(steps=150)
        assert not run.doubled(), f"seed {seed}"
        dues = sorted(due for key, due in run.server.happened if key.task == "c:FromNow")
        # Two: a scheduler whose clock is fast asks before the known occurrence has fallen due on the server.
        assert len([due for key, due in run.server.schedules if key.task == "c:FromNow"]) <= 2, f"seed {seed}"
        assert all(later - due > timedelta(seconds=4) for due, later in itertools.pairwise(dues)), f"seed {seed}"


class Fails(TaskScheduleBase):
    error: BaseException | None = None

    def next_occurrence(self) -> datetime:  # type: ignore[override]
        if self.error is not None:
            raise self.error
        return START + timedelta(days=1)


@pytest.mark.parametrize("error", [OSError("no file"), SystemExit(3), asyncio.CancelledError(), StopIteration()])
def test_a_schedule_that_answers_from_now_is_asked_again_a_minute_after_an_error(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    run = Interleaving(0, intervals=(10,))
    one, schedule = run.both[0], Fails()
    run.configure([instance("c:Fails", 0, schedule=schedule), run.instances[0]])
    schedule.error = error
    for _ in range(3):
        one.get_through()
        run.server.pass_time(30)
    assert not run.missing()
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert told == f"c:Fails is not scheduled for now; its schedule is asked again every 60 s: Fails() ({error!r})"
    schedule.error = None
    run.server.pass_time(60)
    one.get_through()
    assert ScheduleKey("c:Fails") in run.server.states


def test_an_interrupt_by_the_keyboard_is_no_error_of_the_schedule() -> None:
    run = Interleaving(0, intervals=())
    schedule = Fails()
    schedule.error = KeyboardInterrupt()
    run.configure([instance("c:Fails", 0, schedule=schedule)])
    with pytest.raises(KeyboardInterrupt):
        run.both[0].get_through()


class Broken(TaskScheduleBase):
    def next_occurrence(self, after: datetime | None = None) -> datetime:
        raise OSError("no file")


def test_a_schedule_that_raised_an_error_can_be_replaced_or_switched_off_at_once() -> None:
    run = Interleaving(0, intervals=(10,))
    one = run.both[0]
    run.configure([instance("c:T0", 0, schedule=Broken())])
    one.get_through()
    assert run.server.states[ScheduleKey("c:T0")].state.enabled, "the old rule stays until a new one can be followed"
    run.configure([instance("c:T0", 0, schedule=Broken(), enabled=False)])
    one.get_through()
    assert not run.server.states[ScheduleKey("c:T0")].state.enabled
    run.configure([instance("c:T0", 5)])
    one.get_through()
    assert run.server.states[ScheduleKey("c:T0")].state.schedule == "every 5 s"


def test_new_arguments_are_told(caplog: pytest.LogCaptureFixture) -> None:
    run = Interleaving(0, intervals=(10,))
    with caplog.at_level(logging.INFO, "diracx.tasks.scheduler"):
        for arguments in (b'{"a":1}', b""):
            run.configure([instance("c:T0", 10, arguments=arguments)])
            run.both[0].get_through()
    told = [record.getMessage() for record in caplog.records if "arguments" in record.getMessage()]
    assert told == [f"c:T0: its arguments are {args} from now on" for args in ('{"a":1}', "{}")]


def test_the_next_occurrence_of_a_changed_schedule_is_told_not_one_that_has_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Interleaving(0, intervals=(10,))
    one = run.both[0]
    one.offset = timedelta(0)
    one.get_through()
    run.server.pass_time(25)
    with caplog.at_level(logging.INFO, "diracx.tasks.scheduler"):
        run.configure([instance("c:T0", 3600)])
        one.get_through()
    (told,) = [record.getMessage() for record in caplog.records if "next:" in record.getMessage()]
    assert told == "c:T0: every 3600 s, next: 2026-12-01T13:00:00Z"
