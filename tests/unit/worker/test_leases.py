"""Leases on a fake clock; heartbeats and settlements on a real server are in tests/broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.worker.leases import Lease, LeaseKeeper, LeaseLapsedError, StillExecutingError
from diracx.tasks.testing import wait_until
from support.clock import ManualClock
from support.deliveries import fake_delivery

ACK_WAIT = timedelta(seconds=30)
TRUSTED = 29.0
"""Of 30 s, a tenth but no more than a second is the margin."""


@dataclass
class Answers:
    """A fake connection that records the heartbeats, and is the client of its own that takes naks."""

    error: Exception | None = None
    heartbeats: list[str] = field(default_factory=list)
    naks: list[bytes] = field(default_factory=list)

    @property
    def client(self) -> Answers:
        return self

    def queue(self, command: bytes, size: int) -> None:
        assert command.endswith(b"  4\r\n-NAK\r\n")
        self.naks.append(command.split(b" ")[1])

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> None:
        assert payload == b"+WPI"
        self.heartbeats.append(subject)
        if self.error is not None:
            raise self.error


def delivery(requested: float, connection: Any = None, delivered: int = 1, stored_ns: int = 1000) -> Delivery:
    return fake_delivery(connection, delivered=delivered, stored_ns=stored_ns, requested=requested)


@contextmanager
def ticking(keeper: LeaseKeeper) -> Iterator[None]:
    """Run the keeper; the first tick comes at once, the next ones seconds later."""
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_message_is_trusted_from_its_request_on_less_a_margin() -> None:
    clock = ManualClock(100)
    keeper = LeaseKeeper(ACK_WAIT, clock)
    clock.now = 101
    lease = keeper.take(delivery(requested=100.5))
    assert lease is not None
    assert lease.deadline == 100.5 + TRUSTED
    assert lease.remaining == TRUSTED - 0.5
    assert keeper.all == [lease]
    assert len(keeper) == 1


async def test_a_short_lease_has_a_margin_of_a_tenth() -> None:
    keeper = LeaseKeeper(timedelta(seconds=2), ManualClock(10))
    lease = keeper.take(delivery(requested=10))
    assert lease is not None
    assert lease.deadline == pytest.approx(11.8)


async def test_a_message_of_a_request_that_waited_long_is_trusted_from_the_tick_before_it() -> None:
    clock = ManualClock(0)
    keeper = LeaseKeeper(ACK_WAIT, clock)
    for now in (20.0, 21.0):
        clock.now = now
        with ticking(keeper):
            await turn()
    lease = keeper.take(delivery(requested=1))
    assert lease is not None
    assert lease.deadline == 20 + TRUSTED, "the last tick but one"


async def test_a_message_without_an_answered_heartbeat_for_two_of_them_is_counted_until_it_is_settled() -> None:
    clock, answers = ManualClock(100), Answers(ServerUnavailableError("no answer"))
    keeper = LeaseKeeper(ACK_WAIT, clock)
    lease = keeper.take(delivery(requested=75, connection=answers))
    assert lease is not None
    assert keeper.unanswered == 0, "a long poll had asked for it"
    clock.now = 100 + 2 * keeper.heartbeat_seconds
    with ticking(keeper):
        await turn()
    assert keeper.unanswered == 0
    clock.now += 1
    assert keeper.unanswered == 1
    answers.error = None
    with ticking(keeper):
        await turn()
    assert keeper.unanswered == 0
    clock.now += 2 * keeper.heartbeat_seconds + 1
    lease.close()
    assert keeper.unanswered == 0


async def test_a_message_that_lay_in_a_stopped_process_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(0)
    keeper = LeaseKeeper(ACK_WAIT, clock)
    clock.now = 100
    assert keeper.take(delivery(requested=0)) is None
    assert not keeper.all
    assert "dropped message 7 unsettled: it lay too long in a stopped process" in caplog.text


async def test_a_tick_right_after_the_stop_makes_no_stale_message_fresh() -> None:
    clock = ManualClock(0)
    keeper = LeaseKeeper(ACK_WAIT, clock)
    clock.now = 100
    with ticking(keeper):
        await turn()
    assert keeper.take(delivery(requested=0)) is None
    assert keeper.take(delivery(requested=99)) is not None, "what was asked for since is fresh"


async def test_a_message_that_is_in_flight_already_is_not_taken_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = ManualClock(0)
    keeper = LeaseKeeper(ACK_WAIT, clock)
    lease = keeper.take(delivery(requested=0))
    assert lease is not None
    clock.now = TRUSTED - 0.001
    assert keeper.take(delivery(requested=clock.now)) is None, "a server that was killed handed it out anew"
    assert keeper.all == [lease]
    assert lease.deadline == TRUSTED, "which says nothing about the lease in flight"
    assert "message 7 was delivered twice to this worker; it is executed once" in caplog.text
    keeper.drop(lease)
    assert keeper.take(delivery(requested=clock.now)) is not None, "it is no longer in flight"


async def test_a_message_that_was_given_back_is_taken_again_though_its_lease_is_not_dropped_yet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    answers = Answers()
    keeper = LeaseKeeper(ACK_WAIT, ManualClock(0))
    lease = keeper.take(delivery(0, answers))
    assert lease is not None
    lease.nak()
    again = keeper.take(delivery(0, answers, delivered=2))
    assert len(answers.naks) == 1
    assert again is not None, "the server answers a nak within milliseconds"
    assert keeper.all == [again]
    keeper.drop(lease)
    assert keeper.all == [again], "the end of the old delivery takes nothing from the new one"
    assert "delivered twice" not in caplog.text


async def test_a_message_whose_lease_lapsed_here_may_be_taken_anew_and_the_old_lease_takes_nothing_from_it() -> None:
    clock, answers = ManualClock(0), Answers()
    keeper = LeaseKeeper(ACK_WAIT, clock)
    stale = keeper.take(delivery(0, answers))
    assert stale is not None
    clock.now = TRUSTED
    fresh = keeper.take(delivery(TRUSTED, answers, delivered=2))
    assert fresh is not None
    assert keeper.all == [fresh]
    keeper.drop(stale)
    assert keeper.all == [fresh], "it is still kept"
    clock.now = TRUSTED + 10
    with ticking(keeper):
        await wait_until(lambda: fresh.deadline == clock.now + TRUSTED, description="it got a heartbeat")
    assert answers.heartbeats == ["$JS.ACK.S.C.2.7.2.1000.0"], "and the stale one is not"
    with pytest.raises(LeaseLapsedError):
        stale.ensure_held()


async def test_another_message_of_the_same_sequence_in_a_stream_made_anew_is_not_the_one_in_flight() -> None:
    keeper = LeaseKeeper(ACK_WAIT, ManualClock(0))
    assert keeper.take(delivery(requested=0, stored_ns=1000)) is not None
    other = keeper.take(delivery(requested=0, stored_ns=1001))
    assert other is not None
    assert keeper.all == [other]


async def test_a_message_whose_earlier_execution_has_not_ended_here_is_not_taken_and_that_one_is_interrupted() -> None:
    clock, answers = ManualClock(0), Answers()
    keeper = LeaseKeeper(ACK_WAIT, clock)
    stale = keeper.take(delivery(0, answers))
    assert stale is not None
    stale.task = asyncio.create_task(_drive_until_cancelled_twice(stale))
    await turn()
    clock.now = TRUSTED
    for _ in range(2):
        with pytest.raises(StillExecutingError, match="an earlier delivery of message 7 still executes here"):
            keeper.take(delivery(TRUSTED, delivered=2))
        await turn()
    assert stale.execution.cancellation == Cancellation(Cause.LEASE_LAPSED, "its lease lapsed")
    assert stale.task.cancelling() == 1, "it is cancelled once"
    assert keeper.all == [stale]
    stale.task.cancel()
    await asyncio.wait([stale.task])
    assert keeper.take(delivery(TRUSTED, delivered=3)) is not None, "it has ended"


async def test_an_execution_whose_stream_was_made_anew_is_interrupted_and_can_settle_nothing() -> None:
    clock, answers = ManualClock(0), Answers()
    keeper = LeaseKeeper(ACK_WAIT, clock)
    stale = keeper.take(delivery(0, answers))
    assert stale is not None
    stale.task = asyncio.create_task(_drive_until_cancelled_twice(stale))
    await turn()
    clock.now = 15
    with pytest.raises(StillExecutingError):
        keeper.take(delivery(15, stored_ns=1001))
    assert stale.execution.cancellation == Cancellation(Cause.LEASE_LAPSED, "its stream was made anew")
    with pytest.raises(LeaseLapsedError):
        stale.ensure_held()
    with ticking(keeper):
        await turn()
    assert not answers.heartbeats, "they would reach the other message"
    stale.task.cancel()
    await asyncio.wait([stale.task])
    assert keeper.take(delivery(15, stored_ns=1001)) is not None


async def test_a_lease_tells_how_long_ago_its_message_was_taken() -> None:
    clock = ManualClock(10)
    lease = LeaseKeeper(ACK_WAIT, clock).take(delivery(requested=5))
    assert lease is not None
    clock.now = 12.5
    assert lease.elapsed == 2.5


async def test_a_lease_ends_at_its_deadline_and_not_before() -> None:
    clock = ManualClock(0)
    lease = LeaseKeeper(ACK_WAIT, clock).take(delivery(requested=0))
    assert lease is not None
    clock.now = TRUSTED - 0.001
    lease.ensure_held()
    clock.now = TRUSTED
    with pytest.raises(LeaseLapsedError, match="message 7 lapsed"):
        lease.ensure_held()
    assert lease.remaining == 0


async def test_a_heartbeat_after_a_third_of_the_ack_wait_moves_the_deadline() -> None:
    clock, answers = ManualClock(0), Answers()
    keeper = LeaseKeeper(ACK_WAIT, clock)
    lease = keeper.take(delivery(0, answers))
    assert lease is not None
    clock.now = 9.9
    with ticking(keeper):
        await turn()
    assert not answers.heartbeats
    clock.now = 10
    with ticking(keeper):
        await wait_until(lambda: lease.deadline == 10 + TRUSTED, description="it got a heartbeat")
    assert answers.heartbeats == ["$JS.ACK.S.C.1.7.1.1000.0"]


async def test_a_heartbeat_without_an_answer_moves_nothing_and_is_tried_again() -> None:
    clock, answers = ManualClock(0), Answers(ServerUnavailableError("away"))
    keeper = LeaseKeeper(ACK_WAIT, clock)
    lease = keeper.take(delivery(0, answers))
    assert lease is not None
    for tries in (1, 2):
        clock.now = 10 + tries
        with ticking(keeper):
            await wait_until(lambda tries=tries: len(answers.heartbeats) == tries, description="it got a heartbeat")  # type: ignore[misc]
            await wait_until(lambda: not lease.heartbeat_pending, description="it has ended")
        assert lease.deadline == TRUSTED


async def test_a_lapsed_lease_gets_no_heartbeat_and_its_task_is_interrupted() -> None:
    clock, answers = ManualClock(0), Answers()
    keeper = LeaseKeeper(ACK_WAIT, clock)
    lease = keeper.take(delivery(0, answers))
    assert lease is not None
    lease.task = asyncio.create_task(_drive(lease))
    await turn()
    clock.now = TRUSTED
    with ticking(keeper):
        await asyncio.wait([lease.task])
    assert lease.task.cancelled()
    assert lease.execution.cancellation == Cancellation(Cause.LEASE_LAPSED, "its lease lapsed")
    assert not answers.heartbeats


async def test_a_settled_message_gets_no_heartbeat() -> None:
    clock, answers = ManualClock(0), Answers()
    keeper = LeaseKeeper(ACK_WAIT, clock)
    lease = keeper.take(delivery(0, answers))
    assert lease is not None
    keeper.drop(lease)
    clock.now = 15
    with ticking(keeper):
        await turn()
    assert not answers.heartbeats
    assert not keeper.all


async def test_a_withdrawn_lease_gets_no_heartbeat() -> None:
    clock, answers = ManualClock(0), Answers()
    keeper = LeaseKeeper(ACK_WAIT, clock)
    lease = keeper.take(delivery(0, answers))
    assert lease is not None
    lease.withdraw("the process ends")
    clock.now = 15
    with ticking(keeper):
        await turn()
    assert not answers.heartbeats, "it would shorten the delay of the nak"


async def test_a_task_that_is_being_settled_is_not_cancelled() -> None:
    lease = Lease(delivery(0), 0, TRUSTED, ManualClock(0))
    lease.task = asyncio.create_task(_drive(lease))
    await turn()
    lease.close()
    lease.execution.cancel(Cancellation(Cause.STOP, "too late"))
    await turn()
    assert lease.execution.cancellation is None
    assert not lease.task.done()
    lease.task.cancel()


async def _drive(lease: Lease) -> None:
    assert lease.execution.begin()
    await asyncio.Event().wait()


async def _drive_until_cancelled_twice(lease: Lease) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await _drive(lease)
    await asyncio.Event().wait()
