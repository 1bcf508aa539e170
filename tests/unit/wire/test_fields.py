"""The body of a task message: a promise to every language, pinned here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from support.task_shapes import AT, Bare, Owner, Sealed, Sync, Tree, with_field


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Site(StrEnum):
    CERN = "LCG.CERN.cern"


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict, total=False):
    dry_run: bool


class Range(msgspec.Struct, frozen=True):
    low: int
    high: int = 9


# type, value, the JSON that carries it
SHAPES: list[tuple[Any, Any, bytes]] = [
    (bool, True, b"true"),
    (int, -(2**63), b"-9223372036854775808"),
    (float, 1.5, b"1.5"),
    (str, 'é "😀"\n', '"é \\"😀\\"\\n"'.encode()),
    (bytes, b"\x00\xff", b'"AP8="'),
    (bytearray, bytearray(b"\x00"), b'"AA=="'),
    (datetime, AT, b'"2026-12-01T06:00:00.000005Z"'),
    (datetime, AT.replace(tzinfo=None), b'"2026-12-01T06:00:00.000005"'),
    (date, date(2026, 12, 1), b'"2026-12-01"'),
    (time, time(6, 0, 0), b'"06:00:00"'),
    (timedelta, timedelta(days=1, seconds=2, microseconds=5), b'"P1DT2.000005S"'),
    (UUID, UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
    (Decimal, Decimal("0.10"), b'"0.10"'),
    (Colour, Colour.BLUE, b'"blue"'),
    (Level, Level.HIGH, b"2"),
    (Site, Site.CERN, b'"LCG.CERN.cern"'),
    (Literal["a", "b"], "b", b'"b"'),
    (int | None, None, b"null"),
    (int | str | None, "7", b'"7"'),
    (int | str | None, 7, b"7"),
    (list[int], [1, 2], b"[1,2]"),
    (Sequence[int], [1, 2], b"[1,2]"),
    (tuple[int, str], (1, "a"), b'[1,"a"]'),
    (tuple[int, ...], (1, 2, 3), b"[1,2,3]"),
    (set[int], {1}, b"[1]"),
    (frozenset[str], frozenset("a"), b'["a"]'),
    (dict[str, list[int]], {"a": [1]}, b'{"a":[1]}'),
    (Mapping[str, int], {"a": 1}, b'{"a":1}'),
    (dict[int, str], {1: "a"}, b'{"1":"a"}'),
    (dict[UUID, int], {UUID(int=1): 2}, b'{"00000000-0000-0000-0000-000000000001":2}'),
    (Owner, Owner("alice", Decimal("1.5")), b'{"name":"alice","quota":"1.5"}'),
    (list[Owner], [Owner("bob")], b'[{"name":"bob","quota":null}]'),
    (Owner | None, Owner("bob"), b'{"name":"bob","quota":null}'),
    (Range, Range(1), b'{"low":1,"high":9}'),
    (Point, Point(1, 2), b"[1,2]"),
    (Options, {"dry_run": True}, b'{"dry_run":true}'),
    (Annotated[int, msgspec.Meta(ge=1)], 1, b"1"),
    (Any, {"a": [1, None, "b"]}, b'{"a":[1,null,"b"]}'),
]


T = TypeVar("T")


@dataclass
class Batch(Generic[T]):
    items: list[T]


@pytest.mark.parametrize(("kind", "value", "json"), SHAPES, ids=lambda part: str(part)[:40])
def test_every_shape_travels_as_this_json(kind: Any, value: Any, json: bytes) -> None:
    task_class = with_field(kind)
    codec = FieldsCodec(task_class)
    body = b'{"value":' + json + b"}"
    assert codec.encode(task_class(value)) == body
    read = codec.decode(body)
    assert type(read) is task_class
    assert read.value == value
    assert type(read.value) is type(value)


def test_the_body_is_the_fields_as_an_object() -> None:
    codec = FieldsCodec(Sync)
    assert codec.encode(Sync("alice")) == b'{"owner_name":"alice","limit":100}'
    assert codec.decode(b'{"owner_name":"alice"}') == Sync("alice", 100)


def test_frozen_slotted_and_keyword_only_classes_travel_too() -> None:
    codec = FieldsCodec(Sealed)
    task = Sealed(owner=Owner("alice"), since=AT, tags=("a",))
    body = b'{"owner":{"name":"alice","quota":null},"since":"2026-12-01T06:00:00.000005Z","tags":["a"]}'
    assert codec.encode(task) == body
    assert codec.decode(body) == task
    assert codec.decode(b'{"owner":{"name":"alice"}}') == Sealed(owner=Owner("alice"))


@settings(deadline=None)
@given(
    st.builds(
        Sealed,
        owner=st.builds(Owner, st.text(st.characters(codec="utf-8")), st.none() | st.decimals(allow_nan=False)),
        since=st.none() | st.datetimes(timezones=st.just(UTC)),
        tags=st.lists(st.text(st.characters(codec="utf-8"))).map(tuple),
    )
)
def test_a_decoded_task_equals_the_encoded_one(task: Sealed) -> None:
    codec = FieldsCodec(Sealed)
    assert codec.decode(codec.encode(task)) == task


def test_a_class_may_contain_itself() -> None:
    codec = FieldsCodec(Tree)
    task = Tree(1, [Tree(2), Tree(3, [Tree(4)])])
    assert codec.decode(codec.encode(task)) == task


def test_each_task_gets_its_own_mutable_default() -> None:
    codec = FieldsCodec(Tree)
    assert codec.decode(b"{}").children is not codec.decode(b"{}").children


def test_fields_are_inherited() -> None:
    @dataclass
    class Further(Sync):
        deep: bool = False

    class Renamed(Sync):
        """No field of its own, so no decorator is needed."""

    assert FieldsCodec(Further).decode(b'{"owner_name":"alice","deep":true}') == Further("alice", deep=True)
    assert type(FieldsCodec(Renamed).decode(b'{"owner_name":"alice"}')) is Renamed


def test_a_generic_class_knows_its_parameter() -> None:
    @dataclass
    class Numbers(Batch[int]):
        pass

    assert FieldsCodec(Numbers).decode(b'{"items":[1]}') == Numbers([1])
    with pytest.raises(MalformedTaskError, match=r"at `\$\.items\[0\]`"):
        FieldsCodec(Numbers).decode(b'{"items":["a"]}')


def test_a_field_with_init_false_takes_its_default() -> None:
    @dataclass
    class Counted:
        name: str
        seen: int = field(init=False, default=0)

    codec = FieldsCodec(Counted)
    assert codec.decode(b'{"name":"a"}') == Counted("a")
    with pytest.raises(MalformedTaskError, match="no field 'seen'"):
        codec.from_arguments([], {"name": "a", "seen": 1})


def test_an_older_and_a_newer_version_understand_each_other() -> None:
    newer_body = b'{"owner_name":"alice","limit":5,"colour":{"deep":[1]}}'
    older_body = b'{"owner_name":"alice"}'
    assert FieldsCodec(Sync).decode(newer_body) == Sync("alice", 5)
    assert FieldsCodec(Sync).decode(older_body) == Sync("alice", 100)


def test_a_class_without_fields_has_an_empty_object() -> None:
    codec = FieldsCodec(Bare)
    assert codec.fields == ()
    assert codec.encode(Bare()) == b"{}"
    assert isinstance(codec.decode(b"{}"), Bare)
    assert isinstance(codec.decode(b'{"since_removed":[1]}'), Bare)
