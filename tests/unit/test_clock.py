"""The server's time, worked out from its answers: a wrong clock of this machine changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from diracx.tasks.plumbing.clock import KEPT_SECONDS, TOLERANCE, ServerClock
from support.clock import ManualClock

START = datetime(2026, 12, 1, 6, 0, tzinfo=UTC)
"""The server's time when the boot clock of the machine shows 1,000."""
BOOT = 1_000.0


class Machine:
    """A machine whose clock is wrong, and may be set."""

    def __init__(self, ahead: timedelta = timedelta(0)) -> None:
        self.boot = ManualClock(BOOT)
        self.ahead = ahead
        self.server = ServerClock(lambda: self.true_time() + self.ahead, self.boot)

    def true_time(self) -> datetime:
        return START + timedelta(seconds=self.boot.now - BOOT)

    def ask(self, there: float, back: float) -> None:
        """Ask the server; the two ways take these seconds."""
        sent = self.boot.now
        self.boot.now += there
        answered = self.true_time()
        self.boot.now += back
        self.server.note(answered, sent)

    def error(self) -> float:
        return abs((self.server.now() - self.true_time()).total_seconds())


ways = st.floats(0, 5)
offsets = st.timedeltas(timedelta(days=-3650), timedelta(days=3650))


@given(ahead=offsets, asked=st.lists(st.tuples(ways, ways, st.floats(0, 300)), min_size=1, max_size=8), step=offsets)
def test_the_error_is_half_a_round_trip_at_the_most_whatever_the_machine_shows(
    ahead: timedelta, asked: list[tuple[float, float, float]], step: timedelta
) -> None:
    machine = Machine(ahead)
    for there, back, pause in asked:
        machine.ask(there, back)
        machine.boot.now += pause
        machine.ahead = step - machine.ahead if pause > 150 else machine.ahead
    assert machine.error() <= max(there + back for there, back, _ in asked) / 2 + 1e-3
    assert machine.server.ahead is not None
    assert abs((machine.server.ahead - machine.ahead).total_seconds()) <= machine.error() + 1e-3


def test_a_slow_answer_replaces_a_quick_one_only_after_a_minute() -> None:
    machine = Machine()
    machine.ask(0.001, 0.001)
    machine.ask(0, 4)
    assert machine.error() < 0.002
    machine.boot.now += KEPT_SECONDS
    machine.ask(0, 4)
    assert machine.error() > 1
    machine.ask(0.001, 0.001)
    assert machine.error() < 0.002


def test_without_an_answer_it_is_the_time_of_the_machine_and_nothing_is_corrected() -> None:
    machine = Machine(timedelta(hours=2))
    assert machine.server.ahead is None
    assert machine.server.now() == START + timedelta(hours=2)
    assert machine.server.corrected(START) == START


def test_a_time_that_the_machine_worked_out_is_corrected_if_the_machine_is_more_than_some_seconds_off() -> None:
    for ahead in (timedelta(hours=2), timedelta(hours=-2)):
        machine = Machine(ahead)
        machine.ask(0, 0)
        in_ten_minutes = START + ahead + timedelta(minutes=10)
        assert machine.server.corrected(in_ten_minutes) == START + timedelta(minutes=10)
    machine = Machine(TOLERANCE)
    machine.ask(0, 0)
    assert machine.server.corrected(START) == START


def test_the_end_of_all_dates_is_left_as_it_is() -> None:
    machine = Machine(timedelta(hours=-2))
    machine.ask(0, 0)
    forever = datetime.max.replace(tzinfo=UTC)
    assert machine.server.corrected(forever) == forever


def test_a_time_has_passed_by_the_server_and_without_a_word_of_it_only_if_that_is_sure() -> None:
    machine = Machine(timedelta(hours=2))
    assert not machine.server.has_passed(START)
    assert machine.server.has_passed(START - timedelta(hours=23))
    machine.ask(0, 0)
    assert machine.server.has_passed(START)
    assert not machine.server.has_passed(START + timedelta(hours=1))
