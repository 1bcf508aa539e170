"""Locks as values: their keys, their limits, and the arguments that they refuse."""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.lock_registry import JOB, TASK, LockedObjectType
from diracx.tasks.plumbing.locks import (
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.locks.base import MAX_TTL_MS
from diracx.tasks.plumbing.locks.slots import slots_of

KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")
AWKWARD = ["", ".", "a.b", "a", "b", "a b", "*", ">", "a/b", "/", "/slots", "/writer", "slots", "%", "%2E", "=", "=2E"]
AWKWARD += ["é", "日本", "\x00", "\n", "\ud800", "0", "x" * 1_000, "x" * 1_001, "=h" + "0" * 64, " ", "\u0301"]


def keys_of(lock: BaseLock) -> list[str]:
    """Every key that the lock may store."""
    if isinstance(lock, (ExclusiveRWLock, SharedRWLock)):
        return [lock.writer_key, f"{lock.readers}.owner"]
    if isinstance(lock, (RateLimiter, ConcurrencyLimiter)):
        return [f"{slots_of(lock.key)}.{number}" for number in range(3)]
    return [lock.key]


def test_a_lock_has_no_key_in_redis_and_the_error_names_the_one_it_has() -> None:
    lock = MutexLock(JOB, 1)
    with pytest.raises(AttributeError, match=r"MutexLock has no redis_key.*use `lock\.key`"):
        getattr(lock, "redis_key")  # noqa: B009 - mypy takes what follows the attribute for unreachable
    assert not hasattr(lock, "redis_key")


def test_no_two_locks_with_awkward_parts_share_a_key() -> None:
    tuples = [(a,) for a in AWKWARD] + [(a, b) for a in AWKWARD for b in AWKWARD]
    kinds = (MutexLock, ExclusiveRWLock, RateLimiter, ConcurrencyLimiter)
    seen: dict[str, object] = {}
    for kind in kinds:
        for parts in tuples:
            for key in keys_of(kind(JOB, *parts)):
                assert KEY.fullmatch(key), key
                assert not key.startswith(".")
                assert not key.endswith(".")
                assert ".." not in key
                assert len(key) < 1_500
                assert key not in seen, f"{(kind, parts)} and {seen[key]} meet"
                seen[key] = (kind, parts)


parts = st.lists(st.text(max_size=300), min_size=1, max_size=3).map(tuple)


@given(parts, parts)
def test_two_locks_share_a_key_only_if_their_parts_are_equal(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    assert (MutexLock(JOB, *first).key == MutexLock(JOB, *second).key) == (first == second)


@pytest.mark.parametrize(("old", "new"), [("gives_back", "frees_on_release"), ("contention", "contention_key")])
@pytest.mark.parametrize("base", [MutexLock, RateLimiter])
def test_a_lock_that_sets_an_attribute_by_its_earlier_name_is_refused(base: type, old: str, new: str) -> None:
    with pytest.raises(TaskDefinitionError) as caught:
        type("Licence", (base,), {"__module__": "garage", old: False})
    assert str(caught.value) == f"garage.Licence sets {old}, which is {new} now; rename it"


def test_a_lock_that_inherits_an_attribute_by_its_earlier_name_is_refused() -> None:
    class Mixin:
        gives_back = False

    with pytest.raises(TaskDefinitionError, match="Licence sets gives_back, which is frees_on_release now"):
        type("Licence", (Mixin, MutexLock), {})


def test_a_number_and_its_text_are_one_key() -> None:
    assert MutexLock(JOB, 7).key == MutexLock(JOB, "7").key == "mutex.job.7"


def test_types_of_objects_keep_keys_apart() -> None:
    assert MutexLock(JOB, 7).key != MutexLock(TASK, 7).key


def test_kinds_keep_keys_apart() -> None:
    kinds = (MutexLock, ExclusiveRWLock, SharedRWLock, RateLimiter, ConcurrencyLimiter)
    for one, other in combinations(kinds, 2):
        assert set(keys_of(one(JOB, 7))).isdisjoint(keys_of(other(JOB, 7))) or {one, other} <= {
            ExclusiveRWLock,
            SharedRWLock,
        }


@pytest.mark.parametrize("kind", [MutexLock, ExclusiveRWLock, SharedRWLock, RateLimiter, ConcurrencyLimiter])
def test_an_unregistered_type_is_refused_and_the_registered_ones_are_named(kind: type[BaseLock]) -> None:
    with pytest.raises(TaskDefinitionError, match=r"'jbo'.*job.*task.*transformation"):
        kind("jbo", 7)  # type: ignore[arg-type]
    assert kind(LockedObjectType("job"), 7).key


@pytest.mark.parametrize("kind", [MutexLock, ExclusiveRWLock, SharedRWLock, ConcurrencyLimiter])
def test_a_lock_that_has_a_ttl_takes_it_in_milliseconds(kind: type[BaseLock]) -> None:
    assert kind(JOB, 7, ttl_ms=60_000).ttl.total_seconds() == 60
    for endless in (1e300, float("inf"), float("nan"), MAX_TTL_MS + 1):
        with pytest.raises(ValueError, match=f"is too long: {MAX_TTL_MS} at the most"):
            kind(JOB, 7, ttl_ms=endless)  # type: ignore[arg-type]
    for other in ("30000", None, timedelta(seconds=30)):
        with pytest.raises(ValueError, match=r"ttl_ms=.* is no number of milliseconds, e\.g\. 30000"):
            kind(JOB, 7, ttl_ms=other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl_ms=2000 is too short: more than 2000 is needed"):
        kind(JOB, 7, ttl_ms=2_000)


class Mail(RateLimiter):
    """A limit of a subclass."""

    limit = 10
    window_seconds = 2.5


def test_limits_come_from_the_instance_then_the_class() -> None:
    assert (Mail(JOB, 7).limit, Mail(JOB, 7).window.total_seconds()) == (10, 3)
    own = Mail(JOB, 7, limit=4, window_seconds=60)
    assert (own.limit, own.window.total_seconds()) == (4, 60)
    assert Mail(JOB, 7, limit=None).limit is None
    assert RateLimiter(JOB, 7).limit is None
    assert ConcurrencyLimiter(JOB, 7).limit is None
    assert ConcurrencyLimiter(JOB, 7, limit=2).limit == 2


def test_another_limit_makes_a_copy_and_leaves_the_lock_as_it_is() -> None:
    lock = Mail(JOB, 7, "extra", n_items=2)
    other = lock.limited(20, 30)
    assert (other.key, other.n_items, other.limit, other.window_seconds) == (lock.key, 2, 20, 30)
    assert lock.limited(None).limit is None
    assert (lock.limit, lock.window_seconds) == (10, 2.5)
    assert ConcurrencyLimiter(JOB, 7, limit=1).limited(3).limit == 3
    assert lock.limited(1).limit == 1, "a lower limit than its items makes it wait, not fail"
    with pytest.raises(ValueError, match="limit=0 must be a whole number, at least 1"):
        lock.limited(0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"limit": 0}, "limit=0 must be a whole number, at least 1, or None"),
        ({"limit": 2.5}, "limit=2.5 must be a whole number, at least 1, or None"),
        ({"limit": "3"}, "limit='3' must be a whole number, at least 1, or None"),
        ({"limit": float("nan")}, "limit=nan must be a whole number, at least 1, or None"),
        ({"limit": 1, "window_seconds": "60"}, "window_seconds='60' must be a number of seconds"),
        ({"limit": 1, "n_items": 1.5}, "n_items=1.5 must be a whole number, at least 1"),
        ({"limit": 1, "window_seconds": 0}, "window_seconds=0 must be a number of seconds, more than 0"),
        ({"limit": 1, "n_items": 0}, "n_items=0 must be a whole number, at least 1"),
        ({"limit": 1, "n_items": 2}, "n_items=2 is more than limit=1 ever admits"),
    ],
)
def test_an_impossible_limit_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RateLimiter(JOB, 7, **arguments)


