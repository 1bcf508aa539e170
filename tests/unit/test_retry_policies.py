"""Retry policies as values: the delay and the number of retries."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, PrivateAttr, ValidationError, field_validator

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, NoRetry, RetryPolicyBase

FAILURE = RuntimeError("boom")


def delay_bounds(policy: RetryPolicyBase, attempt: int) -> tuple[float, float]:
    """The least and the most seconds of delay, since the clock runs on while the policy decides."""
    before = datetime.now(UTC)
    at = policy.schedule_retry(attempt, FAILURE)
    after = datetime.now(UTC)
    assert at is not None
    assert at.tzinfo is not None
    return (at - after).total_seconds(), (at - before).total_seconds()


def retries_given(policy: RetryPolicyBase, most: int) -> int:
    return next(n for n in range(most + 1) if policy.schedule_retry(n, FAILURE) is None)


def test_no_retry_never_retries() -> None:
    assert NoRetry().schedule_retry(0, FAILURE) is None


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 10), (1, 20), (2, 40), (3, 80), (4, 160)])
def test_the_default_backoff_waits_ten_seconds_and_doubles(attempt: int, seconds: int) -> None:
    least, most = delay_bounds(ExponentialBackoff(), attempt)
    assert least <= seconds <= most


def test_the_default_backoff_gives_five_retries() -> None:
    assert retries_given(ExponentialBackoff(), most=100) == 5


@settings(deadline=None)
@given(base=st.floats(0, 60), retries=st.integers(0, 15))
def test_a_backoff_gives_exactly_max_retries_retries(base: float, retries: int) -> None:
    policy = ExponentialBackoff(base_delay_seconds=base, max_retries=retries)
    assert retries_given(policy, most=retries) == retries
    assert policy.schedule_retry(retries + 1_000, FAILURE) is None


@settings(deadline=None)
@given(base=st.floats(0.001, 60), attempt=st.integers(0, 14))
def test_a_backoff_waits_base_times_two_to_the_attempt(base: float, attempt: int) -> None:
    least, most = delay_bounds(ExponentialBackoff(base_delay_seconds=base, max_retries=15), attempt)
    assert least - 1e-3 <= base * 2**attempt <= most + 1e-3


def test_a_backoff_of_zero_retries_at_once_however_often() -> None:
    least, most = delay_bounds(ExponentialBackoff(base_delay_seconds=0, max_retries=5_000), 4_999)
    assert least <= 0 <= most


@pytest.mark.parametrize(
    ("base", "retries"),
    [(-1, 5), (float("nan"), 5), (10, -1), (float("inf"), 1), (10, 23), (10, 5_000), (366 * 86_400, 1)],
)
def test_a_backoff_with_impossible_numbers_is_refused_and_shows_them(base: float, retries: int) -> None:
    with pytest.raises(ValueError, match=f"{retries} retries: "):
        ExponentialBackoff(base_delay_seconds=base, max_retries=retries)


def test_the_longest_delay_is_a_year() -> None:
    year = timedelta(days=365).total_seconds()
    least, most = delay_bounds(ExponentialBackoff(base_delay_seconds=year, max_retries=1), 0)
    assert least <= year <= most


def test_policies_are_frozen_values() -> None:
    assert NoRetry() == NoRetry()
    assert ExponentialBackoff() == ExponentialBackoff(10, 5)
    assert len({ExponentialBackoff(), ExponentialBackoff(), ExponentialBackoff(1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExponentialBackoff().max_retries = 6  # type: ignore[misc]


def test_policies_have_a_text_for_people() -> None:
    assert str(NoRetry()) == "no retry"
    assert str(ExponentialBackoff(1.5, 3)) == "exponential backoff, base 1.5 s, 3 retries"


def test_a_policy_must_define_schedule_retry() -> None:
    class Incomplete(RetryPolicyBase):
        pass

    with pytest.raises(TypeError, match="schedule_retry"):
        Incomplete()  # type: ignore[abstract]


class Paced(RetryPolicyBase):
    """As an author writes it for DiracX."""

    delay: int = 5
    factor: float = 1.0
    only: tuple[type[Exception], ...] = ()

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        return datetime.now(UTC) + timedelta(seconds=self.delay * self.factor)


class PacedTwice(Paced):
    factor: float = 2.0
    times: list[int] = dataclasses.field(default_factory=list)
    note: str | None = None
    kind: Literal["slow", "fast"] = "slow"
    log: Callable[[str], None] = print
    clock: Clock | None = None
    marked: Annotated[int, "seconds"] = 0
    units: ClassVar[str] = "s"


class Clock(Protocol):
    def now(self) -> float: ...


def test_annotated_fields_are_the_keywords_of_a_policy() -> None:
    assert (Paced().delay, Paced(delay=7).delay, Paced(delay=7, factor=2).factor) == (5, 7, 2)
    least, most = delay_bounds(Paced(delay=7), 0)
    assert least <= 7 <= most
    assert Paced() == Paced(delay=5) != Paced(delay=6)
    assert repr(Paced(delay=7)) == "Paced(delay=7, factor=1.0, only=())"
    changed = Paced()
    changed.delay = 9
    assert changed.delay == 9
    assert copy.copy(changed) == pickle.loads(pickle.dumps(changed)) == changed


def test_fields_are_inherited_and_may_be_given_another_default() -> None:
    policy = PacedTwice(delay=1, note=None, times=[2])
    assert (policy.delay, policy.factor, policy.times, policy.units) == (1, 2.0, [2], "s")
    assert PacedTwice().times is not PacedTwice().times
    assert isinstance(policy, Paced)


def test_a_subclass_is_constructed_before_the_class_that_it_extends_ever_was() -> None:
    class First(RetryPolicyBase):
        delay: int

        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None: ...

    class Second(First):
        more: int = 1

    assert (Second(delay=3).delay, Second(delay=3).more) == (3, 1)
    with pytest.raises(TypeError, match="'delay'"):
        First()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"delai": 3}, "unexpected keyword argument 'delai'"),
        ({"delay": "soon"}, "Paced: delay is 'soon', not of the type <class 'int'>"),
        ({"delay": None}, "Paced: delay is None, not of the type"),
        ({"factor": "2"}, "Paced: factor is '2', not of the type"),
        ({"only": [ValueError]}, "Paced: only is .*, not of the type tuple"),
    ],
)
def test_a_keyword_that_does_not_fit_is_refused_in_one_line(values: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why) as caught:
        Paced(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"note": 3}, {"kind": "odd"}, {"log": 3}, {"marked": "x"}, {"times": (1,)}, {"delay": 1.5}],
)
def test_the_type_of_each_keyword_is_checked(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(TypeError, match=f"PacedTwice: {name} is"):
        PacedTwice(**values)


def test_what_is_no_class_is_not_checked() -> None:
    assert str(PacedTwice(clock=3).clock) == "3"  # type: ignore[arg-type]

    class Hidden(RetryPolicyBase):
        delay: Nowhere = 1  # type: ignore[name-defined]  # noqa: F821

        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None: ...

    assert Hidden(delay="x").delay == "x"


def test_subclasses_of_the_backoff_keep_what_they_change() -> None:
    class Longer(ExponentialBackoff):
        max_retries: int = 9

    class Marked(ExponentialBackoff):
        note: str = "x"

    assert (Longer().max_retries, Longer(base_delay_seconds=2).base_delay_seconds) == (9, 2)
    assert str(Longer()) == "exponential backoff, base 10 s, 9 retries"
    assert Marked(1, 2, note="y") == Marked(1, 2, note="y") != Marked(1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Marked().note = "z"
    with pytest.raises(ValueError, match="must be 0 or more"):
        Longer(max_retries=-1)


def test_a_dataclass_and_a_constructor_of_its_own_stay_as_they_are() -> None:
    class Fresh(Paced):
        wait: int = 5

    @dataclasses.dataclass
    class Decorated(Fresh):
        extra: int = 1

    @dataclasses.dataclass(slots=True)
    class Slotted(RetryPolicyBase):
        extra: int = 1

        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None: ...

    class Own(RetryPolicyBase):
        delay: int

        def __init__(self, seconds: int) -> None:
            self.delay = seconds

        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None: ...

    class OwnFurther(Own):
        note: str = "x"

    assert (Slotted(2).extra, Decorated(extra=1, wait=7).wait, Decorated().wait) == (2, 7, 5)
    assert Own(3).delay == OwnFurther(3).delay == 3
    assert Own(3) != Own(3)


def test_a_pydantic_model_is_left_to_pydantic() -> None:
    class Checked(RetryPolicyBase, BaseModel):
        delay: int = Field(default=5, gt=0)

        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
            return datetime.now(UTC) + timedelta(seconds=self.delay)

    assert (Checked().delay, Checked(delay="7").delay) == (5, 7)  # type: ignore[arg-type]
    assert repr(Checked(delay=7)) == "Checked(delay=7)"
    assert Checked() == Checked(delay=5) != Checked(delay=6)
    assert Checked().model_copy(update={"delay": 9}).delay == 9
    least, most = delay_bounds(Checked(delay=7), 0)
    assert least <= 7 <= most
    with pytest.raises(ValidationError):
        Checked(delay=0)
    with pytest.raises(TypeError, match="schedule_retry"):
        type("Incomplete", (RetryPolicyBase, BaseModel), {"__module__": __name__})()


def test_pydantic_in_a_class_that_is_no_model_is_refused_with_the_mend() -> None:
    def fields() -> Iterator[tuple[str, Any, Any]]:
        yield "delay", int, Field(default=5)
        yield "_seen", int, PrivateAttr(default=0)
        yield "check", int, field_validator("delay")(lambda value: value)
        yield "model_config", dict, ConfigDict(frozen=True)

    for name, kind, value in fields():
        with pytest.raises(TaskDefinitionError) as caught:
            type("P", (Paced,), {"__module__": "acme", "__annotations__": {name: kind}, name: value})
        assert str(caught.value) == f"acme.P: {name} needs pydantic; write `class P(RetryPolicyBase, BaseModel)`"

    class Constrained(Paced):
        delay: PositiveInt = 5

    with pytest.raises(
        TaskDefinitionError, match=r"the constraint on delay needs pydantic; write `class Constrained\("
    ):
        Constrained()
    with pytest.raises(TaskDefinitionError, match=r"a dataclass and a pydantic model; write `class P\(RetryPolicyBase"):
        type("P", (ExponentialBackoff, BaseModel), {"__module__": "acme"})
