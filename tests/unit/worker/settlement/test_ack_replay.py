"""What a worker remembers of its answers, by a clock of its own; a server killed in earnest is in tests/broker."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
import pytest

from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.worker.leases import Lease
from diracx.tasks.plumbing.worker.settlement.ack_replay import RecentAnswers
from support.clock import ManualClock
from support.deliveries import FakeMessage

DEADLINE = 29.0


class Headers(dict[str, str]):
    """Tells when it is gone, which a dict does not."""


@dataclass
class Told:
    """What stands for the connection: notes what the server is told."""

    connected: bool = True
    answers: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def client(self) -> Told:
        return self

    def answer(self, reply: str, verb: bytes) -> None:
        if not self.connected:
            raise nats.errors.OutboundBufferLimitError
        self.answers.append((reply, verb))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def recent(told: Told, clock: ManualClock) -> RecentAnswers:
    connection: Any = told
    return RecentAnswers(connection, clock)


def reply(sequence: int, stored_ns: int = 1000) -> str:
    return f"$JS.ACK.S.C.1.{sequence}.{sequence}.{stored_ns}.0"


def lease(sequence: int, clock: ManualClock, stored_ns: int = 1000, deadline: float = DEADLINE) -> Lease:
    connection: Any = None
    delivery = Delivery(connection, FakeMessage(reply(sequence, stored_ns), headers=Headers()), 0.0)
    return Lease(delivery, 0.0, deadline, clock)


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_acks_and_terms_are_given_again_as_they_were_and_in_their_order(
    recent: RecentAnswers, told: Told, clock: ManualClock
) -> None:
    recent.acked(lease(1, clock))
    recent.termed(lease(2, clock), "no retry\nis left")
    recent.repeat()
    assert told.answers == [(reply(1), b"+ACK"), (reply(2), b"+TERM no retry is left")]


def test_a_nak_is_given_again_for_what_is_left_of_its_delay(
    recent: RecentAnswers, told: Told, clock: ManualClock
) -> None:
    recent.naked(lease(1, clock), in_seconds(60))
    recent.repeat()
    ((to, verb),) = told.answers
    assert to == reply(1)
    assert verb.startswith(b"-NAK ")
    assert 0 < json.loads(verb.removeprefix(b"-NAK "))["delay"] <= 60e9


def test_a_nak_whose_time_has_come_is_not_given_again(recent: RecentAnswers, told: Told, clock: ManualClock) -> None:
    recent.naked(lease(1, clock), in_seconds(-1))
    recent.repeat()
    assert told.answers == []


def test_nothing_is_given_again_once_its_lease_has_lapsed(
    recent: RecentAnswers, told: Told, clock: ManualClock
) -> None:
    recent.acked(lease(1, clock))
    recent.naked(lease(2, clock), in_seconds(60))
    recent.acked(lease(3, clock, deadline=DEADLINE + 1))
    clock.now = DEADLINE
    recent.repeat()
    assert told.answers == [(reply(3), b"+ACK")]


def test_what_could_not_be_given_again_without_a_connection_is_given_the_next_time(
    recent: RecentAnswers, told: Told, clock: ManualClock
) -> None:
    recent.acked(lease(1, clock))
    told.connected = False
    recent.repeat()
    told.connected = True
    recent.repeat()
    assert told.answers == [(reply(1), b"+ACK")]


def test_what_was_acked_or_termed_is_known_even_when_an_outage_outlasted_its_lease(
    recent: RecentAnswers, clock: ManualClock
) -> None:
    recent.acked(lease(1, clock))
    recent.termed(lease(2, clock), "dead")
    clock.now = 10 * DEADLINE
    recent.repeat()
    assert recent.ended(lease(1, clock))
    assert recent.ended(lease(2, clock))
    assert not recent.ended(lease(3, clock))


def test_a_message_of_the_same_sequence_in_a_stream_made_anew_is_another(
    recent: RecentAnswers, clock: ManualClock
) -> None:
    recent.acked(lease(1, clock, stored_ns=1000))
    assert not recent.ended(lease(1, clock, stored_ns=1001))


def test_the_last_answer_counts(recent: RecentAnswers, told: Told, clock: ManualClock) -> None:
    recent.naked(lease(1, clock), in_seconds(60))
    assert not recent.ended(lease(1, clock)), "given back, it is to be executed again"
    recent.acked(lease(1, clock))
    assert recent.ended(lease(1, clock))
    recent.repeat()
    assert told.answers == [(reply(1), b"+ACK")]


def test_the_oldest_answers_make_room_for_new_ones(recent: RecentAnswers, told: Told, clock: ManualClock) -> None:
    for sequence in range(1, 10_001):
        recent.acked(lease(sequence, clock))
    recent.repeat()
    kept = len(told.answers)
    assert 1000 <= kept < 10_000
    assert told.answers == [(reply(sequence), b"+ACK") for sequence in range(10_001 - kept, 10_001)]
    assert not recent.ended(lease(10_000 - kept, clock))


def test_nothing_of_the_message_is_kept(recent: RecentAnswers, clock: ManualClock) -> None:
    ended, parked = lease(1, clock), lease(2, clock)
    gone = [weakref.ref(held.delivery.headers) for held in (ended, parked) if held.delivery.headers is not None]
    recent.acked(ended)
    recent.naked(parked, in_seconds(60))
    del ended, parked
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
