"""The answers that a worker remembers, on a fake clock; tests/broker kills a real server."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
import pytest

from diracx.tasks.plumbing.clock import ServerClock
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.worker.leases import Lease
from diracx.tasks.plumbing.worker.settlement.ack_replay import AckReplay
from support.clock import ManualClock
from support.deliveries import FakeMessage

DEADLINE = 29.0


class Headers(dict[str, str]):
    """Tells when it is gone, which a dict does not."""


@dataclass
class Told:
    """What stands for the connection: notes what the server is told."""

    connected: bool = True
    answers: list[tuple[bytes, bytes]] = field(default_factory=list)
    clock: ServerClock = field(default_factory=ServerClock)

    @property
    def client(self) -> Told:
        return self

    def queue(self, command: bytes, size: int) -> None:
        if not self.connected:
            raise nats.errors.OutboundBufferLimitError
        line, verb, _ = command.split(b"\r\n")
        _, reply, _, length = line.split(b" ")
        assert int(length) == size == len(verb)
        self.answers.append((reply, verb))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def replay(told: Told, clock: ManualClock) -> AckReplay:
    connection: Any = told
    return AckReplay(connection, clock)


def reply(sequence: int, stored_ns: int = 1000) -> bytes:
    return b"$JS.ACK.S.C.1.%d.%d.%d.0" % (sequence, sequence, stored_ns)


def lease(sequence: int, clock: ManualClock, stored_ns: int = 1000, deadline: float = DEADLINE) -> Lease:
    connection: Any = None
    delivery = Delivery(connection, FakeMessage(reply(sequence, stored_ns), headers=Headers()), 0.0)
    return Lease(delivery, 0.0, deadline, clock)


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_acks_and_terms_are_resent_as_they_were_and_in_their_order(
    replay: AckReplay, told: Told, clock: ManualClock
) -> None:
    replay.record_ack(lease(1, clock))
    replay.record_term(lease(2, clock), "no retry\nis left")
    replay.resend()
    assert told.answers == [(reply(1), b"+ACK"), (reply(2), b"+TERM no retry is left")]


def test_a_nak_is_resent_with_the_rest_of_its_delay(replay: AckReplay, told: Told, clock: ManualClock) -> None:
    replay.record_nak(lease(1, clock), in_seconds(60))
    replay.resend()
    ((to, verb),) = told.answers
    assert to == reply(1)
    assert verb.startswith(b"-NAK ")
    assert 0 < json.loads(verb.removeprefix(b"-NAK "))["delay"] <= 60e9


def test_a_nak_whose_time_has_come_is_not_resent(replay: AckReplay, told: Told, clock: ManualClock) -> None:
    replay.record_nak(lease(1, clock), in_seconds(-1))
    replay.resend()
    assert told.answers == []


def test_no_answer_is_resent_once_its_lease_has_lapsed(replay: AckReplay, told: Told, clock: ManualClock) -> None:
    replay.record_ack(lease(1, clock))
    replay.record_nak(lease(2, clock), in_seconds(60))
    replay.record_ack(lease(3, clock, deadline=DEADLINE + 1))
    clock.now = DEADLINE
    replay.resend()
    assert told.answers == [(reply(3), b"+ACK")]


def test_an_answer_that_found_no_connection_is_resent_the_next_time(
    replay: AckReplay, told: Told, clock: ManualClock
) -> None:
    replay.record_ack(lease(1, clock))
    told.connected = False
    replay.resend()
    told.connected = True
    replay.resend()
    assert told.answers == [(reply(1), b"+ACK")]


def test_a_settled_message_is_known_even_when_an_outage_outlasted_its_lease(
    replay: AckReplay, clock: ManualClock
) -> None:
    replay.record_ack(lease(1, clock))
    replay.record_term(lease(2, clock), "dead")
    clock.now = 10 * DEADLINE
    replay.resend()
    assert replay.was_finished(lease(1, clock))
    assert replay.was_finished(lease(2, clock))
    assert not replay.was_finished(lease(3, clock))


def test_a_message_of_the_same_sequence_in_a_stream_made_anew_is_another(replay: AckReplay, clock: ManualClock) -> None:
    replay.record_ack(lease(1, clock, stored_ns=1000))
    assert not replay.was_finished(lease(1, clock, stored_ns=1001))


def test_the_last_answer_counts(replay: AckReplay, told: Told, clock: ManualClock) -> None:
    replay.record_nak(lease(1, clock), in_seconds(60))
    assert not replay.was_finished(lease(1, clock)), "given back, it is to be executed again"
    replay.record_ack(lease(1, clock))
    assert replay.was_finished(lease(1, clock))
    replay.resend()
    assert told.answers == [(reply(1), b"+ACK")]


def test_the_oldest_answers_make_room_for_new_ones(replay: AckReplay, told: Told, clock: ManualClock) -> None:
    for sequence in range(1, 10_001):
        replay.record_ack(lease(sequence, clock))
    replay.resend()
    kept = len(told.answers)
    assert 1000 <= kept < 10_000
    assert told.answers == [(reply(sequence), b"+ACK") for sequence in range(10_001 - kept, 10_001)]
    assert not replay.was_finished(lease(10_000 - kept, clock))


def test_nothing_of_the_message_is_kept(replay: AckReplay, clock: ManualClock) -> None:
    ended, parked = lease(1, clock), lease(2, clock)
    gone = [weakref.ref(held.delivery.headers) for held in (ended, parked) if held.delivery.headers is not None]
    replay.record_ack(ended)
    replay.record_nak(parked, in_seconds(60))
    del ended, parked
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
