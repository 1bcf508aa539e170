"""When a new leader of the stream that sources is asked for, decided on answers of STREAM.INFO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from diracx.tasks.plumbing.jetstream.handover import SourceState, StallDetector

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def answer(
    leader: str | None = "b",
    age: float | None = 100.0,
    silent: float | None = None,
    replicas: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """An answer of STREAM.INFO. `silent`: since when nothing was heard of its source; -1: not yet."""
    cluster: dict[str, Any] = {"replicas": [_replica(name, state) for name, state in replicas.items()]}
    if leader is not None:
        cluster["leader"] = leader
    if age is not None:
        cluster["leader_since"] = (NOW - timedelta(seconds=age)).isoformat()
    sources = [] if silent is None else [{"active": -1 if silent < 0 else round(silent * 1e9)}]
    return {"cluster": cluster, "sources": sources, "ts": NOW.isoformat()}


def _replica(name: str, state: str) -> dict[str, Any]:
    return {"name": name, "current": state != "behind", "offline": state == "offline"}


def seen(
    silent: float, *, leader: str = "b", age: float | None = 100.0, origin_age: float | None = 50.0
) -> SourceState:
    state = SourceState.of(answer(leader, age, silent), answer("a", origin_age))
    assert state is not None
    return state


def test_a_source_that_is_heard_is_left_alone() -> None:
    assert seen(1.2).is_well
    assert not StallDetector().should_ask(seen(1.2))


def test_a_source_that_was_not_heard_since_the_new_leader_of_its_origin_is_moved_at_once() -> None:
    detector = StallDetector()
    assert not detector.should_ask(seen(0.3))
    assert detector.should_ask(seen(0.6, origin_age=0.2))


def test_a_source_that_the_new_leader_of_its_origin_has_served_is_left_alone() -> None:
    state = seen(0.1, origin_age=0.2)
    assert state.is_well
    assert not StallDetector().should_ask(state)


@pytest.mark.parametrize("origin_age", [50.0, None])
def test_a_silent_source_is_moved_also_while_its_origin_kept_its_leader(origin_age: float | None) -> None:
    detector = StallDetector()
    late = seen(2.0, origin_age=origin_age)
    assert not late.is_well
    assert not detector.should_ask(late)
    assert detector.should_ask(seen(2.6, origin_age=origin_age))


def test_a_leader_that_was_just_elected_has_the_time_to_set_its_source_up() -> None:
    detector = StallDetector()
    assert not detector.should_ask(seen(0.2))
    assert not detector.should_ask(seen(-1, leader="c", age=1.9))
    assert detector.should_ask(seen(-1, leader="c", age=2.1))


def test_a_leader_that_asked_an_origin_without_a_leader_does_not_wait_for_its_answer() -> None:
    """Both streams lost their leader, and that of the origin was elected last."""
    detector = StallDetector()
    assert not detector.should_ask(seen(0.2))
    assert not detector.should_ask(seen(-1, leader="c", age=0.4, origin_age=0.3))
    assert detector.should_ask(seen(-1, leader="c", age=0.6, origin_age=0.5))


def test_each_change_that_did_not_help_doubles_the_time_until_the_next_up_to_a_minute() -> None:
    detector = StallDetector()
    waits: list[float] = []
    for leader in "abcabcabca":
        age, origin_age = 0.0, 1_000 + sum(waits)
        while not detector.should_ask(seen(-1, leader=leader, age=age, origin_age=origin_age + age)):
            age += 0.5
        waits.append(age)
    assert waits == [2.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]


def test_a_source_that_was_well_again_is_moved_at_once_the_next_time() -> None:
    detector = StallDetector()
    for leader in "abc":
        detector.should_ask(seen(-1, leader=leader, age=3))
    detector.should_ask(seen(0.5, leader="c"))
    assert detector.should_ask(seen(1, leader="c", origin_age=0.1))


def test_a_new_leader_of_the_origin_ends_the_wait_after_changes_that_did_not_help() -> None:
    detector = StallDetector()
    for leader in "abcab":
        detector.should_ask(seen(-1, leader=leader, age=1))
    assert not detector.should_ask(seen(-1, leader="b", age=5))
    assert detector.should_ask(seen(-1, leader="b", age=6, origin_age=0.1))


def test_nothing_is_known_while_one_of_the_streams_has_no_leader() -> None:
    assert SourceState.of(answer(None, silent=5), answer("a")) is None
    assert SourceState.of(answer("b", silent=5), answer(None)) is None
    assert SourceState.of(answer("b", silent=5), {"ts": NOW.isoformat()}) is None


@pytest.mark.parametrize(
    ("leader", "replicas", "expected"),
    [
        ("a", {"c": "well", "b": "well"}, "b"),
        ("b", {"c": "well", "a": "well"}, "c"),
        ("c", {"b": "well", "a": "well"}, "a"),
        ("a", {"b": "behind", "c": "well"}, "c"),
        ("a", {"b": "offline", "c": "well"}, "c"),
        ("a", {"b": "behind", "c": "offline"}, None),
    ],
)
def test_the_successor_is_the_same_for_all_who_see_the_same(
    leader: str, replicas: dict[str, str], expected: str | None
) -> None:
    state = SourceState.of(answer(leader, silent=5, replicas=replicas), answer())
    assert state is not None
    assert StallDetector().successor(state) == expected


@pytest.mark.parametrize(("replicas", "expected"), [({"b": "well", "c": "well"}, "c"), ({"b": "well"}, None)])
def test_the_former_leader_of_the_origin_is_no_successor(replicas: dict[str, str], expected: str | None) -> None:
    detector = StallDetector()
    successors = []
    for origin in "bac":
        state = SourceState.of(answer("a", silent=1, replicas=replicas), answer(origin, 2))
        assert state is not None
        detector.should_ask(state)
        successors.append(detector.successor(state))
    assert successors == ["b", expected, "b"]


def test_what_the_server_does_not_tell_counts_as_long_ago() -> None:
    state = SourceState.of(answer("b", None, -1), answer("a", None))
    assert state is not None
    assert (state.leader_age, state.origin_age, state.silent) == (math.inf, math.inf, math.inf)
    assert state.is_lost
