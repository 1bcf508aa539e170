"""Values that would arrive as others are refused where the task is submitted, with their path and the mend."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import attr
import msgspec
import pytest

from diracx.tasks.plumbing.exceptions import MalformedTaskError, TaskDefinitionError
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from support.task_shapes import AT, with_field
from support.value_shapes import (
    Awkward,
    BrokenZone,
    Colour,
    Guest,
    Level,
    NoOffset,
    Options,
    Owner,
    Point,
    Range,
    Shade,
    Site,
    Tree,
    Wider,
    endless,
)

NAN = float("nan")
INF = float("inf")
NO_NUMBER = "JSON has no such number: use None, or a str"
ZURICH = ZoneInfo("Europe/Zurich")
LOCAL_MEAN_TIME = timezone(timedelta(minutes=19, seconds=32))
NOON = datetime(2026, 1, 1, 12)  # noqa: DTZ001


@attr.define
class Measured:
    size: int
    _unit: str = attr.field(default="m", alias="unit")


class Kelvin(float):
    pass


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        (float, NAN, rf"the value at \$\.value is nan; {NO_NUMBER}"),
        (float | None, NAN, rf"\$\.value is nan, and would arrive as None; {NO_NUMBER}"),
        (list[float | None], [0.5, -INF], rf"\$\.value\[1\] is -inf, and would arrive as None; {NO_NUMBER}"),
        (dict[str, Any], {"a": [{"b": INF}]}, rf"\$\.value\['a'\]\[0\]\['b'\] is inf, and would .* {NO_NUMBER}"),
        (Owner, Owner("a", NAN), r"\$\.value\.ratio is nan"),
        (Tree, Tree(1.0, [Tree(2.0), Tree(NAN)]), r"\$\.value\.children\[1\]\.value is nan"),
        (Point, Point(1, NAN), r"\$\.value\[1\] is nan"),
        (Range, Range(1, INF), r"\$\.value\.high is inf"),
        (dict[float, int], {NAN: 1}, rf"\$\.value is \{{nan: 1\}}, .*; {NO_NUMBER}"),
        (set[float | None], {INF}, rf"\$\.value is \{{inf\}}, and would arrive as \{{None\}}; {NO_NUMBER}"),
        (
            set,
            {(1, 2)},
            r"\$\.value, \{\(1, 2\)\}, has elements that would arrive as lists; annotate them, e\.g\. set\[t",
        ),
        (
            Any,
            (1, 2),
            r"\$\.value is a tuple, and would arrive as a list; give a list, or annotate the field with tuple",
        ),
        (Any, {1}, r"\$\.value is a set, and would arrive as a list"),
        (Any, frozenset({1}), r"\$\.value is a frozenset, and would arrive as a list"),
        (list, [{"a": (1,)}], r"\$\.value\[0\]\['a'\] is a tuple"),
        (Any, b"x", r"\$\.value is b'x', and would arrive as 'eA=='; give a str, or annotate the field with bytes"),
        (Any, bytearray(b"x"), r"\$\.value is bytearray"),
        (dict, {"at": AT}, r"\$\.value\['at'\] is datetime.* or annotate the field with datetime"),
        (Any, Decimal(1), r"\$\.value is Decimal\('1'\), and would arrive as '1'"),
        (Any, Colour.RED, r"\$\.value is <Colour\.RED: 'red'>, and would arrive as 'red'"),
        (Any, Owner("a"), r"\$\.value is a Owner, and would arrive as a dict"),
        (dict, {1: 2}, r"\$\.value is \{1: 2\}, .*; give str as keys, or annotate them, e\.g\. dict\[int, \.\.\.\]"),
        (dict[Any, int], {1: 1, "1": 2}, "give str as keys"),
        (dict[str, int], {1: 2}, "give str as keys"),
        (dict[str, int], {Shade.DARK: 2}, r"the key <Shade.DARK: 'dark'> of \$\.value is <"),
        (set, {AT}, r"; annotate its elements, e\.g\. set\[datetime\]"),
        (set, {Colour.RED}, r"; annotate its elements, e\.g\. set\[Colour\]"),
        (datetime, NOON.replace(tzinfo=LOCAL_MEAN_TIME), "only offsets of whole minutes travel: give it in UTC"),
        (datetime, datetime(1800, 1, 1, tzinfo=ZURICH), "only offsets of whole minutes travel"),
        (datetime, NOON.replace(tzinfo=timezone(timedelta(microseconds=1))), "only offsets of whole minutes travel"),
        (datetime, NOON.replace(tzinfo=NoOffset()), "only offsets of whole minutes travel"),
        (datetime, NOON.replace(tzinfo=BrokenZone()), r"\$\.value, .* cannot be written as JSON: 'no such zone'"),
        (datetime, NOON.replace(fold=1), "loses its fold: give it one, e.g. UTC"),
        (time, time(1, fold=1), "loses its fold"),
        (time, time(1, tzinfo=ZURICH), "only offsets of whole minutes travel"),
        (int, True, r"Expected `int`, got `bool` - at `\$\.value`"),
        (list[int], [1, True], r"Expected `int`, got `bool` - at `\$\.value\[1\]`"),
        (int, "1", r"Expected `int`, got `str` - at `\$\.value`"),
        (int, 1.0, r"Expected `int`, got `float`"),
        (str, 1, r"Expected `str`, got `int`"),
        (str, AT, r"\$\.value is datetime.*, and would arrive as '2026-12-01T06:00:00\.000005Z'; give a str"),
        (str, b"x", r"\$\.value is b'x', and would arrive as 'eA=='"),
        (bytes, "AAAA", r"\$\.value is 'AAAA', and would arrive as b'.*give a bytes, or annotate the field with str"),
        (bytes, bytearray(b"x"), "give a bytes, or annotate"),
        (float, 2**53 + 1, "would arrive as 9007199254740992.0; give a float, or annotate the field with int"),
        (Decimal, 1, r"would arrive as Decimal\('1'\); give a Decimal"),
        (str, Shade.DARK, "is <Shade.DARK: 'dark'>, and would arrive as 'dark'; give a str, or annotate .* Shade"),
        (float, Kelvin(1.5), "Encoding objects of type Kelvin is unsupported; convert it"),
        (dict, OrderedDict(a=1), "is a OrderedDict, and would arrive as a dict; give a plain dict"),
        (dict[str, int], defaultdict(int, a=1), "give a plain dict"),
        (dict[str, int], Counter("a"), "give a plain dict"),
        (tuple[int, float], Point(1, 2.0), "is a Point, and would arrive as a tuple"),
        (list[int], (1, 2), "is a tuple, and would arrive as a list"),
        (Sequence[str], (), "is a tuple, and would arrive as a list"),
        (tuple[int, ...], [1], "is a list, and would arrive as a tuple"),
        (set[int], frozenset({1}), "is a frozenset, and would arrive as a set"),
        (set[float], {2**53 + 1}, "annotate its elements"),
        (Owner, Guest("a"), r"\$\.value is a Guest, and would arrive as a Owner; give a Owner, or annotate .* Guest"),
        (list[Owner], [Owner("a"), Guest("b")], r"\$\.value\[1\] is a Guest, and would arrive as a Owner"),
        (Range, Wider(1), r"\$\.value is a Wider, and would arrive as a Range"),
        (Owner, {"name": "a"}, r"\$\.value is a dict, and would arrive as a Owner"),
        (Options, {"dry_run": True, "more": 1}, r"leave out 'more', which its type does not name"),
        (Measured, Measured(1, unit="km"), r"\$\.value\._unit is 'km', and would arrive as 'm'"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, r"Expected `int` >= 1 - at `\$\.value`"),
        (Annotated[str, msgspec.Meta(pattern="^a")], "b", "matching regex"),
        (msgspec.Raw, msgspec.Raw(b'1,"other":2'), r"\$\.value is <msgspec.Raw"),
        (msgspec.Raw, msgspec.Raw(b"{1"), r"the value at \$\.value, <msgspec.Raw .* is no JSON"),
        (str, "\ud800", r"\$\.value, '\\ud800', cannot .* give it without lone surrogates, or annotate .* bytes"),
        (list[str], ["a", "\udcff"], r"\$\.value\[1\], '\\udcff'"),
        (
            dict[str, Any],
            {"a": {"b": [Path("x")]}},
            r"\$\.value\['a'\]\['b'\]\[0\], \w*Path\('x'\), cannot .*; convert it",
        ),
        (dict, {"a": {None: 1}}, r"\$\.value\['a'\], \{None: 1\}, cannot be written"),
        (Any, 10**5_000, r"\$\.value, a int, cannot be written as JSON: Exceeds the limit"),
        (Any, [Awkward()], r"\$\.value\[0\], a Awkward, cannot be written"),
        (Any, endless, r"\$\.value, .* is nested too deeply or contains itself \(recursion\); make it flat"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_it_is_refused_in_one_line_with_its_path_and_the_mend(kind: Any, value: Any, why: str) -> None:
    task_class = with_field(kind)
    with pytest.raises(MalformedTaskError, match=why) as refused:
        FieldsCodec(task_class).encode(task_class(value))
    assert str(refused.value).startswith("Task: ")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize(
    ("kind", "value", "arrived"),
    [
        (float, 1, 1.0),
        (list[float], [2**53], [2.0**53]),
        (str, Site.CERN, "LCG.CERN.cern"),
        (int, Level.HIGH, 2),
        (dict[str, int], {Site.CERN: 1}, {"LCG.CERN.cern": 1}),
        (Any, [Site.CERN], ["LCG.CERN.cern"]),
        (frozenset[float], frozenset({1, 2.5}), frozenset({1.0, 2.5})),
    ],
)
def test_what_type_checkers_allow_arrives_as_the_equal_value_of_the_type(kind: Any, value: Any, arrived: Any) -> None:
    task_class = with_field(kind)
    codec = FieldsCodec(task_class)
    read = codec.decode(codec.encode(task_class(value))).value
    assert repr(read) == repr(arrived)
    assert read == value


@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_of_a_zone_arrives_with_the_offset_of_that_moment(fold: int) -> None:
    twice = datetime(2026, 10, 25, 2, 30, tzinfo=ZURICH, fold=fold)
    task_class = with_field(datetime)
    codec = FieldsCodec(task_class)
    read = codec.decode(codec.encode(task_class(twice))).value
    assert read.astimezone(UTC) == twice.astimezone(UTC)
    assert read.isoformat() == twice.isoformat()


def with_depth(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_a_value_that_is_too_deep_is_refused_and_never_a_recursion_error() -> None:
    task_class = with_field(dict)
    codec = FieldsCodec(task_class)
    for depth in (100, 300, 470, 900, 2_000, 50_000):
        task, refusal, body = task_class(with_depth(depth)), "", b""
        try:
            body = codec.encode(task)
        except MalformedTaskError as error:
            refusal = str(error)
        if refusal:
            assert "deep" in refusal
            assert depth > 100
        else:
            assert codec.encode(codec.decode(body)) == body
    tree = Tree()
    for _ in range(100_000):
        tree = Tree(1, [tree])
    with pytest.raises(MalformedTaskError, match="deep"):
        FieldsCodec(Tree).encode(tree)


class Huge(Enum):
    LARGE = 2**70


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Huge, "the field value cannot be carried: Integer values"),
        ("1 / 0", "the field value cannot be carried: division by zero; simplify its type"),
        (Annotated[Path, msgspec.Meta(title="a path")], r"the field \$\.value is a \w*Path"),
        (list[Annotated[Path, msgspec.Meta(title="a path")]], r"the field \$\.value is a \w*Path"),
    ],
)
def test_a_type_that_only_looks_as_if_it_could_be_carried_is_refused_when_it_is_defined(kind: Any, why: str) -> None:
    with pytest.raises(TaskDefinitionError, match=why):
        FieldsCodec(with_field(kind))
