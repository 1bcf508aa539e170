"""A task arrives as it was sent, types included, or is refused where it is submitted."""

from __future__ import annotations

from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from dateutil.tz import tzutc
from hypothesis import HealthCheck, given, settings
from msgspec import inspect as shapes

from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.wire.exactness import compile_test
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from support.task_shapes import AT, with_field
from support.value_shapes import (
    Colour,
    Folded,
    Guest,
    Level,
    Options,
    Owner,
    Point,
    Range,
    Rights,
    Sparse,
    Tree,
    arrives_as,
    tasks_of_any_values,
    tasks_of_exact_values,
)

generated = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@settings(generated, max_examples=100)
@given(tasks_of_exact_values)
def test_each_value_that_json_carries_arrives(task: Any) -> None:
    codec = FieldsCodec(type(task))
    assert arrives_as(task, codec.decode(codec.encode(task)))


@settings(generated, max_examples=200)
@given(tasks_of_any_values)
def test_any_value_arrives_as_it_is_or_is_refused_in_one_line_with_its_path(task: Any) -> None:
    codec = FieldsCodec(type(task))
    body, refusal = b"", ""
    try:
        body = codec.encode(task)
    except MalformedTaskError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("Task: ")
        assert "field_" in refusal
        assert "\n" not in refusal
    else:
        assert arrives_as(task, codec.decode(body))


@pytest.mark.parametrize(
    ("kind", "value", "known"),
    [
        (str, "a", True),
        (int, 2**70, True),
        (float, 1.5, True),
        (float, 1, True),
        (float, float("nan"), False),
        (bool, True, True),
        (bytes, b"x", True),
        (Decimal, Decimal("NaN"), True),
        (datetime, AT, True),
        (datetime, datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Zurich")), True),
        (datetime, datetime(2026, 1, 1, tzinfo=tzutc()), False),
        (time, time(1, tzinfo=UTC), True),
        (Colour, Colour.RED, True),
        (Rights, Rights.READ, False),
        (int | None, None, True),
        (list[int], [1, 2], True),
        (list[int], [1, True], False),
        (list[float], [1.5, 2], True),
        (dict[str, int], {"a": 1}, True),
        (dict[Level, list[str]], {Level.LOW: ["a"]}, True),
        (dict, {"a": [1, {"b": None}, 1.5]}, True),
        (dict, {1: 1}, False),
        (tuple[int, str], (1, "a"), True),
        (tuple[int, ...], (1, 2), True),
        (set[int], {1}, True),
        (Owner, Owner("a"), True),
        (Owner, Guest("a"), False),
        (Tree, Tree(1.0, [Tree()]), True),
        (Range, Range(1), True),
        (Sparse, Sparse(), False),
        (Point, Point(1), True),
        (Options, {"dry_run": True}, True),
        (Options, {"more": True}, False),
        (Annotated[str, msgspec.Meta(min_length=1)], "a", True),
        (Annotated[str, msgspec.Meta(min_length=1)], "", False),
        (Annotated[list[Annotated[int, msgspec.Meta(ge=1)]], msgspec.Meta(max_length=2)], [1, 0], False),
        (Annotated[str, msgspec.Meta(pattern="^a")], "a", False),
        (msgspec.defstruct("Keyworded", [("class", int)]), None, False),
        (Folded, Folded("a"), False),
    ],
    ids=lambda part: type(part).__name__,
)
def test_most_values_need_no_second_task_to_be_known_as_exact(kind: Any, value: Any, known: bool) -> None:
    task_class = with_field(kind)
    assert compile_test(shapes.type_info(task_class))(task_class(value)) is known