def test_a_limiter_for_one_vo_is_a_copy_with_a_key_that_no_limiter_in_the_code_has() -> None:
    limiter = ConcurrencyLimiter(JOB, 7, limit=1)
    assert limiter.of_vo("my vo.org").key == "conc.job.7./vo.my=20vo=2Eorg"
    assert limiter.key == "conc.job.7"
    assert ConcurrencyLimiter(JOB, 7, "/vo", "atlas").key == "conc.job.7.=2Fvo.atlas"
    assert RateLimiter(JOB, 7, n_items=2, limit=3).of_vo("lhcb").contention_key == "rate.job.7./vo.lhcb./items.2"


@pytest.mark.parametrize("kind", [MutexLock, ExclusiveRWLock, SharedRWLock, RateLimiter, ConcurrencyLimiter])
@pytest.mark.parametrize("parts", [["x" * 200] * 30, ["a", None], [b"a"]])
def test_a_lock_whose_key_cannot_be_made_is_refused_where_it_is_written(kind: type[BaseLock], parts: list[Any]) -> None:
    with pytest.raises(ValueError, match="key"):
        kind(JOB, *parts)


def test_a_lock_of_an_author_with_an_odd_kind_is_refused() -> None:
    class Licence(MutexLock):
        kind = "my licence"

    with pytest.raises(ValueError, match="the kind 'my licence' of a lock must be"):
        Licence(JOB, 1)
