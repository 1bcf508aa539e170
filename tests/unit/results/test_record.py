"""The record of a result: which values arrive, as what, and why others do not."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import ResultIsMissingError, TaskFailedError
from diracx.tasks.plumbing.results.record import ResultRecord, value_json
from diracx.tasks.plumbing.wire.ending import Ending, Status
from diracx.tasks.plumbing.wire.failure import Failure

ENDED = datetime(2026, 11, 26, 12, tzinfo=UTC)


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Kind(Enum):
    A = "a"


@dataclasses.dataclass
class Owner:
    name: str
    since: date


class Point(msgspec.Struct):
    x: int
    y: float


class Model(pydantic.BaseModel):
    name: str
    share: float = 0.5
    link: pydantic.AnyUrl | None = None


class Proxy:
    """As the proxy of a request that is over."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")


def arrived(value: object) -> Any:
    """What a value is for whoever reads the record."""
    ending = Ending("0192", "acme:Report", Status.SUCCEEDED, value)
    return ResultRecord.parse(ResultRecord.of(ending, "w", ENDED).encoded()).returned()


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, types and order included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=30,
)


@given(json_values)
def test_any_json_value_arrives_unchanged_with_its_types(value: Any) -> None:
    assert same(arrived(value), value)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, None),
        (True, True),
        (1, 1),
        (1.0, 1.0),
        (-0.0, -0.0),
        (2**70, 2**70),
        (10**400, 10**400),
        ("", ""),
        ("\u2028\x00é😀", "\u2028\x00é😀"),
        ("null", "null"),
        ([None, [None]], [None, [None]]),
        ({"b": 1, "a": None}, {"b": 1, "a": None}),
        ((1, (2, 3)), [1, [2, 3]]),
        ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
        (frozenset([1]), [1]),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Kind.A, "a"),
        (b"x", "eA=="),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("0.10"), "0.10"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (timedelta(seconds=90), "PT90S"),
        (Owner("alice", date(2026, 1, 2)), {"name": "alice", "since": "2026-01-02"}),
        (Point(1, 2.0), {"x": 1, "y": 2.0}),
        (
            [Model(name="a", link=pydantic.AnyUrl("https://a.ch/"))],
            [{"name": "a", "share": 0.5, "link": "https://a.ch/"}],
        ),
        pytest.param(msgspec.Raw(b' {"a" : [ 1 ]}'), {"a": [1]}, id="raw JSON"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_values_arrive_as_json_has_them(value: object, read: Any) -> None:
    assert same(arrived(value), read)


class Rude:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


class RudeDict(dict[str, Any]):
    def items(self) -> Any:
        raise SystemExit(1)


def _nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def _endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (math.nan, r"the value at \$ is nan; JSON has no such number"),
        ({"a": [None, math.inf]}, r"the value at \$\['a'\]\[1\] is inf"),
        (Model(name="a", share=-math.inf), r"the value at \$.share is -inf"),
        (Point(1, math.nan), r"the value at \$.y is nan"),
        (
            object(),
            r"the value at \$, <object object .*>, cannot be written as JSON: JSON has no object there; return text",
        ),
        ({"a": [1, {"b": 1j}]}, r"the value at \$\['a'\]\[1\]\['b'\], 1j, cannot be written as JSON"),
        ("\ud800", r"cannot be written as JSON: 'utf-8' codec can't encode"),
        ({(1, 2): 3}, "cannot be written as JSON: JSON has no tuple there"),
        ({"x": {1: "a", "1": "b"}}, "two of its keys are '1' as JSON"),
        pytest.param(msgspec.Raw(b"nothing"), "cannot be written as JSON: JSON is malformed", id="raw text"),
        (Proxy(), r"the value at \$, a Proxy, cannot be written as JSON"),
        (Rude(), r"the value at \$, a Rude, cannot be written as JSON: JSON has no Rude there"),
        (RudeDict(a=None), r"the value at \$, a RudeDict, cannot be written as JSON: 1; return text"),
        (_endless(), "nested too deeply or contains itself"),
        (_nested(), "nested too deeply or contains itself"),
    ],
    ids=lambda value: value if type(value) is str else type(value).__name__,
)
def test_what_json_does_not_carry_is_refused_with_its_place(value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        value_json(value)
    assert "\n" not in str(raised.value)
    with pytest.raises(
        ResultIsMissingError, match=r"acme:Report has succeeded, but its value was not kept: "
    ) as missing:
        arrived(value)
    assert missing.value.id == "0192"


def test_the_record_is_json_for_everybody() -> None:
    record = ResultRecord.of(Ending("0192", "acme:Report", Status.SUCCEEDED, [1]), "host-7-small", ENDED)
    assert json.loads(record.encoded()) == {
        "id": "0192",
        "task": "acme:Report",
        "status": "succeeded",
        "value": [1],
        "error": None,
        "ended": "2026-11-26T12:00:00Z",
        "worker": "host-7-small",
        "problem": None,
    }


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status.FAILED, "acme:Report (0192) failed: acme.DiskError: full"),
        (Status.EXPIRED, "acme:Report (0192) expired: acme.DiskError: full"),
        (Status.CANCELLED, "acme:Report (0192) was cancelled: acme.DiskError: full"),
    ],
)
def test_a_task_that_has_not_succeeded_raises_its_error_where_it_is_asked_for(status: Status, text: str) -> None:
    failure = Failure("acme.DiskError", "full", "Traceback ...", "w", ENDED)
    record = ResultRecord.parse(
        ResultRecord.of(Ending("0192", "acme:Report", status, error=failure), "w", ENDED).encoded()
    )
    with pytest.raises(TaskFailedError) as raised:
        record.returned()
    error = raised.value
    assert str(error) == text
    assert (error.id, error.task, error.status) == ("0192", "acme:Report", status)
    assert (error.type, error.message, error.traceback) == ("acme.DiskError", "full", "Traceback ...")


def test_a_record_of_another_version_is_read_as_far_as_it_is_known() -> None:
    assert ResultRecord.parse(b'{"id":"1","status":"succeeded","value":2,"later":[]}').returned() == 2
    with pytest.raises(TaskFailedError, match=r"failed: unknown: $"):
        ResultRecord.parse(b'{"id":"1","status":"failed"}').returned()


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b'{"id":1}', b'{"id":"1","status":"lost"}', b"[" * 100_000])
def test_what_is_no_record_is_refused_in_a_line(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^.+$"):
        ResultRecord.parse(body)
