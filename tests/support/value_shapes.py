"""Hypothesis strategies: types of fields with the values of each, and values that are nearly of a type."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Optional, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import strategies as st

Values = st.SearchStrategy[Any]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Shade(str, Enum):  # noqa: UP042 - unlike a StrEnum, its text is another one
    DARK = "dark"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Site(StrEnum):
    CERN = "LCG.CERN.cern"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Options(TypedDict, total=False):
    dry_run: bool


class Range(msgspec.Struct, frozen=True):
    low: int
    high: float = 9


class Wider(Range, frozen=True):
    extra: int = 1


class Sparse(msgspec.Struct, omit_defaults=True, rename="camel", tag="sparse"):
    first_one: Any = 1
    rest: list[Any] = []


class Rounded(msgspec.Struct):
    ratio: float

    def __post_init__(self) -> None:
        self.ratio = round(self.ratio, 2)


@dataclass
class Owner:
    name: str
    ratio: float | None = None


@dataclass(slots=True)
class Guest(Owner):
    until: date | None = None


@dataclass(frozen=True, kw_only=True)
class Sealed:
    owner: Owner | None = None
    count: int = field(init=False, default=0)


@dataclass
class Rooted:
    """Each time it is built, its path gets longer."""

    path: str

    def __post_init__(self) -> None:
        self.path = f"/{self.path}"


@dataclass
class Folded:
    """To build it again changes nothing."""

    text: str
    length: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.text = self.text.casefold()
        self.length = len(self.text)


@dataclass
class Tree:
    value: float | None = None
    children: list[Tree] = field(default_factory=list)


texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
in_utc = st.just(UTC)
whole_minutes = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
zones = st.sampled_from(["Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Africa/Monrovia"]).map(ZoneInfo)
odd_offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
modern = partial(st.datetimes, min_value=datetime(1975, 1, 1))  # noqa: DTZ001 - bounds of local times
json_values: Values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
owners: Values = st.builds(Owner, texts, st.none() | numbers)
trees: Values = st.recursive(
    st.builds(Tree, st.none() | numbers),
    lambda inner: st.builds(Tree, numbers, st.lists(inner, max_size=2)),
    max_leaves=4,
)


def unfolded(moment: Any) -> Any:
    return moment.replace(fold=0)


# Types whose values can be members of a set, and the values that are carried exactly.
HASHABLE: list[tuple[Any, Values]] = [
    (int, st.integers()),
    (float, numbers),
    (str, texts),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=8)),
    (date, st.dates()),
    (datetime, st.datetimes().map(unfolded) | st.datetimes(timezones=in_utc | whole_minutes) | modern(timezones=zones)),
    (time, st.times().map(unfolded) | st.times(timezones=in_utc | whole_minutes)),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False)),
    (Colour, st.sampled_from(Colour)),
    (Shade, st.sampled_from(Shade)),
    (Level, st.sampled_from(Level)),
    (Site, st.sampled_from(Site)),
    (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    (Annotated[int, msgspec.Meta(ge=1, lt=100)], st.integers(1, 99)),
    (
        Annotated[str, msgspec.Meta(min_length=1, max_length=3)],
        st.text(st.characters(codec="ascii"), min_size=1, max_size=3),
    ),
    (Annotated[float, msgspec.Meta(multiple_of=0.5, title="halves")], st.integers(-9, 9).map(lambda n: n / 2)),
    (Range, st.builds(Range, st.integers(), numbers)),
    (Point, st.builds(Point, st.integers(), numbers)),
]
OTHERS: list[tuple[Any, Values]] = [
    (Any, json_values),
    (dict, st.dictionaries(texts, json_values, max_size=3)),
    (list, st.lists(json_values, max_size=3)),
    (None, st.none()),
    (bytearray, st.binary(max_size=4).map(bytearray)),
    (memoryview, st.binary(max_size=4).map(memoryview)),
    (Rights, st.sampled_from([Rights.READ, Rights.READ | Rights.WRITE])),
    (Options, st.sampled_from([{}, {"dry_run": True}])),
    (Owner, owners),
    (Guest, st.builds(Guest, texts, numbers, st.dates())),
    (Sealed, st.builds(Sealed, owner=st.none() | owners)),
    (Folded, st.builds(Folded, texts)),
    (Rounded, st.builds(Rounded, st.integers(0, 9).map(float))),
    (Sparse, st.builds(Sparse, json_values, st.lists(json_values, max_size=2))),
    (Tree, trees),
    (Decimal, st.decimals()),
]


class Awkward:
    """It compares as an array does, and has no text."""

    def __eq__(self, other: object) -> Any:
        return [True, False]

    def __repr__(self) -> str:
        raise RuntimeError("it has no text")

    __hash__ = object.__hash__


class NoOffset(tzinfo):
    def utcoffset(self, moment: object) -> None: ...

    def dst(self, moment: object) -> None: ...

    def tzname(self, moment: object) -> None: ...


class BrokenZone(NoOffset):
    def utcoffset(self, moment: object) -> None:
        raise KeyError("no such zone")


endless: list[Any] = []
endless.append(endless)


def _wrong(kind: Any, value: Any) -> Any:
    return kind(value)


# What types that are near, mistakes, and subclasses bring.
_ODD: Final[list[Any]] = [
    math.nan, -math.inf, -0.0, 0, 1, 1.0, True, 2**53 + 1, -(2**53) - 1, 2**64, 10**30, 10**5_000, 1j,
    "", "1", "\0", "\ud800", "nan", "AAAA", "2020-01-01", b"x", bytearray(b"x"), memoryview(b"x"),
    (), (1, "a"), [1], {1}, {1.0}, {True}, frozenset({1}), {1: 2}, {"a": {1: 2}}, {math.nan: 1}, {True: 1}, {None: 1},
    {(1,): 2}, {b"a": 1}, {Level.LOW: 1}, {Shade.DARK: 1}, {"\ud800": 1}, {1: 1, "1": 2}, {"a": math.inf},
    {"dry_run": True, "more": 1}, OrderedDict(a=1), defaultdict(int, a=1), Counter("a"),
    Point(1), _wrong(Point, "x"), Range(1), Wider(1), Guest("a"), Owner("a"), _wrong(Owner, 1), Sparse(True),
    Rooted("a"), Folded("A"),
    Rounded(0.123), Tree(1, [Tree(math.nan)]), Colour, Colour.RED, Shade.DARK, Level.LOW, Site.CERN, Rights.READ,
    datetime(2020, 1, 1, fold=1),  # noqa: DTZ001
    datetime(2020, 1, 1, tzinfo=NoOffset()), datetime(2020, 1, 1, tzinfo=BrokenZone()),
    datetime(1800, 1, 1, tzinfo=ZoneInfo("Europe/Zurich")), time(1, fold=1), time(1, tzinfo=ZoneInfo("Europe/Zurich")),
    date(2020, 1, 1), timedelta.max, timedelta.min, Decimal("sNaN"), Decimal("1.00"), Decimal(1), UUID(int=1),
    msgspec.UNSET, msgspec.Raw(b"1,2"), msgspec.Raw(b" {"), object(), Awkward(), [Awkward()], endless, Path("a"), int,
]  # fmt: skip
# By index: a strategy of the values themselves cannot be printed.
ODD_VALUES: Values = st.integers(0, len(_ODD) - 1).map(lambda index: _ODD[index])
OFFSETS: Values = st.datetimes(timezones=odd_offsets) | st.times(timezones=odd_offsets)


def _grown(inner: tuple[Any, Values]) -> st.SearchStrategy[tuple[Any, Values]]:
    """Types that contain a type, with their values."""
    kind, values = inner
    some = st.lists(values, max_size=3)
    keyed = {str: texts, int: st.integers(), UUID: st.uuids(), Level: st.sampled_from(Level), float: numbers}
    nested = dataclasses.make_dataclass("Nested", [("item", kind), ("number", int, 0)], slots=True)
    return st.sampled_from(
        [
            (list[kind], some),  # type: ignore[valid-type]
            (Sequence[kind], some),  # type: ignore[valid-type]
            (tuple[kind, ...], some.map(tuple)),  # type: ignore[valid-type]
            (tuple[int, kind], st.tuples(st.integers(), values)),  # type: ignore[valid-type]
            (Annotated[list[kind], msgspec.Meta(max_length=3)], some),  # type: ignore[valid-type]
            (Optional[kind], st.none() | values),  # noqa: UP045 - the type may be None
            (nested, st.builds(nested, values)),
            *((dict[key, kind], st.dictionaries(keys, values, max_size=3)) for key, keys in keyed.items()),  # type: ignore[valid-type]
        ]
    )


def _in_sets(inner: tuple[Any, Values]) -> st.SearchStrategy[tuple[Any, Values]]:
    kind, values = inner
    some = st.lists(values, max_size=3)
    return st.sampled_from([(set[kind], _set_of(some, set)), (frozenset[kind], _set_of(some, frozenset))])  # type: ignore[valid-type]


def _set_of(some: Values, kind: type) -> Values:
    def made(items: list[Any]) -> Any:
        try:
            return kind(items)
        except Exception:  # one of them has no hash
            return kind()

    return some.map(made)


def _types(more: Values) -> st.SearchStrategy[tuple[Any, Values]]:
    def also(kinds: list[tuple[Any, Values]]) -> st.SearchStrategy[tuple[Any, Values]]:
        return st.sampled_from([(kind, values | more) for kind, values in kinds])

    unions = st.sampled_from(
        [(int | str, st.integers() | texts | more), (int | float | None, st.integers() | numbers | more),
         (Decimal | float, numbers | st.decimals() | more), (Literal["a"] | int, st.just("a") | st.integers() | more),
         (list[int] | dict[str, int] | bool, st.lists(st.integers(), max_size=2) | st.booleans() | more)]
    )  # fmt: skip
    return st.recursive(
        also(HASHABLE) | also(OTHERS) | unions | also(HASHABLE).flatmap(_in_sets),
        lambda inner: inner.flatmap(_grown),
        max_leaves=4,
    )


@st.composite
def _tasks(draw: st.DrawFn, types: st.SearchStrategy[tuple[Any, Values]]) -> Any:
    fields = draw(st.lists(types, min_size=1, max_size=3))
    options: dict[str, Any] = draw(st.sampled_from([{}, {"slots": True}, {"frozen": True}, {"kw_only": True}]))
    names = [(f"field_{index}", kind) for index, (kind, _) in enumerate(fields)]
    task_class: Any = dataclasses.make_dataclass("Task", names, **options)
    return task_class(**{name: draw(values) for (name, _), (_, values) in zip(names, fields, strict=True)})


tasks_of_exact_values: Values = _tasks(_types(st.nothing()))
"""Dataclasses, and values of their fields that JSON carries."""
tasks_of_any_values: Values = _tasks(_types(ODD_VALUES | OFFSETS | json_values))
"""Dataclasses, and values of which many do not fit their fields or change on the way."""


def arrives_as(given: Any, read: Any) -> bool:
    """Whether a value was read exactly, types included; only what the authors' page names may differ."""
    if type(given) is not type(read):
        as_float = type(given) is int and type(read) is float
        return (as_float or isinstance(given, (StrEnum, IntEnum))) and type(read) in (float, str, int) and given == read
    if isinstance(given, (list, tuple)):
        return len(given) == len(read) and all(map(arrives_as, given, read))
    if isinstance(given, dict):
        return arrives_as(list(given.items()), list(read.items()))
    if isinstance(given, (set, frozenset)):
        return len(given) == len(read) and all(any(arrives_as(each, other) for other in read) for each in given)
    if dataclasses.is_dataclass(given):
        names = [each.name for each in dataclasses.fields(given)]
    elif isinstance(given, msgspec.Struct):
        names = list(given.__struct_fields__)
    elif isinstance(given, (datetime, time)):
        return (given.isoformat(), given.tzinfo is None and given.fold) == (
            read.isoformat(),
            read.tzinfo is None and read.fold,
        )
    elif isinstance(given, (msgspec.Raw, memoryview)):
        return bytes(given) == bytes(read)
    else:
        return repr(given) == repr(read)
    return all(arrives_as(getattr(given, name), getattr(read, name)) for name in names)
